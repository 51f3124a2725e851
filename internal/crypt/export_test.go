package crypt

import (
	"crypto/ecdh"
	"io"

	"golang.org/x/crypto/nacl/box"
)

// SealWith seals under the ephemeral key that a vector fixes.
func SealWith(plaintext []byte, to PublicKey, ephemeral []byte) ([]byte, error) {
	r, e, err := fixed(to, ephemeral)
	if err != nil {
		return nil, err
	}
	return sealWith(nil, plaintext, r, e)
}

// NewSealerWith streams under the ephemeral key that a vector fixes.
func NewSealerWith(src io.ReaderAt, size int64, to PublicKey, ephemeral []byte) (*Sealer, error) {
	r, e, err := fixed(to, ephemeral)
	if err != nil {
		return nil, err
	}
	return newSealer(src, size, r, e)
}

func fixed(to PublicKey, ephemeral []byte) (*Recipient, *ecdh.PrivateKey, error) {
	r, err := NewRecipient(to)
	if err != nil {
		return nil, nil, err
	}
	e, err := ecdh.X25519().NewPrivateKey(ephemeral)
	return r, e, err
}

// ToX25519 maps a public key in this build's way.
func ToX25519(pk PublicKey) ([32]byte, error) { return toX25519(pk) }

// PureToX25519 maps a public key in Go, in either build.
func PureToX25519(pk PublicKey) ([32]byte, error) { return pureToX25519(pk) }

// PureVerify verifies in Go, in either build.
func PureVerify(pk PublicKey, msg []byte, sig Signature) bool { return pureVerify(pk, msg, sig) }

// PureSign signs in Go, in either build.
func PureSign(k *PrivateKey, msg []byte) Signature { return pureSign(&k.secret().bytes, msg) }

// PureSeal seals in Go, in either build.
func (r *Recipient) PureSeal(dst, plaintext []byte) ([]byte, error) {
	return pureSeal(dst, plaintext, r)
}

// PureOpen opens in Go, in either build.
func (k *PrivateKey) PureOpen(dst, box []byte) ([]byte, error) { return pureOpen(dst, box, k.secret()) }

// X25519 returns the private key's X25519 form, not clamped, and its public half.
func (k *PrivateKey) X25519() (private, public []byte) {
	a := k.secret().agreement()
	return a.Bytes(), a.PublicKey().Bytes()
}

// ChunkSize is how much of a stream is in memory at a time.
const ChunkSize = chunkSize

// ForgeZeroSecret seals as if the exchange of keys had given zeros.
func ForgeZeroSecret(plaintext []byte, ephemeral, to [32]byte) []byte {
	nonce := boxNonce(ephemeral[:], to[:])
	k := newSharedKey(new([32]byte))
	return box.SealAfterPrecomputation(ephemeral[:], plaintext, &nonce, (*[32]byte)(k))
}

// IsCanonical reports whether an encoded point is canonical.
func IsCanonical(p []byte) bool { return isCanonical(p) }
