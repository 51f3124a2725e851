package crypt

import (
	"crypto/ecdh"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"math"

	"golang.org/x/crypto/poly1305" //lint:ignore SA1019 the MAC of these boxes; no other kept package computes it piece by piece
)

// MaxPlaintext is the longest plaintext that a Sealer takes, in bytes.
const MaxPlaintext = math.MaxInt64 - Overhead

// Errors of streams.
var (
	// ErrChanged says that the bytes under a stream changed after they were
	// authenticated: what came of them so far must not be used.
	ErrChanged = errors.New("the data changed while it was read")

	// ErrSize says that a length is negative or beyond MaxPlaintext.
	ErrSize = errors.New("not a size that can be sealed")

	// ErrSpent says that a Sealer was asked to write a second time.
	ErrSpent = errors.New("a sealer writes once")
)

// chunkSize is how much of a stream is in memory at a time.
const chunkSize = 64 << 10

// A Sealer seals data too long for memory. The tag of a box stands before its
// ciphertext, so the source is read twice: NewSealer computes the tag, WriteTo
// encrypts again.
type Sealer struct {
	src    io.ReaderAt
	size   int64
	header [Overhead]byte // ephemeral key, tag
	stream *xsalsa20      // nil once spent
}

// NewSealer reads size bytes of src and returns what will seal them to the owner
// of to. The error wraps ErrPublicKey, ErrSize or src's own;
// io.ErrUnexpectedEOF when src is shorter.
func NewSealer(src io.ReaderAt, size int64, to PublicKey) (*Sealer, error) {
	r, err := NewRecipient(to)
	if err != nil {
		return nil, err
	}
	ephemeral, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making an ephemeral key: %w", err)
	}
	return newSealer(src, size, r, ephemeral)
}

func newSealer(src io.ReaderAt, size int64, to *Recipient, ephemeral *ecdh.PrivateKey) (*Sealer, error) {
	if size < 0 || size > MaxPlaintext {
		return nil, fmt.Errorf("%w: %d bytes", ErrSize, size)
	}
	k, err := agree(ephemeral, to.key)
	if err != nil {
		return nil, err
	}
	defer k.wipe()
	s := &Sealer{src: src, size: size}
	public := ephemeral.PublicKey().Bytes()
	copy(s.header[:], public)
	s.stream = newXSalsa20(k, boxNonce(public, to.x25519[:]))
	err = s.encrypt(func(_, tag []byte) error {
		copy(s.header[ephemeralSize:], tag)
		return nil
	})
	if err != nil {
		s.spend()
		return nil, fmt.Errorf("reading what is to be sealed: %w", err)
	}
	return s, nil
}

// Size returns the length of the box in bytes.
func (s *Sealer) Size() int64 { return s.size + Overhead }

// WriteTo writes the box. When the source no longer holds what NewSealer read it
// returns ErrChanged, and holds the last part back, so that what was written is
// never a whole box. It works once, then returns ErrSpent: a source that changed
// would be encrypted under one key stream twice, which gives both texts away.
func (s *Sealer) WriteTo(w io.Writer) (int64, error) {
	if s.stream == nil {
		return 0, ErrSpent
	}
	defer s.spend()
	return s.write(w)
}

// Sum returns the SHA-256 of the box that WriteTo will write, for which it reads the
// source once more. It may be called before WriteTo alone: a digest of a second text
// under the key stream gives nothing away, and of a source that changed there is none,
// but ErrChanged.
func (s *Sealer) Sum() (sum [sha256.Size]byte, err error) {
	if s.stream == nil {
		return sum, ErrSpent
	}
	h := sha256.New()
	if _, err := s.write(h); err != nil {
		s.spend()
		return sum, err
	}
	h.Sum(sum[:0])
	return sum, nil
}

func (s *Sealer) write(w io.Writer) (int64, error) {
	n, err := w.Write(s.header[:])
	written := int64(n)
	if err != nil {
		return written, err
	}
	err = s.encrypt(func(ciphertext, tag []byte) error {
		if tag != nil && subtle.ConstantTimeCompare(tag, s.header[ephemeralSize:]) != 1 {
			return ErrChanged
		}
		n, err := w.Write(ciphertext)
		written += int64(n)
		return err
	})
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = ErrChanged // the source was long enough the first time
	}
	return written, err
}

func (s *Sealer) spend() {
	s.stream.wipe()
	s.stream = nil
}

