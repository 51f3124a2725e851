package xzibit_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/chacha20poly1305"

	"cmtpd/internal/oprf"
	"cmtpd/internal/xzibit"
)

// output stands for what a server's function made of the password.
var output = bytes.Repeat([]byte{0xab}, oprf.OutputSize)

func mustSealUnlocked(t testing.TB, k *xzibit.Keyring, password []byte) []byte {
	t.Helper()
	x, err := xzibit.SealUnlocked(k, addr, password, output, cheap)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func TestSealUnlocked_OpenUnlocked(t *testing.T) {
	k := newKeyring(t)
	x := mustSealUnlocked(t, k, password)
	if err := xzibit.Check(x); err != nil {
		t.Error(err)
	}
	if read, err := xzibit.ReadFrom(bytes.NewReader(append(bytes.Clone(x), 0))); err != nil || !bytes.Equal(read, x) {
		t.Errorf("read %x, %v", read, err)
	}
	got, err := xzibit.OpenUnlocked(x, addr, password, output)
	if err != nil || !bytes.Equal(encode(t, got), encode(t, k)) {
		t.Errorf("opened to %+v, %v", got, err)
	}
	again := mustSealUnlocked(t, k, password)
	if bytes.Equal(x[4:36], again[4:36]) || bytes.Equal(x[56:80], again[56:80]) {
		t.Error("salt or nonce is not fresh")
	}
	if !bytes.Equal(output, bytes.Repeat([]byte{0xab}, oprf.OutputSize)) || string(password) != "correct horse" {
		t.Error("what belongs to the caller was overwritten")
	}
}

// TestUnlock_Exchange goes the whole way, with a server's key and without the right one.
func TestUnlock_Exchange(t *testing.T) {
	ask := func(seed byte, password string) []byte {
		input, err := xzibit.UnlockInput([]byte(password))
		if err != nil {
			t.Fatal(err)
		}
		r, blinded, err := oprf.Blind(input)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Wipe()
		k, err := oprf.KeyFromSeed(bytes.Repeat([]byte{seed}, oprf.SeedSize))
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
		return out
	}
	x, err := xzibit.SealUnlocked(newKeyring(t), addr, []byte("caf\u00e9"), ask(1, "caf\u00e9"), cheap)
	if err != nil {
		t.Fatal(err)
	}
	// The other spelling is asked for, and opens, as the same.
	if _, err := xzibit.OpenUnlocked(x, addr, []byte("cafe\u0301"), ask(1, "cafe\u0301")); err != nil {
		t.Error(err)
	}
	if _, err := xzibit.OpenUnlocked(x, addr, []byte("cafe"), ask(1, "cafe")); !errors.Is(err, xzibit.ErrPassword) {
		t.Errorf("a wrong password: %v", err)
	}
	if _, err := xzibit.OpenUnlocked(x, addr, []byte("caf\u00e9"), ask(2, "caf\u00e9")); !errors.Is(err, xzibit.ErrPassword) {
		t.Errorf("another server's help: %v", err)
	}
}

// TestSealUnlocked_Layout opens version 3 by the byte tables of the package comment
// alone.
func TestSealUnlocked_Layout(t *testing.T) {
	k := newKeyring(t)
	p := xzibit.Params{Time: 2, MemoryKiB: 64, Threads: 3}
	x, err := xzibit.SealUnlocked(k, addr, []byte("cafe\u0301"), output, p)
	if err != nil {
		t.Fatal(err)
	}
	u32 := func(at int) uint32 { return binary.BigEndian.Uint32(x[at:]) }
	if u32(0) != 3 || binary.BigEndian.Uint64(x[36:]) != uint64(len(x)-44) || u32(44) != 2 || u32(48) != 64 || u32(52) != 3 {
		t.Fatalf("header is %x", x[:56])
	}
	secret := append([]byte("\x00\x00\x00\x05caf\u00e9"), output...)
	aead, err := chacha20poly1305.NewX(argon2.IDKey(secret, x[4:36], 2, 64, 3, 32))
	if err != nil {
		t.Fatal(err)
	}
	ad := append(bytes.Clone(x[:80]), 0, 0, 0, byte(len(addr)))
	plaintext, err := aead.Open(nil, x[56:80], x[80:], append(ad, addr...))
	if err != nil || !bytes.Equal(plaintext, encode(t, k)) {
		t.Errorf("opened to %x, %v", plaintext, err)
	}
}

func TestOpenUnlocked_ErrPassword(t *testing.T) {
	x := mustSealUnlocked(t, newKeyring(t), password)
	other := bytes.Clone(output)
	other[63] ^= 1
	for name, c := range map[string]struct {
		addr, password string
		output         []byte
	}{
		"wrong password":  {addr, "correct hors", output},
		"wrong output":    {addr, string(password), other},
		"another account": {"alicf@cref.example", string(password), output},
		"no address":      {"", string(password), output},
	} {
		if k, err := xzibit.OpenUnlocked(x, c.addr, []byte(c.password), c.output); !errors.Is(err, xzibit.ErrPassword) || k != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestOpenUnlocked_Altered changes every byte, as TestOpen_Altered does.
func TestOpenUnlocked_Altered(t *testing.T) {
	x := mustSealUnlocked(t, newKeyring(t), password)
	for i := range x {
		altered := bytes.Clone(x)
		altered[i] ^= 1
		_, err := xzibit.OpenUnlocked(altered, addr, password, output)
		want := xzibit.ErrPassword
		switch {
		case i < 4:
			want = xzibit.ErrVersion // 3 becomes 2, and worse
		case i >= 36 && i < 44:
			want = xzibit.ErrFormat
		case i >= 44 && i < 49, i >= 52 && i < 56:
			want = xzibit.ErrParams
		}
		if !errors.Is(err, want) {
			t.Errorf("byte %d: %v, want %v", i, err, want)
		}
	}
}

func TestUnlocked_Err(t *testing.T) {
	k := newKeyring(t)
	long := bytes.Repeat([]byte("p"), 65535)
	for name, c := range map[string]struct {
		password, output []byte
		want             error
	}{
		"good":             {password, output, nil},
		"no password":      {nil, output, xzibit.ErrEmptyPassword},
		"longest password": {long, output, nil},
		"longer password":  {append(long, 'p'), output, oprf.ErrInput},
		// What is typed is short enough, and twice as long in NFC.
		"grows":        {bytes.Repeat([]byte("\u0958"), 12000), output, oprf.ErrInput},
		"no output":    {password, nil, xzibit.ErrOutput},
		"short output": {password, output[:63], xzibit.ErrOutput},
		"long output":  {password, append(bytes.Clone(output), 0), xzibit.ErrOutput},
	} {
		x, err := xzibit.SealUnlocked(k, addr, c.password, c.output, cheap)
		if !errors.Is(err, c.want) || (x == nil) != (c.want != nil) {
			t.Errorf("%s: sealed: %v, want %v", name, err, c.want)
		}
		if x == nil {
			x = mustSealUnlocked(t, k, password)
		}
		if _, err := xzibit.OpenUnlocked(x, addr, c.password, c.output); !errors.Is(err, c.want) {
			t.Errorf("%s: opened: %v, want %v", name, err, c.want)
		}
	}
	for name, c := range map[string]struct {
		keyring xzibit.Keyring
		addr    string
		params  xzibit.Params
		want    error
	}{
		"no key":     {xzibit.Keyring{}, addr, cheap, xzibit.ErrFormat},
		"no address": {*k, "", cheap, xzibit.ErrAddress},
		"no pass":    {*k, addr, xzibit.Params{Time: 0, MemoryKiB: 8, Threads: 1}, xzibit.ErrParams},
	} {
		if x, err := xzibit.SealUnlocked(&c.keyring, c.addr, password, output, c.params); !errors.Is(err, c.want) || x != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestUnlocked_Versions opens each version with the other's function.
func TestUnlocked_Versions(t *testing.T) {
	k := newKeyring(t)
	three := mustSealUnlocked(t, k, password)
	if ring, err := xzibit.Open(three, addr, password); !errors.Is(err, xzibit.ErrLocked) || ring != nil {
		t.Errorf("version 3 without the server: %v", err)
	}
	noPass := bytes.Clone(three)
	noPass[47] = 0
	if _, err := xzibit.Open(noPass, addr, password); !errors.Is(err, xzibit.ErrParams) {
		t.Errorf("version 3 without a pass: %v", err)
	}
	if err := xzibit.Check(noPass); !errors.Is(err, xzibit.ErrParams) {
		t.Errorf("version 3 without a pass is acceptable: %v", err)
	}
	one := loadVectors(t).Good[0].Xzibit
	two := mustSeal(t, k)
	for v, x := range map[uint32][]byte{1: one, 2: two, 3: three} {
		if got, err := xzibit.Version(x); got != v || err != nil {
			t.Errorf("version %d is said to be %d, %v", v, got, err)
		}
		if _, err := xzibit.OpenUnlocked(x, addr, password, output); v != 3 && !errors.Is(err, xzibit.ErrVersion) {
			t.Errorf("version %d with the server: %v", v, err)
		}
	}
	if _, err := xzibit.Version(three[:43]); !errors.Is(err, xzibit.ErrFormat) {
		t.Errorf("a cut header: %v", err)
	}
	three[3] = 4
	if _, err := xzibit.Version(three); !errors.Is(err, xzibit.ErrVersion) {
		t.Errorf("version 4: %v", err)
	}
}
