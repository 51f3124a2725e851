package crypt_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/crypto/nacl/box"

	"cmtpd/internal/crypt"
)

// requireSeeds fails when the committed corpus is missing, without which a fuzz
// target that is not fuzzing tests nothing.
func requireSeeds(f *testing.F) {
	f.Helper()
	seeds, err := filepath.Glob(filepath.Join("testdata", "fuzz", f.Name(), "*"))
	if err != nil || len(seeds) == 0 {
		f.Fatalf("no seeds: %v", err)
	}
	for _, s := range seeds {
		if info, err := os.Stat(s); err != nil || info.Size() == 0 {
			f.Fatalf("seed %s: %v", s, err)
		}
	}
}

// pattern returns n bytes of which no two neighbouring blocks are alike.
func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + i>>8*13 + i>>16*29)
	}
	return b
}

func mustSeal(t testing.TB, plaintext []byte, to crypt.PublicKey) []byte {
	t.Helper()
	sealed, err := crypt.Seal(nil, plaintext, to)
	if err != nil {
		t.Fatal(err)
	}
	return sealed
}

func TestSeal_Open(t *testing.T) {
	k := newKey(t)
	for _, n := range []int{0, 1, 31, 32, 33, 63, 64, 65, 1000, 1 << 20} {
		plaintext := pattern(n)
		sealed, err := crypt.Seal([]byte("before"), plaintext, k.Public())
		if err != nil {
			t.Fatal(err)
		}
		if len(sealed) != len("before")+crypt.Overhead+n || !bytes.HasPrefix(sealed, []byte("before")) {
			t.Fatalf("%d bytes were sealed to %d", n, len(sealed))
		}
		got, err := k.Open([]byte("before"), sealed[len("before"):])
		if err != nil || !bytes.Equal(got, append([]byte("before"), plaintext...)) {
			t.Errorf("%d bytes do not come back: %v", n, err)
		}
		if n >= 16 && bytes.Contains(sealed, plaintext[:16]) {
			t.Errorf("%d bytes show through the box", n)
		}
	}
	if a, b := mustSeal(t, nil, k.Public()), mustSeal(t, nil, k.Public()); bytes.Equal(a, b) {
		t.Error("two boxes are alike")
	}
}

// TestSeal_NaCl exchanges boxes with golang.org/x/crypto/nacl/box.
func TestSeal_NaCl(t *testing.T) {
	k := newKey(t)
	private, public := k.X25519()
	plaintext := pattern(1000)
	got, ok := box.OpenAnonymous(nil, mustSeal(t, plaintext, k.Public()), (*[32]byte)(public), (*[32]byte)(private))
	if !ok || !bytes.Equal(got, plaintext) {
		t.Error("nacl/box does not open our box")
	}
	theirs, err := box.SealAnonymous(nil, plaintext, (*[32]byte)(public), nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := k.Open(nil, theirs); err != nil || !bytes.Equal(got, plaintext) {
		t.Errorf("we do not open the box of nacl/box: %v", err)
	}
}

func TestPrivateKey_Open_Hostile(t *testing.T) {
	k := newKey(t)
	sealed := mustSeal(t, []byte("text"), k.Public())
	refuse := func(what string, sealed []byte) {
		t.Helper()
		got, err := k.Open([]byte("before"), sealed)
		if !errors.Is(err, crypt.ErrOpen) || got != nil {
			t.Errorf("%s: opened to %q, %v", what, got, err)
		}
		p, err := k.OpenAt(bytes.NewReader(sealed), int64(len(sealed)))
		if !errors.Is(err, crypt.ErrOpen) || p != nil {
			t.Errorf("%s: opened a stream: %v", what, err)
		}
	}
	for i := range sealed {
		// Of an X25519 key the top bit does not count in the exchange, but the nonce is
		// made of all of it.
		for _, bit := range []byte{1, 0x80} {
			altered := bytes.Clone(sealed)
			altered[i] ^= bit
			refuse("altered", altered)
		}
		refuse("truncated", sealed[:i])
	}
	refuse("longer", append(bytes.Clone(sealed), 0))
	refuse("another's", mustSeal(t, []byte("text"), newKey(t).Public()))
	for _, e := range smallOrder(t) {
		// The same list of numbers serves for u as for y; those that are not of small
		// order there fail at the tag.
		refuse("small-order ephemeral key", append(e[:], sealed[32:]...))
	}
}
