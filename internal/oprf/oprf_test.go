package oprf_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"os"
	"slices"
	"strings"
	"testing"

	"cmtpd/internal/oprf"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func newKey(t testing.TB) *oprf.Key {
	t.Helper()
	k, err := oprf.KeyFromSeed(bytes.Repeat([]byte{7}, oprf.SeedSize))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func mustBlind(t testing.TB, input string) (*oprf.Request, oprf.Element) {
	t.Helper()
	r, e, err := oprf.Blind([]byte(input))
	if err != nil {
		t.Fatal(err)
	}
	return r, e
}

func output(t testing.TB, k *oprf.Key, input string) []byte {
	t.Helper()
	r, blinded := mustBlind(t, input)
	defer r.Wipe()
	evaluated, err := k.Evaluate(blinded)
	if err != nil {
		t.Fatal(err)
	}
	out, err := r.Finalize(evaluated)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestRFC9497 repeats the vectors of RFC 9497 appendix A.1.1. The key itself does not
// show; that it is the right one shows in what it makes of the elements.
func TestRFC9497(t *testing.T) {
	const blind = "64d37aed22a27f5191de1c1d69fadb899d8862b58eb4220029e036ec4c1f6706"
	k, err := oprf.KeyWithInfo(bytes.Repeat([]byte{0xa3}, 32), "test key")
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []struct{ input, blinded, evaluated, output string }{
		{
			"00",
			"609a0ae68c15a3cf6903766461307e5c8bb2f95e7e6550e1ffa2dc99e412803c",
			"7ec6578ae5120958eb2db1745758ff379e77cb64fe77b0b2d8cc917ea0869c7e",
			"527759c3d9366f277d8c6020418d96bb393ba2afb20ff90df23fb7708264e2f3" +
				"ab9135e3bd69955851de4b1f9fe8a0973396719b7912ba9ee8aa7d0b5e24bcf6",
		},
		{
			strings.Repeat("5a", 17),
			"da27ef466870f5f15296299850aa088629945a17d1f5b7f5ff043f76b3c06418",
			"b4cbf5a4f1eeda5a63ce7b77c7d23f461db3fcab0dd28e4e17cecb5c90d02c25",
			"f4a74c9c592497375e796aa837e907b1a045d34306a749db9f34221f7e750cb4" +
				"f2a6413a6bf6fa5e19ba6348eb673934a722a7ede2e7621306d18951e7cf2c73",
		},
	} {
		r, blinded, err := oprf.BlindWith(unhex(t, v.input), unhex(t, blind))
		if err != nil {
			t.Fatal(err)
		}
		if got := hex.EncodeToString(blinded[:]); got != v.blinded {
			t.Errorf("%s is blinded to %s", v.input, got)
		}
		evaluated, err := k.Evaluate(blinded)
		if got := hex.EncodeToString(evaluated[:]); err != nil || got != v.evaluated {
			t.Errorf("%s is evaluated to %s, %v", v.input, got, err)
		}
		out, err := r.Finalize(evaluated)
		if got := hex.EncodeToString(out); err != nil || got != v.output {
			t.Errorf("%s comes out as %s, %v", v.input, got, err)
		}
	}
}

// TestVectors repeats the exchange of testdata/cmtp-1-xzibit.json, under the info that
// this protocol uses.
func TestVectors(t *testing.T) {
	b, err := os.ReadFile("../../testdata/cmtp-1-xzibit.json")
	if err != nil {
		t.Fatal(err)
	}
	var v struct {
		Password string `json:"password_nfc"`
		OPRF     struct{ Seed, Blind, Blinded, Evaluated, Output string }
	}
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	k, err := oprf.KeyFromSeed(unhex(t, v.OPRF.Seed))
	if err != nil {
		t.Fatal(err)
	}
	r, blinded, err := oprf.BlindWith(unhex(t, v.Password), unhex(t, v.OPRF.Blind))
	if err != nil {
		t.Fatal(err)
	}
	evaluated, err := k.Evaluate(blinded)
	if err != nil {
		t.Fatal(err)
	}
	out, err := r.Finalize(evaluated)
	if err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		got  []byte
		want string
	}{
		"blinded":   {blinded[:], v.OPRF.Blinded},
		"evaluated": {evaluated[:], v.OPRF.Evaluated},
		"output":    {out, v.OPRF.Output},
	} {
		if got := hex.EncodeToString(c.got); got != c.want {
			t.Errorf("%s is %s, want %s", what, got, c.want)
		}
	}
}

func TestBlind(t *testing.T) {
	k := newKey(t)
	a, b := output(t, k, "password"), output(t, k, "password")
	if len(a) != oprf.OutputSize || !bytes.Equal(a, b) {
		t.Errorf("one password comes out as %x and as %x", a, b)
	}
	if bytes.Equal(a, output(t, k, "passwore")) {
		t.Error("two passwords come out alike")
	}
	seed, err := oprf.NewSeed()
	if err != nil {
		t.Fatal(err)
	}
	other, err := oprf.KeyFromSeed(seed[:])
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(a, output(t, other, "password")) {
		t.Error("two keys give one output")
	}
	if again, err := oprf.NewSeed(); err != nil || again == seed {
		t.Errorf("two seeds are alike, %v", err)
	}
	_, first := mustBlind(t, "password")
	if _, second := mustBlind(t, "password"); first == second {
		t.Error("two blinded elements are alike")
	}
	tests, err := oprf.KeyWithInfo(bytes.Repeat([]byte{7}, 32), "test key")
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(a, output(t, tests, "password")) {
		t.Error("the info does not count")
	}
}

func TestBlind_ErrInput(t *testing.T) {
	for n, want := range map[int]error{0: nil, 1: nil, 65535: nil, 65536: oprf.ErrInput} {
		r, _, err := oprf.Blind(make([]byte, n))
		if !errors.Is(err, want) || (r == nil) != (want != nil) {
			t.Errorf("%d bytes: %v, want %v", n, err, want)
		}
	}
}

func TestKeyFromSeed_ErrSeed(t *testing.T) {
	for _, n := range []int{0, 31, 33, 64} {
		if k, err := oprf.KeyFromSeed(make([]byte, n)); !errors.Is(err, oprf.ErrSeed) || k != nil {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}

// bad returns what is no element in its one encoding, by what is wrong with it.
func bad(t *testing.T) map[string]oprf.Element {
	t.Helper()
	_, good := mustBlind(t, "password")
	prime := new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 255), big.NewInt(19))
	little := func(n *big.Int) (e oprf.Element) {
		n.FillBytes(e[:])
		slices.Reverse(e[:])
		return e
	}
	s := bytes.Clone(good[:])
	slices.Reverse(s)
	high := good
	high[31] |= 0x80
	return map[string]oprf.Element{
		"the identity":             {},
		"identity, high bit":       {31: 0x80},
		"identity, as the prime":   little(prime),
		"1 is odd":                 {1},
		"the element's other root": little(new(big.Int).Sub(prime, new(big.Int).SetBytes(s))),
		"element, high bit":        high,
		"2^255-1":                  little(new(big.Int).Add(prime, big.NewInt(18))),
		"2^256-1":                  oprf.Element(bytes.Repeat([]byte{0xff}, 32)),
		// RFC 9496 appendix A.3: all of them below the prime and even.
		"no square root":   oprf.Element(unhex(t, "26948d35ca62e643e26a83177332e6b6afeb9d08e4268b650f1f5bbd8d81d371")),
		"negative product": oprf.Element(unhex(t, "3eb858e78f5a7254d8c9731174a94f76755fd3941c0ac93735c07ba14579630e")),
		"y is zero":        oprf.Element(unhex(t, "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f")),
	}
}

func TestErrElement(t *testing.T) {
	k := newKey(t)
	for name, e := range bad(t) {
		if got, err := k.Evaluate(e); !errors.Is(err, oprf.ErrElement) || got != (oprf.Element{}) {
			t.Errorf("%s, %x, is evaluated: %v", name, e, err)
		}
		r, _ := mustBlind(t, "password")
		if out, err := r.Finalize(e); !errors.Is(err, oprf.ErrElement) || out != nil {
			t.Errorf("%s, %x, is taken as evaluated: %v", name, e, err)
		}
	}
}

// TestRequest_Finalize takes a good answer after a bad one.
func TestRequest_Finalize(t *testing.T) {
	k := newKey(t)
	r, blinded := mustBlind(t, "password")
	if _, err := r.Finalize(oprf.Element{}); !errors.Is(err, oprf.ErrElement) {
		t.Errorf("the identity: %v", err)
	}
	evaluated, err := k.Evaluate(blinded)
	if err != nil {
		t.Fatal(err)
	}
	if out, err := r.Finalize(evaluated); err != nil || !bytes.Equal(out, output(t, k, "password")) {
		t.Errorf("%x, %v", out, err)
	}
}

func TestRequest_Wipe(t *testing.T) {
	password := []byte("password")
	r, blinded, err := oprf.Blind(password)
	if err != nil {
		t.Fatal(err)
	}
	r.Wipe()
	if input, zero := r.Secrets(); !zero || !bytes.Equal(input, make([]byte, len(password))) {
		t.Errorf("%q is left, the blind is zero: %v", input, zero)
	}
	if string(password) != "password" {
		t.Error("the caller's input was overwritten")
	}
	defer func() {
		if recover() == nil {
			t.Error("a wiped request is used")
		}
	}()
	_, _ = r.Finalize(blinded)
}

func TestRedacted(t *testing.T) {
	k := newKey(t)
	r, _ := mustBlind(t, "SECRET")
	for what, v := range map[string]any{
		"key": k, "request": r, "values": []any{*k, *r}, "struct": struct {
			k *oprf.Key
			r *oprf.Request
		}{k, r},
	} {
		var log bytes.Buffer
		slog.New(slog.NewTextHandler(&log, nil)).Info("", "v", v)
		text := log.String()
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d", "%q"} {
			text += fmt.Sprintf(verb, v)
		}
		if b, err := json.Marshal(v); err == nil {
			text += string(b)
		}
		text = strings.ToUpper(text)
		for _, piece := range []string{"SECRET", "534543524554", "83 69 67", "0X53, 0X45"} {
			if strings.Contains(text, piece) {
				t.Errorf("%s prints %s", what, piece)
			}
		}
		if what != "struct" && !strings.Contains(text, "REDACTED") {
			t.Errorf("%s prints %s", what, text)
		}
	}
}

func BenchmarkExchange(b *testing.B) {
	k := newKey(b)
	r, blinded := mustBlind(b, "password")
	evaluated, err := k.Evaluate(blinded)
	if err != nil {
		b.Fatal(err)
	}
	run := func(name string, f func()) {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				f()
			}
		})
	}
	seed := bytes.Repeat([]byte{7}, oprf.SeedSize)
	run("KeyFromSeed", func() { _, _ = oprf.KeyFromSeed(seed) })
	run("Evaluate", func() { _, _ = k.Evaluate(blinded) })
	run("Blind", func() { _, _, _ = oprf.Blind([]byte("password")) })
	run("Finalize", func() { _, _ = r.Finalize(evaluated) })
}
