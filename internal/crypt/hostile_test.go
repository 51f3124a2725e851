package crypt_test

import (
	"crypto/ed25519"
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"testing"

	"filippo.io/edwards25519"

	"cmtpd/internal/crypt"
)

// torsion returns the eight points whose order divides 8, as multiples 0 to 7 of one
// of order 8.
func torsion(t testing.TB) [8]*edwards25519.Point {
	t.Helper()
	// L times any point is one of the eight; a few tries find one of order 8.
	for y := byte(2); ; y++ {
		p, err := new(edwards25519.Point).SetBytes([]byte{0: y, 31: 0})
		if err != nil {
			continue
		}
		t8 := timesOrder(p)
		var all [8]*edwards25519.Point
		all[0] = edwards25519.NewIdentityPoint()
		for i := 1; i < len(all); i++ {
			all[i] = new(edwards25519.Point).Add(all[i-1], t8)
		}
		if all[4].Equal(all[0]) == 0 {
			return all
		}
	}
}

// timesOrder returns L times p, doubling and adding along the bits of L.
func timesOrder(p *edwards25519.Point) *edwards25519.Point {
	q, l := edwards25519.NewIdentityPoint(), order()
	for i := 255; i >= 0; i-- {
		q.Add(q, q)
		if l[i/8]>>(i%8)&1 == 1 {
			q.Add(q, p)
		}
	}
	return q
}

// order is L = 2^252 + 27742317777372353535851937790883648493 in little-endian
// (RFC 8032 section 5.1).
func order() [32]byte {
	return [32]byte{
		0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 31: 0x10,
	}
}

// nonCanonical returns all 38 encodings whose y is not below the prime: of 0 to 18
// plus the prime, either sign.
func nonCanonical() [][32]byte {
	var all [][32]byte
	for low := 0xed; low <= 0xff; low++ {
		e := [32]byte{0: byte(low), 31: 0x7f}
		for i := 1; i < 31; i++ {
			e[i] = 0xff
		}
		all = append(all, e)
		e[31] = 0xff
		all = append(all, e)
	}
	return all
}

// smallOrder returns every encoding of the eight torsion points, with either sign
// bit, canonical or not.
func smallOrder(t testing.TB) [][32]byte {
	t.Helper()
	points := torsion(t)
	isTorsion := func(e [32]byte) bool {
		p, err := new(edwards25519.Point).SetBytes(e[:])
		if err != nil {
			return false
		}
		return p.MultByCofactor(p).Equal(points[0]) == 1
	}
	seen := map[[32]byte]bool{}
	for _, p := range points {
		e := [32]byte(p.Bytes())
		seen[e] = true
		e[31] ^= 0x80
		seen[e] = true
	}
	for _, e := range nonCanonical() {
		if isTorsion(e) {
			seen[e] = true
		}
	}
	var all [][32]byte
	for e := range seen {
		all = append(all, e)
	}
	if len(all) != 14 { // eight values of y, two signs
		t.Fatalf("found %d encodings of small order", len(all))
	}
	return all
}

// mixedOrder returns p plus each torsion point but the identity.
func mixedOrder(t testing.TB, pk crypt.PublicKey) []crypt.PublicKey {
	t.Helper()
	p, err := new(edwards25519.Point).SetBytes(pk[:])
	if err != nil {
		t.Fatal(err)
	}
	var all []crypt.PublicKey
	points := torsion(t)
	for _, q := range points[1:] {
		all = append(all, crypt.PublicKey(new(edwards25519.Point).Add(p, q).Bytes()))
	}
	return all
}

func TestParsePublicKey_Hostile(t *testing.T) {
	refuse := func(kind string, e []byte) {
		t.Helper()
		if _, err := crypt.ParsePublicKey(e); !errors.Is(err, crypt.ErrPublicKey) {
			t.Errorf("%s %x: %v", kind, e, err)
		}
	}
	for _, n := range []int{0, 31, 33, 64} {
		refuse("wrong length", make([]byte, n))
	}
	for _, e := range smallOrder(t) {
		refuse("small order", e[:])
		if _, err := crypt.Seal(nil, nil, e); !errors.Is(err, crypt.ErrPublicKey) {
			t.Errorf("sealed to a point of small order %x: %v", e, err)
		}
	}
	for _, e := range nonCanonical() {
		refuse("not canonical", e[:])
	}
	for _, pk := range mixedOrder(t, newKey(t).Public()) {
		refuse("mixed order", pk[:])
		if _, err := crypt.Seal(nil, nil, pk); !errors.Is(err, crypt.ErrPublicKey) {
			t.Errorf("sealed to a point of mixed order %x: %v", pk, err)
		}
	}
	refuse("no point", []byte{0: 2, 31: 0})
}

