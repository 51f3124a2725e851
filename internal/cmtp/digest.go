package cmtp

import (
	"crypto/sha256"
	"encoding/binary"
	"hash"
)

// A Sum is what the core digest covers of a body or an attachment as sent.
type Sum struct {
	Length int64 // bytes
	SHA256 [sha256.Size]byte
}

// CoreDigest returns the core digest of a message with this envelope and these parts,
// which need not have been written yet (protocol.md section 6.4).
func CoreDigest(h Header, body Sum, attachments []Sum) [32]byte {
	h.BodyLength, h.Attachments = uint64(body.Length), uint32(len(attachments))
	d := newCoreDigest(h.Append(nil))
	d.outer.Write(body.SHA256[:])
	for _, a := range attachments {
		d.outer.Write(append(binary.BigEndian.AppendUint64(d.buf[:0], uint64(a.Length)), a.SHA256[:]...))
	}
	return d.sum()
}

// coreLabel begins what the core digest covers (protocol.md section 6.4).
var coreLabel = []byte("CMTP-1 core\x00")

// A coreDigest computes a message's core digest as its parts go by: SHA-256
// over the label, version, attachment count, body length, the four names as
// sent, the body's SHA-256, and each attachment's length and SHA-256.
type coreDigest struct {
	outer hash.Hash
	part  hash.Hash
	buf   [8 + sha256.Size]byte // an attachment's length and hash
}

// newCoreDigest begins with a header as it stands on the wire, of which all but
// the log's length is covered.
func newCoreDigest(header []byte) coreDigest {
	d := coreDigest{outer: sha256.New(), part: sha256.New()}
	d.outer.Write(coreLabel)
	d.outer.Write(header[:8])
	d.outer.Write(header[16:])
	return d
}

func (d *coreDigest) write(p []byte) { d.part.Write(p) }

func (d *coreDigest) endBody() {
	d.outer.Write(d.part.Sum(d.buf[:0]))
	d.part.Reset()
}

func (d *coreDigest) endAttachment(length uint64) {
	d.outer.Write(d.part.Sum(binary.BigEndian.AppendUint64(d.buf[:0], length)))
	d.part.Reset()
}

func (d *coreDigest) sum() (sum [32]byte) {
	d.outer.Sum(sum[:0])
	return sum
}
