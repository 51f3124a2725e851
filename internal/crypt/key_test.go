package crypt_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"sync"
	"testing"

	"cmtpd/internal/crypt"
)

func newKey(t testing.TB) *crypt.PrivateKey {
	t.Helper()
	k, err := crypt.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestGenerateKey(t *testing.T) {
	a, b := newKey(t), newKey(t)
	if a.Public() == b.Public() {
		t.Error("two keys are one")
	}
	pub := a.Public()
	if _, err := crypt.ParsePublicKey(pub[:]); err != nil {
		t.Error(err)
	}
}

func TestParsePrivateKey(t *testing.T) {
	k, other := newKey(t), newKey(t)
	b := k.Bytes()
	again, err := crypt.ParsePrivateKey(b)
	if err != nil || !bytes.Equal(again.Bytes(), b) || again.Public() != k.Public() {
		t.Fatalf("a key does not survive storage: %v", err)
	}
	otherPublic := other.Public()
	flipped := bytes.Clone(b)
	flipped[63] ^= 0x80
	for name, c := range map[string]struct {
		bytes []byte
		want  error
	}{
		"empty":                {nil, crypt.ErrPrivateKey},
		"seed only":            {b[:32], crypt.ErrPrivateKey},
		"one byte short":       {b[:63], crypt.ErrPrivateKey},
		"one byte long":        {append(bytes.Clone(b), 0), crypt.ErrPrivateKey},
		"another's public key": {append(bytes.Clone(b[:32]), otherPublic[:]...), crypt.ErrKeyHalves},
		"sign bit flipped":     {flipped, crypt.ErrKeyHalves},
	} {
		if _, err := crypt.ParsePrivateKey(c.bytes); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	for _, n := range []int{0, 31, 33, 64} {
		if _, err := crypt.PrivateKeyFromSeed(make([]byte, n)); !errors.Is(err, crypt.ErrPrivateKey) {
			t.Errorf("a seed of %d bytes: %v", n, err)
		}
	}
}

func TestPublicKey_String(t *testing.T) {
	pk, err := hex.DecodeString("03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8")
	if err != nil {
		t.Fatal(err)
	}
	s := crypt.PublicKey(pk).String()
	// echo 03a1... | xxd -r -p | sha256sum
	if want := "5647 5aa7 5463 474c 0285 df5d bf2b cab7 3da6 5135"; s != want {
		t.Errorf("fingerprint is %q, want %q", s, want)
	}
	if !regexp.MustCompile(`^([0-9a-f]{4} ){9}[0-9a-f]{4}$`).MatchString(s) {
		t.Errorf("fingerprint %q is not ten groups of four", s)
	}
}

// TestPrivateKey_Redacted prints a key in every way that comes to mind and looks
// for a piece of it in what comes out.
func TestPrivateKey_Redacted(t *testing.T) {
	k := newKey(t)
	k.Open(nil, make([]byte, crypt.Overhead)) // so that the X25519 form is there to leak
	type holder struct {
		Exported   *crypt.PrivateKey
		Value      crypt.PrivateKey
		unexported *crypt.PrivateKey
		value      crypt.PrivateKey
	}
	h := holder{k, *k, k, *k}
	var out strings.Builder
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%08b", "%T"} {
		for _, x := range []any{k, *k, h, &h, []any{k}, map[string]*crypt.PrivateKey{"k": k}} {
			fmt.Fprintf(&out, verb+"\n", x)
		}
	}
	for _, handler := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
		slog.New(handler).Info("keys", "pointer", k, "value", *k, "holder", h, "slice", []any{k})
	}
	if err := json.NewEncoder(&out).Encode(h); err != nil {
		t.Fatal(err)
	}
	printed := out.String()
	if n := strings.Count(printed, "redacted"); n < 40 {
		t.Errorf("only %d times redacted:\n%s", n, printed)
	}
	private, _ := k.X25519()
	for _, secret := range [][]byte{k.Bytes()[:32], private} {
		piece := secret[8:13]
		decimal := strings.Trim(fmt.Sprint(piece), "[]")
		for _, form := range []string{
			string(piece), hex.EncodeToString(piece), strings.ToUpper(hex.EncodeToString(piece)),
			decimal, strings.ReplaceAll(decimal, " ", ", "), strings.ReplaceAll(decimal, " ", ","),
			strings.Trim(fmt.Sprintf("%08b", piece), "[]"), strings.Trim(fmt.Sprintf("%#v", piece), "[]byte{}"),
		} {
			if strings.Contains(printed, form) {
				t.Errorf("the secret shows as %q in\n%s", form, printed)
			}
		}
	}
}

func TestPrivateKey_Wipe(t *testing.T) {
	k := newKey(t)
	pub := k.Public()
	box, err := crypt.Seal(nil, []byte("text"), pub)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.Open(nil, box); err != nil {
		t.Fatal(err)
	}
	k.Wipe()
	if k.Public() != pub {
		t.Error("the public half is lost")
	}
	for name, use := range map[string]func(){
		"Sign":   func() { k.Sign(nil) },
		"Bytes":  func() { k.Bytes() },
		"Open":   func() { _, _ = k.Open(nil, box) },
		"OpenAt": func() { _, _ = k.OpenAt(bytes.NewReader(box), int64(len(box))) },
	} {
		if !panics(use) {
			t.Errorf("%s works with a wiped key", name)
		}
	}
}

func panics(f func()) (yes bool) {
	defer func() { yes = recover() != nil }()
	f()
	return false
}

// TestPrivateKey_Concurrent is for the race detector.
func TestPrivateKey_Concurrent(t *testing.T) {
	k := newKey(t)
	r, err := crypt.NewRecipient(k.Public())
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			box, err := r.Seal(nil, []byte("text"))
			if err != nil {
				t.Error(err)
				return
			}
			if got, err := k.Open(nil, box); err != nil || string(got) != "text" {
				t.Errorf("opened to %q, %v", got, err)
			}
			if !crypt.Verify(k.Public(), box, k.Sign(box)) {
				t.Error("a signature is refused")
			}
		})
	}
	wg.Wait()
}