// A signature of hostile make, and what the two libraries say to it.
type hostileSignature struct {
	name         string
	public       [32]byte
	msg          []byte
	sig          crypt.Signature
	golang, want bool
}

// challenge is k of RFC 8032 section 5.1.7.
func challenge(r, a, msg []byte) *edwards25519.Scalar {
	h := sha512.New()
	h.Write(r)
	h.Write(a)
	h.Write(msg)
	k, err := edwards25519.NewScalar().SetUniformBytes(h.Sum(nil))
	if err != nil {
		panic(err)
	}
	return k
}

// scalar returns a fixed number below L that looks random.
func scalar(seed string) *edwards25519.Scalar {
	return challenge([]byte(seed), nil, nil)
}

// findMessage returns a message whose challenge is a multiple of eight, so that a
// torsion part of the key vanishes from the equation, or one whose is odd, so that
// none does.
func findMessage(r, a []byte, vanishes bool) []byte {
	for i := uint32(0); ; i++ {
		msg := binary.BigEndian.AppendUint32(nil, i)
		switch k := challenge(r, a, msg).Bytes()[0]; {
		case vanishes && k%8 == 0, !vanishes && k%2 == 1:
			return msg
		}
	}
}

func join(r []byte, s []byte) crypt.Signature {
	return crypt.Signature(append(append(make([]byte, 0, 64), r...), s...))
}

// addOrder adds L to a number below 2^255.
func addOrder(s []byte) []byte {
	sum, carry := make([]byte, 32), 0
	for i, l := range order() {
		carry += int(s[i]) + int(l)
		sum[i], carry = byte(carry), carry>>8
	}
	return sum
}

func hostileSignatures(t testing.TB) []hostileSignature {
	t.Helper()
	var all []hostileSignature
	a, r := scalar("key"), scalar("nonce")
	base := func(s *edwards25519.Scalar) *edwards25519.Point {
		return new(edwards25519.Point).ScalarBaseMult(s)
	}
	public, commitment := base(a).Bytes(), base(r).Bytes()
	msg := []byte("message")
	s := edwards25519.NewScalar().MultiplyAdd(challenge(commitment, public, msg), a, r).Bytes()
	add := func(name string, public, msg []byte, sig crypt.Signature, golang, want bool) {
		all = append(all, hostileSignature{name, [32]byte(public), msg, sig, golang, want})
	}
	add("honest", public, msg, join(commitment, s), true, true)
	add("S plus L", public, msg, join(commitment, addOrder(s)), false, false)
	add("S plus 2L", public, msg, join(commitment, addOrder(addOrder(s))), false, false)
	high := join(commitment, s)
	high[63] |= 0x80
	add("S with its top bit set", public, msg, high, false, false)

	for _, e := range smallOrder(t) {
		// Nothing is left of such a key where the challenge is a multiple of 8: then
		// anybody's R and S satisfy the equation.
		m := findMessage(commitment, e[:], true)
		add("key of small order", e[:], m, join(commitment, r.Bytes()), true, false)

		// R of small order: S is the challenge times a when R is the identity. Go
		// compares encodings, so only the canonical identity gets by it.
		golang := e == [32]byte{0: 1}
		k := challenge(e[:], public, msg)
		add("R of small order", public, msg,
			join(e[:], edwards25519.NewScalar().Multiply(k, a).Bytes()), golang, false)
		add("key and R of small order", e[:], findMessage([]byte{0: 1, 31: 0}, e[:], true),
			join([]byte{0: 1, 31: 0}, make([]byte, 32)), true, false)
	}
	for _, e := range nonCanonical() {
		add("key not canonical", e[:], msg, join(commitment, s), false, false)
		add("R not canonical", public, msg, join(e[:], s), false, false)
	}
	for _, pk := range mixedOrder(t, crypt.PublicKey(public)) {
		// Both libraries verify without the cofactor, and take such a key.
		for _, vanishes := range []bool{true, false} {
			m := findMessage(commitment, pk[:], vanishes)
			s := edwards25519.NewScalar().MultiplyAdd(challenge(commitment, pk[:], m), a, r)
			add("key of mixed order", pk[:], m, join(commitment, s.Bytes()), vanishes, vanishes)
		}
	}
	return all
}

