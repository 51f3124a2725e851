//go:build sodium

package crypt

// #cgo pkg-config: libsodium
// #include <sodium.h>
import "C"

import (
	"fmt"

	"filippo.io/edwards25519"
	"github.com/jamesruan/sodium"
)

// The wrapper panics on inputs of a wrong length, and on boxes shorter than their
// overhead: our types and PrivateKey.Open keep both away from it.

func sign(key *[PrivateKeySize]byte, msg []byte) Signature {
	sig := sodium.Bytes(msg).SignDetached(sodium.SignSecretKey{Bytes: key[:]})
	return Signature(sig.Bytes)
}

func verify(pk PublicKey, msg []byte, sig Signature) bool {
	err := sodium.Bytes(msg).SignVerifyDetached(
		sodium.Signature{Bytes: sig[:]}, sodium.SignPublicKey{Bytes: pk[:]})
	return err == nil
}

// libsodiumToX25519 is crypto_sign_ed25519_pk_to_curve25519 itself: the wrapper's
// ToBox drops its error and returns a key of zeros.
func libsodiumToX25519(pk PublicKey) (u [32]byte, ok bool) {
	return u, C.crypto_sign_ed25519_pk_to_curve25519((*C.uchar)(&u[0]), (*C.uchar)(&pk[0])) == 0
}

// toX25519 checks libsodium's yes. Without the repair of CVE-2025-69277 it takes
// the sum of a point of the main subgroup and the point of order 2 for one of the
// main subgroup.
func toX25519(pk PublicKey) ([32]byte, error) {
	u, ok := libsodiumToX25519(pk)
	if !ok {
		return [32]byte{}, fmt.Errorf("%w: libsodium refuses to seal to it", ErrPublicKey)
	}
	p, err := new(edwards25519.Point).SetBytes(pk[:])
	if err != nil || !inMainSubgroup(p) {
		return [32]byte{}, fmt.Errorf("%w: its point is outside of the main subgroup", ErrPublicKey)
	}
	return u, nil
}

func seal(dst, plaintext []byte, to *Recipient) ([]byte, error) {
	// crypto_box_seal fails, and the wrapper then panics, only for a key of small
	// order, which no Recipient has.
	return append(dst, sodium.Bytes(plaintext).SealedBox(sodium.BoxPublicKey{Bytes: to.x25519[:]})...), nil
}

func open(dst, box []byte, s *secret) ([]byte, error) {
	pair := sodium.BoxKP{
		PublicKey: sodium.BoxPublicKey{Bytes: s.agreement().PublicKey().Bytes()},
		SecretKey: sodium.BoxSecretKey{Bytes: s.agreement().Bytes()},
	}
	defer clear(pair.SecretKey.Bytes)
	plaintext, err := sodium.Bytes(box).SealedBoxOpen(pair)
	if err != nil {
		return nil, ErrOpen
	}
	defer clear(plaintext)
	return append(dst, plaintext...), nil
}
