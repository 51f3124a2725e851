package shorebird_test

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/rivo/uniseg"

	"cmtpd/internal/cache"
	"cmtpd/internal/client/clienttest"
	"cmtpd/internal/crypt"
	"cmtpd/internal/shorebird"
)

func TestOneLine(t *testing.T) {
	for in, want := range map[string]string{
		"plain":                                  "plain",
		"  a \t\r\n b\u00a0\u3000\u2800\u3164c ": "a b c",
		"a\x1b[31mb":                             "a\ufffd[31mb",
		"\u202eabc\u2066\u200e":                  "\ufffdabc\ufffd\ufffd",
		"\xff\xfe":                               "\ufffd\ufffd",
		"\U000e0041\ue000\ufeff":                 "\ufffd\ufffd\ufffd",
		"👩\u200d🔬":                               "👩\u200d🔬",
	} {
		if got := shorebird.OneLine(in); got != want {
			t.Errorf("%q is shown as %q, want %q", in, got, want)
		}
	}
}

func TestClip(t *testing.T) {
	for _, tt := range []struct {
		in    string
		width int
		want  string
	}{
		{"short", 5, "short"}, {"shorter", 5, "shor…"}, {"x", 0, "…"}, {"", 3, ""},
		{"漢字漢字", 8, "漢字漢字"}, {"漢字漢字", 7, "漢字漢…"}, {"漢字漢字", 6, "漢字…"}, {"👩\u200d🔬ab", 5, "👩\u200d🔬…"},
		// As wide as the terminal that shows its parts side by side makes it.
		{"👩\u200d🔬ab", 3, "…"}, {"👨\u200d👩\u200d👧\u200d👦x", 9, "👨\u200d👩\u200d👧\u200d👦x"}, {"👨\u200d👩\u200d👧\u200d👦x", 8, "…"},
		{"🇩🇪🇩🇪", 8, "🇩🇪🇩🇪"}, {"🇩🇪🇩🇪", 7, "🇩🇪…"}, {"👍🏿", 4, "👍🏿"}, {"👍🏿", 3, "…"}, {"1\ufe0f\u20e3", 2, "1\ufe0f\u20e3"}, {"1\ufe0f\u20e3", 1, "…"},
	} {
		if got := shorebird.Clip(tt.in, tt.width); got != tt.want {
			t.Errorf("%q in %d columns is %q, want %q", tt.in, tt.width, got, tt.want)
		}
	}
	if got := shorebird.Clip("a"+strings.Repeat("\u0301", 1000), 5); len(got) > 20 {
		t.Errorf("a letter with a thousand marks is shown with %d bytes", len(got))
	}
}

func TestWrap(t *testing.T) {
	long := strings.Repeat("word 漢字 ", 50) + strings.Repeat("x", 500)
	lines := shorebird.Wrap(long, 30, 6)
	if len(lines) != 6 || !strings.HasSuffix(lines[5], "…") {
		t.Errorf("%q", lines)
	}
	for _, l := range lines {
		if uniseg.StringWidth(l) > 30 {
			t.Errorf("%d columns: %q", uniseg.StringWidth(l), l)
		}
	}
	for _, l := range shorebird.Wrap(strings.Repeat("🇩🇪", 20), 30, 6) {
		if n := strings.Count(l, "🇩🇪"); n > 7 {
			t.Errorf("%d flags, which may take 4 columns each: %q", n, l)
		}
	}
	if got := shorebird.Wrap("one two", 5, 3); !slices.Equal(got, []string{"one", "two"}) {
		t.Errorf("%q", got)
	}
	if got := shorebird.Wrap("", 5, 3); !slices.Equal(got, []string{""}) {
		t.Errorf("%q", got)
	}
}

// A shell takes the quotation marks; what was one argument stays together.
func TestQuery(t *testing.T) {
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"a b"}, "a b"}, {[]string{"a", "b c"}, `a "b c"`}, {[]string{"from:bob", "subject:two words"}, `from:bob subject:"two words"`},
		{[]string{`"a b" c`, "d"}, `"a b" c d`},
	} {
		if got := shorebird.Query(tt.args); got != tt.want {
			t.Errorf("%q: %q, want %q", tt.args, got, tt.want)
		}
	}
}

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