// encrypt makes one pass over the source and calls emit with every chunk of
// ciphertext, there being at least an empty one, and with the tag when the chunk is
// the last.
func (s *Sealer) encrypt(emit func(ciphertext, tag []byte) error) error {
	mac := s.stream.mac()
	buf := make([]byte, min(s.size, chunkSize))
	defer clear(buf)
	for off := int64(0); ; off += chunkSize {
		chunk := buf[:min(s.size-off, chunkSize)]
		if err := readFullAt(s.src, chunk, off); err != nil {
			return err
		}
		s.stream.xorAt(chunk, off)
		_, _ = mac.Write(chunk)
		if s.size-off <= chunkSize {
			return emit(chunk, mac.Sum(nil))
		}
		if err := emit(chunk, nil); err != nil {
			return err
		}
	}
}

// A Plaintext reads what is inside of a verified box.
//
// Read goes through it from the start and checks the box once more on the way: it
// returns ErrChanged in place of io.EOF when the box is not the verified one any
// longer. ReadAt checks nothing, since no part of a box can be checked alone; use
// it where nobody else can write. Read is not safe for concurrent use, ReadAt is.
type Plaintext struct {
	box    io.ReaderAt
	size   int64
	stream *xsalsa20
	tag    [tagSize]byte

	off int64         // of Read
	mac *poly1305.MAC // over the ciphertext up to off
}

// OpenAt verifies the whole box, size bytes long, before it returns a reader of
// what is sealed in it. Memory stays constant. It returns ErrOpen when the box was
// not sealed to this key or is not whole, and box's own error when it cannot be
// read.
func (k *PrivateKey) OpenAt(box io.ReaderAt, size int64) (*Plaintext, error) {
	s := k.material()
	if size < Overhead {
		return nil, ErrOpen
	}
	var header [Overhead]byte
	if err := readFullAt(box, header[:], 0); err != nil {
		return nil, openError(err)
	}
	key, nonce, err := s.agreeOn(header[:ephemeralSize])
	if err != nil {
		return nil, err
	}
	defer key.wipe()
	p := &Plaintext{box: box, size: size - Overhead, stream: newXSalsa20(key, nonce)}
	copy(p.tag[:], header[ephemeralSize:])
	p.mac = p.stream.mac()
	n, err := io.Copy(p.mac, io.NewSectionReader(box, Overhead, p.size))
	if err != nil {
		p.stream.wipe()
		return nil, openError(err)
	}
	if n != p.size || !p.mac.Verify(p.tag[:]) {
		p.stream.wipe()
		return nil, ErrOpen
	}
	p.mac = p.stream.mac()
	return p, nil
}

// openError turns the end of a box that is shorter than it should be into ErrOpen.
func openError(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return ErrOpen
	}
	return fmt.Errorf("reading a sealed box: %w", err)
}

// Size returns the length of the plaintext in bytes.
func (p *Plaintext) Size() int64 { return p.size }

// Read reads on from where the last Read ended.
func (p *Plaintext) Read(b []byte) (int, error) {
	if p.off == p.size {
		if !p.mac.Verify(p.tag[:]) {
			return 0, ErrChanged
		}
		return 0, io.EOF
	}
	n, err := p.ciphertextAt(b, p.off)
	_, _ = p.mac.Write(b[:n])
	p.stream.xorAt(b[:n], p.off)
	p.off += int64(n)
	if err == io.EOF {
		err = nil // said by the next Read, which knows whether it is the right one
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = ErrChanged
	}
	return n, err
}

// ReadAt implements io.ReaderAt over the plaintext.
func (p *Plaintext) ReadAt(b []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("reading a sealed box: %w", errOffset)
	}
	n, err := p.ciphertextAt(b, off)
	p.stream.xorAt(b[:n], off)
	return n, err
}

var errOffset = errors.New("negative offset")

// ciphertextAt reads as io.ReaderAt demands; io.ErrUnexpectedEOF says that the box
// became shorter.
func (p *Plaintext) ciphertextAt(b []byte, off int64) (int, error) {
	if off >= p.size {
		return 0, io.EOF
	}
	want := b[:min(int64(len(b)), p.size-off)]
	n, err := p.box.ReadAt(want, Overhead+off)
	switch {
	case n == len(want) && len(want) < len(b):
		return n, io.EOF
	case n == len(want):
		return n, nil
	case err == io.EOF:
		return n, io.ErrUnexpectedEOF
	}
	return n, err
}

// readFullAt fills b; io.ErrUnexpectedEOF says that r ends before that.
func readFullAt(r io.ReaderAt, b []byte, off int64) error {
	n, err := r.ReadAt(b, off)
	if n == len(b) {
		return nil
	}
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
