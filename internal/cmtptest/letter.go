package cmtptest

import (
	"crypto/sha256"
	"io"
	"math/rand/v2"

	"cmtpd/internal/cmtp"
)

// Noise is a message's part of random bytes, which a server cannot tell from a
// sealed one. It is made anew each time that it is written, and never in memory
// as a whole.
type Noise struct {
	Seed   uint64
	Length int64
}

// noiseBlock is how much of a Noise repeats itself, but for a random stretch at the
// beginning of each block: faster to make than a server can take it.
const noiseBlock = 64 << 10

// Size implements cmtp.Part.
func (n Noise) Size() int64 { return n.Length }

// WriteTo implements cmtp.Part.
func (n Noise) WriteTo(w io.Writer) (written int64, err error) {
	var seed [32]byte
	for i := range 8 {
		seed[i] = byte(n.Seed >> (8 * i))
	}
	src := rand.NewChaCha8(seed)
	block := make([]byte, min(n.Length, noiseBlock))
	src.Read(block)
	for written < n.Length {
		part := block[:min(n.Length-written, noiseBlock)]
		k, err := w.Write(part)
		written += int64(k)
		if err != nil {
			return written, err
		}
		src.Read(block[:min(len(block), 64)])
	}
	return written, nil
}

// A Letter is a message that only looks sealed, from a stranger to an account of
// Domain.
type Letter struct {
	To    string // account
	Parts []Noise
}

// Header returns the message's header, its lengths included.
func (l *Letter) Header() cmtp.Header {
	return cmtp.Header{
		System: cmtp.SystemSealed, Attachments: uint32(len(l.Parts) - 1), LogLength: 1, BodyLength: uint64(l.Parts[0].Length),
		DestinationAccount: l.To, DestinationDomain: Domain, SourceAccount: "stranger", SourceDomain: "example.net",
	}
}

func (l *Letter) parts() (body cmtp.Part, attachments []cmtp.Part) {
	for _, p := range l.Parts[1:] {
		attachments = append(attachments, p)
	}
	return l.Parts[0], attachments
}

// Size returns the message's length on the wire in bytes.
func (l *Letter) Size() int64 {
	body, attachments := l.parts()
	return cmtp.MessageSize(l.Header(), nil, body, attachments)
}

// WriteTo writes the message in the form of the wire.
func (l *Letter) WriteTo(w io.Writer) (int64, error) {
	body, attachments := l.parts()
	return l.Size(), cmtp.WriteMessage(w, l.Header(), nil, body, attachments)
}

// Sum returns SHA-256 of the message in the form of the wire.
func (l *Letter) Sum() (sum [32]byte) {
	h := sha256.New()
	l.WriteTo(h) // a hash takes everything
	h.Sum(sum[:0])
	return sum
}
