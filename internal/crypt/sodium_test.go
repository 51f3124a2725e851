//go:build sodium

package crypt_test

import (
	"bytes"
	"crypto/ed25519"
	"io"
	"math/rand/v2"
	"testing"

	"filippo.io/edwards25519"
	"github.com/jamesruan/sodium"

	"cmtpd/internal/crypt"
)

// rounds is how many random cases each comparison takes.
const rounds = 2000

// newRand returns a source of cases that a failing run can be repeated with.
func newRand(t *testing.T) *rand.ChaCha8 {
	t.Helper()
	seed := [32]byte([]byte("cmtpd crypt against libsodium 01"))
	return rand.NewChaCha8(seed)
}

func read(r io.Reader, n int) []byte {
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		panic(err)
	}
	return b
}

// boxKey is k in libsodium's own conversion.
func boxKey(k *crypt.PrivateKey) sodium.BoxKP {
	secret := sodium.SignSecretKey{Bytes: k.Bytes()}
	return sodium.SignKP{PublicKey: secret.PublicKey(), SecretKey: secret}.ToBox()
}

func TestSodium_Keys(t *testing.T) {
	random := newRand(t)
	for range rounds {
		seed := read(random, crypt.SeedSize)
		k, err := crypt.PrivateKeyFromSeed(seed)
		if err != nil {
			t.Fatal(err)
		}
		theirs := sodium.SeedSignKP(sodium.SignSeed{Bytes: seed})
		if !bytes.Equal(k.Bytes(), theirs.SecretKey.Bytes) {
			t.Fatalf("seed %x grows into another key", seed)
		}
		pair, pub := boxKey(k), k.Public()
		if _, err := crypt.ParsePublicKey(pub[:]); err != nil {
			t.Fatalf("key %x: %v", pub, err)
		}
		private, public := k.X25519()
		private[0] &= 248
		private[31] = private[31]&127 | 64
		if !bytes.Equal(private, pair.SecretKey.Bytes) || !bytes.Equal(public, pair.PublicKey.Bytes) {
			t.Fatalf("seed %x maps to another key", seed)
		}
		compareMap(t, pub)
	}
}

// compareMap wants the same verdict and the same X25519 key from both libraries, and
// reports whether it was a yes.
func compareMap(t *testing.T, pk crypt.PublicKey) bool {
	t.Helper()
	theirs, ok := crypt.LibsodiumToX25519(pk)
	pure, err := crypt.PureToX25519(pk)
	if ok != (err == nil) || ok && pure != theirs {
		t.Errorf("key %x maps to %x, %v; libsodium: %x, %v", pk, pure, err, theirs, ok)
	}
	here, err := crypt.ToX25519(pk)
	if ok != (err == nil) || ok && here != theirs {
		t.Errorf("key %x maps to %x, %v in this build; libsodium: %x, %v", pk, here, err, theirs, ok)
	}
	return ok
}

func TestSodium_PublicKeys(t *testing.T) {
	random := newRand(t)
	yes := 0
	for range rounds {
		// Half of all numbers are a y of the curve, one of eight of these in the main
		// subgroup.
		if compareMap(t, crypt.PublicKey(read(random, 32))) {
			yes++
		}
	}
	if yes < rounds/32 || yes > rounds/8 {
		t.Errorf("%d of %d random keys were taken", yes, rounds)
	}
	for _, e := range smallOrder(t) {
		if compareMap(t, e) {
			t.Errorf("libsodium takes %x of small order", e)
		}
	}
	for _, e := range nonCanonical() {
		if compareMap(t, e) {
			t.Errorf("libsodium takes %x, which is not canonical", e)
		}
	}
	for i := range rounds / 20 {
		k, err := crypt.PrivateKeyFromSeed(read(random, 32))
		if err != nil {
			t.Fatal(err)
		}
		for j, pk := range mixedOrder(t, k.Public()) {
			if compareMap(t, pk) {
				t.Errorf("key %d plus %d times a point of order 8 is taken", i, j+1)
			}
		}
	}
}

func compareVerify(t *testing.T, what string, pk crypt.PublicKey, msg []byte, sig crypt.Signature) bool {
	t.Helper()
	theirs := sodium.Bytes(msg).SignVerifyDetached(
		sodium.Signature{Bytes: sig[:]}, sodium.SignPublicKey{Bytes: pk[:]}) == nil
	if pure := crypt.PureVerify(pk, msg, sig); pure != theirs {
		t.Errorf("%s: key %x, message %x, signature %x: %v, libsodium %v", what, pk, msg, sig, pure, theirs)
	}
	if here := crypt.Verify(pk, msg, sig); here != theirs {
		t.Errorf("%s: key %x, message %x, signature %x: %v in this build, libsodium %v", what, pk, msg, sig, here, theirs)
	}
	return theirs
}

