package crypt

import (
	"crypto/ecdh"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/crypto/blake2b"
	"golang.org/x/crypto/nacl/box"
)

// A sealed box, the output of libsodium's crypto_box_seal:
//
//	ephemeral X25519 public key  32
//	Poly1305 tag                 16
//	XSalsa20 ciphertext          as long as the plaintext
const (
	ephemeralSize = 32
	tagSize       = 16

	// Overhead is how many bytes a box is longer than its plaintext.
	Overhead = ephemeralSize + tagSize
)

// ErrOpen says that a box was not sealed to this key, or was altered or cut since.
var ErrOpen = errors.New("the sealed box does not open with this key")

// A Recipient is a public key made ready for sealing. Mapping a key to X25519 and
// checking it costs about a third of sealing a small message; whoever seals several
// parts to one key does it once. It is safe for concurrent use.
type Recipient struct {
	x25519 [32]byte
	key    *ecdh.PublicKey
}

// NewRecipient returns the recipient that owns pk. It wraps ErrPublicKey when
// libsodium's crypto_sign_ed25519_pk_to_curve25519 refuses the key.
func NewRecipient(pk PublicKey) (*Recipient, error) {
	u, err := toX25519(pk)
	if err != nil {
		return nil, err
	}
	key, err := ecdh.X25519().NewPublicKey(u[:])
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrPublicKey, err)
	}
	return &Recipient{u, key}, nil
}

// Seal appends to dst the plaintext sealed to the owner of a key; the box is
// Overhead bytes longer than the plaintext and must not overlap it. Nothing in it
// says who sealed it. The error wraps ErrPublicKey.
func Seal(dst, plaintext []byte, to PublicKey) ([]byte, error) {
	r, err := NewRecipient(to)
	if err != nil {
		return nil, err
	}
	return r.Seal(dst, plaintext)
}

// Seal appends the plaintext sealed to r, as the function Seal does.
func (r *Recipient) Seal(dst, plaintext []byte) ([]byte, error) { return seal(dst, plaintext, r) }

// Open appends to dst what was sealed in box, which must not overlap. It returns
// ErrOpen, and nothing of the plaintext, when the box is not whole.
func (k *PrivateKey) Open(dst, box []byte) ([]byte, error) {
	s := k.material()
	if len(box) < Overhead {
		return nil, ErrOpen
	}
	return open(dst, box, s)
}

func pureSeal(dst, plaintext []byte, to *Recipient) ([]byte, error) {
	ephemeral, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making an ephemeral key: %w", err)
	}
	return sealWith(dst, plaintext, to, ephemeral)
}

// sealWith seals under a given ephemeral key, which is used once and never again.
func sealWith(dst, plaintext []byte, to *Recipient, ephemeral *ecdh.PrivateKey) ([]byte, error) {
	k, err := agree(ephemeral, to.key)
	if err != nil {
		return nil, err
	}
	defer k.wipe()
	public := ephemeral.PublicKey().Bytes()
	nonce := boxNonce(public, to.x25519[:])
	dst = slices.Grow(dst, Overhead+len(plaintext))
	return box.SealAfterPrecomputation(append(dst, public...), plaintext, &nonce, (*[32]byte)(k)), nil
}

func pureOpen(dst, sealed []byte, s *secret) ([]byte, error) {
	k, nonce, err := s.agreeOn(sealed[:ephemeralSize])
	if err != nil {
		return nil, err
	}
	defer k.wipe()
	out, ok := box.OpenAfterPrecomputation(dst, sealed[ephemeralSize:], &nonce, (*[32]byte)(k))
	if !ok {
		return nil, ErrOpen
	}
	return out, nil
}

// agree returns the key that own and peer share. It fails only when peer is of
// small order, which makes the secret all zeros (RFC 7748 section 6.1).
func agree(own *ecdh.PrivateKey, peer *ecdh.PublicKey) (*sharedKey, error) {
	z, err := own.ECDH(peer)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrPublicKey, err)
	}
	defer clear(z)
	return newSharedKey((*[32]byte)(z)), nil
}

// agreeOn returns key and nonce of the box that begins with an ephemeral key.
func (s *secret) agreeOn(ephemeral []byte) (*sharedKey, [24]byte, error) {
	own := s.agreement()
	peer, err := ecdh.X25519().NewPublicKey(ephemeral)
	if err != nil {
		return nil, [24]byte{}, ErrOpen
	}
	k, err := agree(own, peer)
	if err != nil {
		return nil, [24]byte{}, ErrOpen // who opens a hostile box has no key to mend
	}
	return k, boxNonce(ephemeral, own.PublicKey().Bytes()), nil
}

// boxNonce is the nonce of crypto_box_seal: BLAKE2b, 24 bytes long, of the
// ephemeral and the recipient's public key.
func boxNonce(ephemeral, recipient []byte) (nonce [24]byte) {
	h, err := blake2b.New(len(nonce), nil)
	if err != nil {
		panic("crypt: " + err.Error()) // refuses only a wrong size or a long key
	}
	h.Write(ephemeral)
	h.Write(recipient)
	h.Sum(nonce[:0])
	return nonce
}
