package spool

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"

	"cmtpd/internal/durable"
)

// scanner reads a segment's records one after the other. It holds at most one
// record and the buffer's size in memory.
type scanner struct {
	file       durable.File
	size       int64 // of the segment when the scan began
	generation uint64
	offset     int64 // of the next record
	buf        []byte
	base       int64 // offset of buf[0]
	// swap, if set, takes a buffer that is to be filled again, and returns another or nil.
	swap func([]byte) []byte
}

const scanBuffer = 1 << 20

// scanned is a record, or bytes between records that are none.
type scanned struct {
	frame
	offset  int64
	length  int64
	skipped bool              // no record: frame is empty
	damaged bool              // the data does not agree with its CRC
	sum     [sha256.Size]byte // of a message's data, from a prover
}

// next returns the next record, valid until the call after. io.EOF comes at the
// segment's end; any other error is the disk's.
func (s *scanner) next() (scanned, error) {
	if s.offset >= s.size {
		return scanned{}, io.EOF
	}
	r, err := s.record()
	if !errors.Is(err, errFrame) && !errors.Is(err, errShort) {
		return r, err
	}
	end, err := s.resync(s.offset + 1)
	if err != nil {
		return scanned{}, err
	}
	if end < s.size {
		// A writer beside us may have filled the room that we saw, and gone on: then the room
		// is full by now. The buffer goes on to who has records in it.
		s.base = s.size
		if r, err := s.record(); !errors.Is(err, errFrame) && !errors.Is(err, errShort) {
			return r, err
		}
	}
	r = scanned{offset: s.offset, length: end - s.offset, skipped: true}
	s.offset = end
	return r, nil
}

// record returns the record that begins at the offset.
func (s *scanner) record() (scanned, error) {
	f, n, err := s.parse(s.offset)
	if err != nil && !errors.Is(err, errData) {
		return scanned{}, err
	}
	r := scanned{frame: f, offset: s.offset, length: int64(n), damaged: err != nil}
	s.offset += r.length
	return r, nil
}

// parse reads the record at offset, whose bytes it brings into the buffer.
func (s *scanner) parse(offset int64) (f frame, n int, err error) {
	need := int64(frameSize)
	for {
		if offset+need > s.size {
			return f, 0, errShort
		}
		b, err := s.view(offset, need)
		if err != nil {
			return f, 0, err
		}
		f, n, err = parseFrame(b, s.generation)
		if err == nil || !errors.Is(err, errShort) {
			return f, n, err
		}
		need = int64(n)
	}
}

// resync returns where the next record after from begins, or the segment's end.
// The generation, random and 8 bytes from a record's start, marks the candidates.
func (s *scanner) resync(from int64) (int64, error) {
	const mark = 8
	want := binary.BigEndian.AppendUint64(nil, s.generation)
	for from+frameSize <= s.size {
		b, err := s.view(from+mark, int64(len(want)))
		if errors.Is(err, errShort) {
			return s.size, nil
		}
		if err != nil {
			return 0, err
		}
		i := bytes.Index(b, want)
		if i < 0 {
			from += int64(len(b) - len(want) + 1)
			continue
		}
		from += int64(i)
		_, _, err = s.parse(from)
		if err == nil || errors.Is(err, errData) {
			return from, nil
		}
		if !errors.Is(err, errFrame) && !errors.Is(err, errShort) {
			return 0, err
		}
		from++
	}
	return s.size, nil
}

// view returns the segment's bytes from offset on: at least need, which must lie
// within it, and as many more as the buffer has.
func (s *scanner) view(offset, need int64) ([]byte, error) {
	if offset >= s.base && offset+need <= s.base+int64(len(s.buf)) {
		return s.buf[offset-s.base:], nil
	}
	if s.swap != nil && len(s.buf) > 0 {
		s.buf = s.swap(s.buf)
	}
	want := min(max(need, scanBuffer), s.size-offset)
	if int64(cap(s.buf)) < want {
		s.buf = make([]byte, want)
	}
	s.buf, s.base = s.buf[:want], offset
	n, err := s.file.ReadAt(s.buf, offset)
	if int64(n) < need {
		s.buf = s.buf[:0]
		if err == io.EOF {
			// A writer beside us cut its torn tail meanwhile.
			return nil, errShort
		}
		return nil, err
	}
	s.buf = s.buf[:n]
	return s.buf, nil
}
