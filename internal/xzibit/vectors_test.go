package xzibit_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"testing"

	"golang.org/x/crypto/chacha20"
	"golang.org/x/crypto/poly1305" //lint:ignore SA1019 as in version 1
	"golang.org/x/crypto/scrypt"

	"cmtpd/internal/crypt"
	"cmtpd/internal/xzibit"
)

// hexBytes is a JSON string of hex digits.
type hexBytes []byte

func (h *hexBytes) UnmarshalText(text []byte) (err error) {
	*h, err = hex.DecodeString(string(text))
	return err
}

type vector struct {
	Name     string
	Password hexBytes
	Xzibit   hexBytes
	Secret   hexBytes `json:"ed25519_secret"`
}

type vectors struct {
	Good   []vector
	Bad    []vector
	Legacy vector `json:"legacy_aes256gcm"`
}

func loadVectors(t testing.TB) vectors {
	t.Helper()
	b, err := os.ReadFile("../../testdata/cmtp-0.01.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct{ Xzibit vectors }
	if err := json.Unmarshal(b, &file); err != nil {
		t.Fatal(err)
	}
	if v := file.Xzibit; len(v.Good) < 2 || len(v.Bad) < 7 || len(v.Legacy.Xzibit) == 0 {
		t.Fatal("vectors are missing")
	}
	return file.Xzibit
}

func TestOpen_Vectors(t *testing.T) {
	for _, v := range loadVectors(t).Good {
		if err := xzibit.Check(v.Xzibit); err != nil {
			t.Errorf("%s: %v", v.Name, err)
		}
		read, err := xzibit.ReadFrom(bytes.NewReader(v.Xzibit))
		if err != nil || !bytes.Equal(read, v.Xzibit) {
			t.Errorf("%s: read %x, %v", v.Name, read, err)
		}
		// Version 1 does not name its owner.
		k, err := xzibit.Open(v.Xzibit, "whoever@example.org", v.Password)
		if err != nil {
			t.Errorf("%s: %v", v.Name, err)
			continue
		}
		if len(k.Keys) != 1 || !bytes.Equal(k.Keys[0].Key.Bytes(), v.Secret) || !k.Keys[0].Made.IsZero() ||
			k.Server != (crypt.PublicKey{}) || len(k.Extra) != 0 {
			t.Errorf("%s: opened to %+v", v.Name, k)
		}
	}
}

func TestOpen_BadVectors(t *testing.T) {
	v := loadVectors(t)
	want := map[string]error{
		"wrong password":      xzibit.ErrPassword,
		"tag bit flipped":     xzibit.ErrPassword,
		"salt bit flipped":    xzibit.ErrPassword,
		"length field 2^64-1": xzibit.ErrFormat,
		"truncated":           xzibit.ErrFormat,
		"version 2":           xzibit.ErrFormat, // no version 2 is as short
		"empty":               xzibit.ErrFormat,
		"AES-256-GCM of 2016": xzibit.ErrPassword,
	}
	v.Legacy.Name = "AES-256-GCM of 2016"
	for _, b := range append(v.Bad, v.Legacy) {
		k, err := xzibit.Open(b.Xzibit, addr, b.Password)
		if want[b.Name] == nil || !errors.Is(err, want[b.Name]) || k != nil {
			t.Errorf("%s: %v, want %v", b.Name, err, want[b.Name])
		}
		if err := xzibit.Check(b.Xzibit); (err == nil) != (want[b.Name] == xzibit.ErrPassword) {
			t.Errorf("%s: Check says %v", b.Name, err)
		}
	}
}

// seal1 writes version 1 as the C tool did, which nothing but a test should.
func seal1(t *testing.T, plaintext, password []byte) []byte {
	t.Helper()
	salt := bytes.Repeat([]byte{7}, 32)
	key, err := scrypt.Key(password, salt, 16384, 8, 1, 32)
	if err != nil {
		t.Fatal(err)
	}
	c, err := chacha20.NewUnauthenticatedCipher(key, append(make([]byte, 4), salt[:8]...))
	if err != nil {
		t.Fatal(err)
	}
	var macKey [32]byte
	c.XORKeyStream(macKey[:], macKey[:])
	c.SetCounter(1)
	x := append([]byte{0, 0, 0, 1}, salt...)
	x = append(x, 0, 0, 0, 0, 0, 0, 0, 112)
	x = append(x, plaintext...)
	c.XORKeyStream(x[44:], x[44:])
	mac := poly1305.New(&macKey)
	mac.Write(make([]byte, 8))
	mac.Write(x[44:])
	mac.Write([]byte{96, 0, 0, 0, 0, 0, 0, 0})
	return mac.Sum(x)
}

// TestOpen_Version1Halves makes the three public keys of version 1 disagree.
func TestOpen_Version1Halves(t *testing.T) {
	a, b := newKey(t, 1), newKey(t, 2)
	pa, pb := a.Public(), b.Public()
	join := func(public, seed, inSecret []byte) []byte {
		return append(append(bytes.Clone(public), seed...), inSecret...)
	}
	seed := a.Bytes()[:32]
	for name, c := range map[string]struct {
		plaintext []byte
		want      error
	}{
		"all agree":           {join(pa[:], seed, pa[:]), nil},
		"public disagrees":    {join(pb[:], seed, pa[:]), crypt.ErrKeyHalves},
		"secret disagrees":    {join(pa[:], seed, pb[:]), crypt.ErrKeyHalves},
		"seed is another key": {join(pb[:], seed, pb[:]), crypt.ErrKeyHalves},
	} {
		_, err := xzibit.Open(seal1(t, c.plaintext, password), addr, password)
		if !errors.Is(err, c.want) || c.want != nil && !errors.Is(err, xzibit.ErrFormat) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

// TestOpen_Version1Normal opens what was sealed under either form of a password with
// the decomposed form, and what was sealed under the composed one only with itself.
func TestOpen_Version1Normal(t *testing.T) {
	composed, decomposed := []byte("caf\u00e9"), []byte("cafe\u0301")
	pub := newKey(t, 1).Public()
	plaintext := append(pub[:], newKey(t, 1).Bytes()...)
	for _, c := range []struct {
		sealed, typed []byte
		want          error
	}{
		{composed, composed, nil},
		{decomposed, decomposed, nil},
		{composed, decomposed, nil},
		{decomposed, composed, xzibit.ErrPassword},
	} {
		typed := bytes.Clone(c.typed)
		if _, err := xzibit.Open(seal1(t, plaintext, c.sealed), addr, typed); !errors.Is(err, c.want) {
			t.Errorf("sealed under %+q, opened with %+q: %v, want %v", c.sealed, c.typed, err, c.want)
		}
		if !bytes.Equal(typed, c.typed) {
			t.Error("the caller's password was overwritten")
		}
	}
}