func TestSodium_Signatures(t *testing.T) {
	random := newRand(t)
	for i := range rounds {
		k, err := crypt.PrivateKeyFromSeed(read(random, 32))
		if err != nil {
			t.Fatal(err)
		}
		msg := read(random, i%300)
		sig := crypt.PureSign(k, msg)
		theirs := sodium.Bytes(msg).SignDetached(sodium.SignSecretKey{Bytes: k.Bytes()})
		if !bytes.Equal(sig[:], theirs.Bytes) || sig != k.Sign(msg) {
			t.Fatalf("key %x signs %x in another way", k.Public(), msg)
		}
		if !compareVerify(t, "honest", k.Public(), msg, sig) {
			t.Fatalf("key %x: an honest signature is refused", k.Public())
		}
		at := read(random, 2)
		altered := sig
		altered[at[0]%64] ^= 1 << (at[1] % 8)
		compareVerify(t, "altered", k.Public(), msg, altered)
		high := sig
		copy(high[32:], addOrder(sig[32:]))
		compareVerify(t, "S plus L", k.Public(), msg, high)
		compareVerify(t, "noise", crypt.PublicKey(read(random, 32)), msg, crypt.Signature(read(random, 64)))
	}
}

func TestSodium_HostileSignatures(t *testing.T) {
	stricter := 0
	for _, h := range hostileSignatures(t) {
		if got := compareVerify(t, h.name, h.public, h.msg, h.sig); got != h.want {
			t.Errorf("%s, key %x, signature %x: libsodium says %v, the case %v", h.name, h.public, h.sig, got, h.want)
		} else if !got && ed25519.Verify(h.public[:], h.msg, h.sig[:]) {
			stricter++
		}
	}
	if stricter == 0 {
		t.Error("no signature that Go's library accepts and libsodium does not")
	}
	// Every key that is special with every R that is: S fits none of them.
	special := append(smallOrder(t), nonCanonical()...)
	random := newRand(t)
	for _, public := range special {
		for _, r := range special {
			compareVerify(t, "special", public, []byte("message"), join(r[:], make([]byte, 32)))
			s := read(random, 32)
			s[31] &= 0x0f
			compareVerify(t, "special", public, []byte("message"), join(r[:], s))
		}
	}
}

// TestSodium_MixedOrder signs with keys that carry a torsion part, which libsodium
// verifies with but does not seal to.
func TestSodium_MixedOrder(t *testing.T) {
	a, r := scalar("mixed key"), scalar("mixed nonce")
	commitment := new(edwards25519.Point).ScalarBaseMult(r).Bytes()
	public := crypt.PublicKey(new(edwards25519.Point).ScalarBaseMult(a).Bytes())
	yes, no := 0, 0
	for _, pk := range mixedOrder(t, public) {
		for i := range 100 {
			msg := []byte{byte(i)}
			s := edwards25519.NewScalar().MultiplyAdd(challenge(commitment, pk[:], msg), a, r)
			if compareVerify(t, "mixed order", pk, msg, join(commitment, s.Bytes())) {
				yes++
			} else {
				no++
			}
		}
	}
	if yes == 0 || no == 0 {
		t.Errorf("%d accepted, %d refused: one kind is missing", yes, no)
	}
}

func TestSodium_Boxes(t *testing.T) {
	random := newRand(t)
	var sizes []int
	for i := range rounds / 4 {
		sizes = append(sizes, i)
	}
	for _, n := range append(sizes, 4096, 65535, 65536, 65537, 1<<20) {
		k, err := crypt.PrivateKeyFromSeed(read(random, 32))
		if err != nil {
			t.Fatal(err)
		}
		to, err := crypt.NewRecipient(k.Public())
		if err != nil {
			t.Fatal(err)
		}
		plaintext, pair := read(random, n), boxKey(k)
		pure, err := to.PureSeal(nil, plaintext)
		if err != nil {
			t.Fatal(err)
		}
		here, err := to.Seal(nil, plaintext)
		if err != nil {
			t.Fatal(err)
		}
		var stream bytes.Buffer
		sealer, err := crypt.NewSealer(bytes.NewReader(plaintext), int64(n), k.Public())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := sealer.WriteTo(&stream); err != nil {
			t.Fatal(err)
		}
		theirs := sodium.Bytes(plaintext).SealedBox(pair.PublicKey)
		for name, sealed := range map[string][]byte{
			"pure": pure, "this build's": here, "streamed": stream.Bytes(), "libsodium's": theirs,
		} {
			compareOpen(t, name, k, sealed, plaintext)
		}
	}
}