func TestVerify_Hostile(t *testing.T) {
	stricter := 0
	for _, h := range hostileSignatures(t) {
		golang := ed25519.Verify(h.public[:], h.msg, h.sig[:])
		if golang != h.golang {
			t.Errorf("%s, key %x: crypto/ed25519 says %v: the case is not what it should be", h.name, h.public, golang)
		}
		if golang && !h.want {
			stricter++
		}
		if got := crypt.Verify(h.public, h.msg, h.sig); got != h.want {
			t.Errorf("%s, key %x, signature %x: %v, want %v", h.name, h.public, h.sig, got, h.want)
		}
	}
	if stricter < 20 {
		t.Errorf("only %d cases that crypto/ed25519 alone accepts", stricter)
	}
}

// TestIsCanonical looks inside: nobody can sign under a key that is not canonical and
// not of small order, so no verdict shows that it is refused for that.
func TestIsCanonical(t *testing.T) {
	for _, e := range nonCanonical() {
		if crypt.IsCanonical(e[:]) {
			t.Errorf("%x is taken", e)
		}
		for i := 1; i < 32; i++ {
			below := e
			below[i] ^= 1
			if !crypt.IsCanonical(below[:]) {
				t.Errorf("%x is refused", below)
			}
		}
	}
	largest := nonCanonical()[0]
	largest[0]--
	if !crypt.IsCanonical(largest[:]) || !crypt.IsCanonical(make([]byte, 32)) {
		t.Error("the prime minus one, or zero, is refused")
	}
}

// TestVerify_Altered changes every bit of a signature, its message and its key.
func TestVerify_Altered(t *testing.T) {
	k, msg := newKey(t), []byte("message")
	pk, sig := k.Public(), k.Sign(msg)
	for i := range 64 * 8 {
		altered := sig
		altered[i/8] ^= 1 << (i % 8)
		if crypt.Verify(pk, msg, altered) {
			t.Errorf("bit %d of the signature does not count", i)
		}
	}
	for i := range 32 * 8 {
		altered := pk
		altered[i/8] ^= 1 << (i % 8)
		if crypt.Verify(altered, msg, sig) {
			t.Errorf("bit %d of the key does not count", i)
		}
	}
	if crypt.Verify(pk, []byte("massage"), sig) || crypt.Verify(pk, nil, sig) || !crypt.Verify(pk, msg, sig) {
		t.Error("the message does not count")
	}
	if empty := k.Sign(nil); !crypt.Verify(pk, nil, empty) || crypt.Verify(pk, []byte{0}, empty) {
		t.Error("the empty message is special")
	}
}

// FuzzParsePublicKey holds the verdict against another way to find it: only points
// of the main subgroup come back from division and multiplication by 8.
func FuzzParsePublicKey(f *testing.F) {
	requireSeeds(f)
	eight, err := edwards25519.NewScalar().SetCanonicalBytes([]byte{0: 8, 31: 0})
	if err != nil {
		f.Fatal(err)
	}
	eighth := edwards25519.NewScalar().Invert(eight)
	identity := edwards25519.NewIdentityPoint()
	f.Fuzz(func(t *testing.T, b []byte) {
		want := false
		if p, err := new(edwards25519.Point).SetBytes(b); err == nil {
			q := new(edwards25519.Point).ScalarMult(eighth, p)
			want = q.MultByCofactor(q).Equal(p) == 1 && p.Equal(identity) == 0 &&
				[32]byte(p.Bytes()) == [32]byte(b)
		}
		pk, err := crypt.ParsePublicKey(b)
		if (err == nil) != want {
			t.Fatalf("%x: %v", b, err)
		}
		if err == nil && string(pk[:]) != string(b) {
			t.Fatalf("%x became %x", b, pk)
		}
	})
}
