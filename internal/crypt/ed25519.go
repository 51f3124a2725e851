package crypt

import (
	"bytes"
	"crypto/ed25519"
	"fmt"
	"slices"

	"filippo.io/edwards25519"
)

// Verify reports whether sig is pk's signature of msg, with the verdict of
// libsodium's crypto_sign_verify_detached: S, pk and R canonical, neither pk nor R
// of small order, the equation without the cofactor.
func Verify(pk PublicKey, msg []byte, sig Signature) bool { return verify(pk, msg, sig) }

func pureSign(key *[PrivateKeySize]byte, msg []byte) Signature {
	return Signature(ed25519.Sign(key[:], msg))
}

// pureVerify adds to crypto/ed25519, which already wants S to be canonical and
// compares R as bytes, what libsodium checks and it does not.
func pureVerify(pk PublicKey, msg []byte, sig Signature) bool {
	if isSmallOrder(sig[:32]) || !isCanonical(pk[:]) || isSmallOrder(pk[:]) {
		return false
	}
	return ed25519.Verify(pk[:], msg, sig[:])
}

// isCanonical reports whether the y coordinate of an encoded point is below the
// field's prime, 2^255-19. The sign bit does not count.
func isCanonical(p []byte) bool {
	if p[31]&0x7f != 0x7f || p[0] < 0xed {
		return true
	}
	for _, b := range p[1:31] {
		if b != 0xff {
			return true
		}
	}
	return false
}

// smallOrder holds every y coordinate, below 2^255, of a point whose order divides
// 8: orders 4, 1, 8, 8 and 2, then those of order 4 and 1 again with the prime
// added. Each stands for both signs of x.
var smallOrder = [...][32]byte{
	{},
	{0: 1},
	{
		0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0,
		0xd5, 0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05,
	},
	{
		0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f,
		0x2a, 0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a,
	},
	nearPrime(0xec),
	nearPrime(0xed),
	nearPrime(0xee),
}

// nearPrime encodes the number that differs from 2^255-1 in its lowest byte only;
// the prime itself ends in 0xed.
func nearPrime(low byte) [32]byte {
	y := [32]byte(bytes.Repeat([]byte{0xff}, 32))
	y[0], y[31] = low, 0x7f
	return y
}

// isSmallOrder reports whether p encodes a point whose order divides 8, in any
// encoding. Points are public, so the time may tell.
func isSmallOrder(p []byte) bool {
	y := [32]byte(p)
	y[31] &= 0x7f // a point and its negative have the same order, and -0 is 0
	return slices.Contains(smallOrder[:], y)
}

// minusOne is L-1, where L is the order of the main subgroup.
var minusOne = func() *edwards25519.Scalar {
	one, err := edwards25519.NewScalar().SetCanonicalBytes([]byte{0: 1, 31: 0})
	if err != nil {
		panic("crypt: " + err.Error())
	}
	return one.Negate(one)
}()

// inMainSubgroup reports whether L times p is the identity. A scalar is a number
// below L, so it is computed as (L-1)p + p. The point is public: variable time is
// no leak.
func inMainSubgroup(p *edwards25519.Point) bool {
	q := new(edwards25519.Point).VarTimeDoubleScalarBaseMult(minusOne, p, edwards25519.NewScalar())
	return q.Add(q, p).Equal(edwards25519.NewIdentityPoint()) == 1
}

// pureToX25519 is libsodium's crypto_sign_ed25519_pk_to_curve25519: it refuses what
// is no point, and points of small or mixed order.
func pureToX25519(pk PublicKey) ([32]byte, error) {
	p, err := new(edwards25519.Point).SetBytes(pk[:])
	if err != nil {
		return [32]byte{}, fmt.Errorf("%w: it is no point of the curve", ErrPublicKey)
	}
	if isSmallOrder(pk[:]) || !inMainSubgroup(p) {
		return [32]byte{}, fmt.Errorf("%w: its point is outside of the main subgroup", ErrPublicKey)
	}
	return [32]byte(p.BytesMontgomery()), nil
}
