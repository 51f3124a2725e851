package shorebird_test

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"cmtpd/internal/cache"
	"cmtpd/internal/client/clienttest"
	"cmtpd/internal/crypt"
	"cmtpd/internal/shorebird"
)

func TestWords(t *testing.T) {
	old, newer, other := clienttest.Key(t), clienttest.Key(t), clienttest.Key(t)
	message, words := cache.Digest{1}, []string{"work", "größer"}
	sealed, err := shorebird.SealWords(message, words, []*crypt.PrivateKey{old})
	if err != nil {
		t.Fatal(err)
	}
	if got, ok := shorebird.OpenWords(message, sealed, []*crypt.PrivateKey{newer, old}); !ok || !slices.Equal(got, words) {
		t.Errorf("%q, %v", got, ok)
	}
	if _, ok := shorebird.OpenWords(message, sealed, []*crypt.PrivateKey{other}); ok {
		t.Error("another key opens them")
	}
	if _, ok := shorebird.OpenWords(cache.Digest{2}, sealed, []*crypt.PrivateKey{old}); ok {
		t.Error("they open at another message")
	}
	for _, b := range [][]byte{sealed[:23], sealed[:len(sealed)-1], append([]byte{0}, sealed...)} {
		if _, ok := shorebird.OpenWords(message, b, []*crypt.PrivateKey{old}); ok {
			t.Errorf("%d bytes open", len(b))
		}
	}
	if got, ok := shorebird.OpenWords(message, nil, []*crypt.PrivateKey{old}); !ok || len(got) > 0 {
		t.Errorf("none are %q, %v", got, ok)
	}
	// 88 bytes of words, each with its NUL, are what fits.
	if _, err := shorebird.SealWords(message, []string{strings.Repeat("x", 87)}, []*crypt.PrivateKey{old}); err != nil {
		t.Error(err)
	}
	if _, err := shorebird.SealWords(message, []string{strings.Repeat("x", 88)}, []*crypt.PrivateKey{old}); err == nil || !strings.Contains(err.Error(), "by 1 bytes") {
		t.Errorf("one byte too many: %v", err)
	}
}

// The example of docs/protocol.md section 29.3, which another program has made, opens.
func TestWords_Example(t *testing.T) {
	doc, err := os.ReadFile("../../docs/protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	row := func(name string) []byte {
		t.Helper()
		m := regexp.MustCompile(`(?m)^\| ` + name + ` \| .([0-9a-f]+). \|$`).FindSubmatch(doc)
		if m == nil {
			t.Fatalf("the document has no %s", name)
		}
		b, err := hex.DecodeString(string(m[1]))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	key, err := crypt.PrivateKeyFromSeed(row("the key's seed"))
	if err != nil {
		t.Fatal(err)
	}
	message := cache.Digest(row("SHA-256 of the message"))
	if message != sha256.Sum256([]byte("message")) {
		t.Error("another message")
	}
	got, ok := shorebird.OpenWords(message, row("keywords"), []*crypt.PrivateKey{key})
	if want := strings.Split(strings.TrimSuffix(string(row("words")), "\x00"), "\x00"); !ok || !slices.Equal(got, want) {
		t.Errorf("%q, %v, not %q", got, ok, want)
	}
}