// compareOpen opens a box in every way. Without a plaintext all of them must refuse.
func compareOpen(t *testing.T, what string, k *crypt.PrivateKey, sealed, plaintext []byte) {
	t.Helper()
	check := func(who string, got []byte, err error) {
		t.Helper()
		if (err == nil) != (plaintext != nil) || err == nil && !bytes.Equal(got, plaintext) {
			t.Errorf("%s: %s opens a box of %d bytes: %v", what, who, len(sealed), err)
		}
	}
	got, err := k.Open(nil, sealed)
	check("this build", got, err)
	p, err := k.OpenAt(bytes.NewReader(sealed), int64(len(sealed)))
	if err == nil {
		got, err = io.ReadAll(p)
	}
	check("the stream", got, err)
	if len(sealed) < crypt.Overhead {
		return // neither the wrapper nor pureOpen is ever asked
	}
	got, err = k.PureOpen(nil, sealed)
	check("the pure build", got, err)
	got, err = sodium.Bytes(sealed).SealedBoxOpen(boxKey(k))
	check("libsodium", got, err)
}

func TestSodium_HostileBoxes(t *testing.T) {
	k := newKey(t)
	sealed := mustSeal(t, pattern(100), k.Public())
	for i := range sealed {
		for bit := range 8 {
			altered := bytes.Clone(sealed)
			altered[i] ^= 1 << bit
			compareOpen(t, "altered", k, altered, nil)
		}
		compareOpen(t, "truncated", k, sealed[:i], nil)
	}
	compareOpen(t, "longer", k, append(bytes.Clone(sealed), 0), nil)
	for _, e := range append(smallOrder(t), nonCanonical()...) {
		compareOpen(t, "special ephemeral key", k, append(e[:], sealed[32:]...), nil)
	}
	random := newRand(t)
	for i := range rounds / 4 {
		compareOpen(t, "noise", k, read(random, i), nil)
	}
}

// TestSodium_ForgedBoxes makes boxes whose tag is right for the shared secret of all
// zeros, which every ephemeral key of small order gives: who leaves out that check
// opens a box that anybody can make.
func TestSodium_ForgedBoxes(t *testing.T) {
	k := newKey(t)
	_, public := k.X25519()
	for _, u := range smallOrder(t) {
		compareOpen(t, "forged", k, crypt.ForgeZeroSecret([]byte("text"), u, [32]byte(public)), nil)
	}
}

// BenchmarkSodium compares the two in one run.
func BenchmarkSodium(b *testing.B) {
	k := newKey(b)
	to, err := crypt.NewRecipient(k.Public())
	if err != nil {
		b.Fatal(err)
	}
	for _, size := range benchSizes {
		plaintext := pattern(size.n)
		sealed := mustSeal(b, plaintext, k.Public())
		pair := boxKey(k)
		run(b, "seal/"+size.name+"/pure", size.n, func() { _, _ = to.PureSeal(nil, plaintext) })
		run(b, "seal/"+size.name+"/libsodium", size.n, func() { sodium.Bytes(plaintext).SealedBox(pair.PublicKey) })
		run(b, "open/"+size.name+"/pure", size.n, func() { _, _ = k.PureOpen(nil, sealed) })
		run(b, "open/"+size.name+"/libsodium", size.n, func() { _, _ = sodium.Bytes(sealed).SealedBoxOpen(pair) })
	}
	msg, secret := pattern(64), sodium.SignSecretKey{Bytes: k.Bytes()}
	sig := k.Sign(msg)
	run(b, "sign/pure", 64, func() { crypt.PureSign(k, msg) })
	run(b, "sign/libsodium", 64, func() { sodium.Bytes(msg).SignDetached(secret) })
	run(b, "verify/pure", 64, func() { crypt.PureVerify(k.Public(), msg, sig) })
	run(b, "verify/libsodium", 64, func() {
		_ = sodium.Bytes(msg).SignVerifyDetached(sodium.Signature{Bytes: sig[:]}, secret.PublicKey())
	})
}
