package spool

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"cmtpd/internal/crypt"
)

// Limits and sizes in bytes of docs/spool.md.
const (
	headerSize = 128
	frameSize  = 24
	maxData    = 4 << 20
	maxRecords = 65536   // in a batch
	maxNumber  = 1 << 62 // of anything that is counted but commits
	maxCommit  = 1<<46 - 1
	maxClaim   = 1 << 32 // commits that a segment's header alone can say are missing
)

var segmentMagic = [8]byte{'C', 'M', 'T', 'P', 'S', 'P', 'L', '1'}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// kind says what a record is (docs/spool.md, Records). Those that are not named
// here are passed over; 7 and 8 are kept for filler and end.
type kind byte

const (
	kindCommit  kind = 1
	kindKeys    kind = 2
	kindMessage kind = 3
	kindLarge   kind = 4
	kindRemoval kind = 5
	kindMark    kind = 6
	kindRepair  kind = 9
)

// flagGone marks a message that was removed and has no data any more.
const flagGone = 1

// Errors of the parsers in this file and in records.go.
var (
	errShort  = errors.New("the bytes end within the record")
	errFrame  = errors.New("not a record")
	errData   = errors.New("the record's data is damaged")
	errHead   = errors.New("the record's head is malformed")
	errHeader = errors.New("not a segment header")
)

// frame is one record as it stands in a segment. The slices are views.
type frame struct {
	kind  kind
	flags byte
	head  []byte
	data  []byte
}

// leaf is what a commit lists of a record. It leaves the data out, which the head
// vouches for.
func leaf(k kind, head []byte) [32]byte {
	var buf [512]byte
	b := append(buf[:0], byte(k))
	b = binary.BigEndian.AppendUint16(b, uint16(len(head)))
	return sha256.Sum256(append(b, head...))
}

// appendFrame appends a record up to its data, of which it needs no more than
// length and CRC. The caller appends the data itself.
func appendFrame(dst []byte, generation uint64, k kind, flags byte, head []byte, dataLen int, dataCRC uint32) []byte {
	start := len(dst)
	dst = append(dst, 0, 0, 0, 0, byte(k), flags)
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(head)))
	dst = binary.BigEndian.AppendUint64(dst, generation)
	dst = binary.BigEndian.AppendUint32(dst, uint32(dataLen))
	dst = binary.BigEndian.AppendUint32(dst, dataCRC)
	dst = append(dst, head...)
	binary.BigEndian.PutUint32(dst[start:], crc32.Checksum(dst[start+4:], castagnoli))
	return dst
}

// parseFrame reads the record that b begins with. errShort comes with the number
// of bytes that b would need, errFrame with 0, and errData, like success, with
// the record's length.
func parseFrame(b []byte, generation uint64) (f frame, n int, err error) {
	f, n, err = parseFrameHead(b, generation)
	if err != nil {
		return f, n, err
	}
	if len(b) < n {
		return f, n, errShort
	}
	start := frameSize + len(f.head)
	f.data = b[start:n:n]
	if crc32.Checksum(f.data, castagnoli) != binary.BigEndian.Uint32(b[20:]) {
		return f, n, errData
	}
	return f, n, nil
}

// parseFrameHead is parseFrame for as much as comes before the data.
func parseFrameHead(b []byte, generation uint64) (f frame, n int, err error) {
	if len(b) < frameSize {
		return f, frameSize, errShort
	}
	h := frameSize + int(binary.BigEndian.Uint16(b[6:]))
	d := binary.BigEndian.Uint32(b[16:])
	if b[4] == 0 || d > maxData || binary.BigEndian.Uint64(b[8:]) != generation {
		return f, 0, errFrame
	}
	if k := kind(b[4]); b[5] != 0 && (b[5] != flagGone || d != 0 || (k != kindMessage && k != kindLarge)) {
		return f, 0, errFrame
	}
	if len(b) < h {
		return f, h, errShort
	}
	if crc32.Checksum(b[4:h], castagnoli) != binary.BigEndian.Uint32(b) {
		return f, 0, errFrame
	}
	return frame{kind: kind(b[4]), flags: b[5], head: b[frameSize:h:h]}, h + int(d), nil
}

// header begins a segment (docs/spool.md, Segments).
type header struct {
	sequence   uint64
	last       uint64 // sequence, or that of the last segment that was merged into this
	generation uint64
	before     Head
	key        crypt.PublicKey
}

func newGeneration() uint64 {
	for {
		var b [8]byte
		rand.Read(b[:])
		if g := binary.BigEndian.Uint64(b[:]); g != 0 {
			return g
		}
	}
}

func (h *header) append(dst []byte) []byte {
	start := len(dst)
	dst = append(dst, segmentMagic[:]...)
	dst = binary.BigEndian.AppendUint64(dst, h.sequence)
	dst = binary.BigEndian.AppendUint64(dst, h.last)
	dst = binary.BigEndian.AppendUint64(dst, h.generation)
	dst = binary.BigEndian.AppendUint64(dst, h.before.Number)
	dst = append(dst, h.before.Hash[:]...)
	dst = append(dst, h.key[:]...)
	dst = append(dst, make([]byte, 20)...)
	return binary.BigEndian.AppendUint32(dst, crc32.Checksum(dst[start:], castagnoli))
}

func parseHeader(b []byte) (h header, err error) {
	if len(b) < headerSize || [8]byte(b[:8]) != segmentMagic ||
		crc32.Checksum(b[:124], castagnoli) != binary.BigEndian.Uint32(b[124:]) ||
		[20]byte(b[104:124]) != [20]byte{} {
		return h, errHeader
	}
	h.sequence = binary.BigEndian.Uint64(b[8:])
	h.last = binary.BigEndian.Uint64(b[16:])
	h.generation = binary.BigEndian.Uint64(b[24:])
	h.before.Number = binary.BigEndian.Uint64(b[32:])
	h.before.Hash = [32]byte(b[40:72])
	h.key = crypt.PublicKey(b[72:104])
	if h.sequence == 0 || h.last > maxNumber || h.last < h.sequence || h.generation == 0 || h.before.Number > maxCommit {
		return h, fmt.Errorf("%w: impossible numbers", errHeader)
	}
	return h, nil
}
