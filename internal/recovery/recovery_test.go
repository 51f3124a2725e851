package recovery_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cosmos/go-bip39"

	"cmtpd/internal/recovery"
)

const words = "ozone drill grab fiber curtain grace pudding thank cruise elder eight picnic"

func mustParse(t testing.TB, words string) *recovery.Secret {
	t.Helper()
	s, err := recovery.Parse(words)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestWords repeats the vectors that BIP-39 points to, as far as they have 12 words.
func TestWords(t *testing.T) {
	for entropy, want := range map[string]string{
		strings.Repeat("00", 16):           strings.Repeat("abandon ", 11) + "about",
		strings.Repeat("7f", 16):           "legal winner thank year wave sausage worth useful legal winner thank yellow",
		strings.Repeat("80", 16):           "letter advice cage absurd amount doctor acoustic avoid letter advice cage above",
		strings.Repeat("ff", 16):           strings.Repeat("zoo ", 11) + "wrong",
		"9e885d952ad362caeb4efe34a8e91bd2": words,
	} {
		s := mustParse(t, want)
		if got := hex.EncodeToString(s.Entropy()); got != entropy {
			t.Errorf("%s: read as %s, want %s", want, got, entropy)
		}
		if got := s.Words(); got != want {
			t.Errorf("%s is shown as %s", entropy, got)
		}
	}
}

// TestList holds the library's list to the one of BIP-39, whose hash is well known.
func TestList(t *testing.T) {
	sum := sha256.Sum256([]byte(strings.Join(bip39.WordList, "\n") + "\n"))
	if got := hex.EncodeToString(sum[:]); got != "2f5eed53a4727b4bf8880d8f3f199efc90e58503646d9ff8eff3a2ed3b24dbda" {
		t.Errorf("the list has the hash %s", got)
	}
}

func TestNew(t *testing.T) {
	a, err := recovery.New()
	if err != nil {
		t.Fatal(err)
	}
	b, err := recovery.New()
	if err != nil {
		t.Fatal(err)
	}
	if a.Words() == b.Words() {
		t.Error("two secrets are alike")
	}
	again := mustParse(t, a.Words())
	if !bytes.Equal(again.Entropy(), a.Entropy()) {
		t.Errorf("%s does not come back", a.Words())
	}
}

func TestParse_Forgiving(t *testing.T) {
	wide := strings.Map(func(r rune) rune { // as an input method for Chinese types them
		if r == ' ' {
			return '\u3000'
		}
		return r - 'a' + '\uff41'
	}, words)
	for name, typed := range map[string]string{
		"upper case":  strings.ToUpper(words),
		"title":       strings.ReplaceAll(words, "o", "O"),
		"white space": " \t" + strings.ReplaceAll(words, " ", "\r\n  ") + "\n",
		"no-break":    strings.ReplaceAll(words, " ", "\u00a0"),
		"full width":  wide,
	} {
		if s, err := recovery.Parse(typed); err != nil || s.Words() != words {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestParse_Err(t *testing.T) {
	list := strings.Fields(words)
	with := func(at int, word string) string {
		l := append([]string(nil), list...)
		l[at] = word
		return strings.Join(l, " ")
	}
	for name, c := range map[string]struct {
		typed string
		want  error
		says  string
	}{
		"nothing":      {"", recovery.ErrCount, "not 0"},
		"eleven":       {strings.Join(list[:11], " "), recovery.ErrCount, "not 11"},
		"thirteen":     {words + " zoo", recovery.ErrCount, "not 13"},
		"fifteen":      {strings.Repeat("abandon ", 14) + "address", recovery.ErrCount, "not 15"},
		"first word":   {with(0, "ozon"), recovery.ErrWord, "word 1:"},
		"last word":    {with(11, "picnics"), recovery.ErrWord, "word 12:"},
		"a password":   {with(4, "hunter2"), recovery.ErrWord, "word 5:"},
		"accent":       {with(4, "curt\u00e1in"), recovery.ErrWord, "word 5:"},
		"another word": {with(4, "zoo"), recovery.ErrChecksum, ""},
		"order":        {list[1] + " " + list[0] + " " + strings.Join(list[2:], " "), recovery.ErrChecksum, ""},
		"longest text": {words + strings.Repeat(" ", 4096-len(words)), nil, ""},
		"longer text":  {words + strings.Repeat(" ", 4097-len(words)), recovery.ErrCount, "4097"},
	} {
		s, err := recovery.Parse(c.typed)
		if !errors.Is(err, c.want) || (s == nil) != (c.want != nil) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
			continue
		}
		if err != nil && (!strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "hunter2")) {
			t.Errorf("%s: says %q, which should hold %q", name, err, c.says)
		}
	}
}

func TestSecret_Key(t *testing.T) {
	s := mustParse(t, words)
	k, err := s.Key()
	if err != nil {
		t.Fatal(err)
	}
	seed := sha256.Sum256(append([]byte("CMTP-1 recovery key\x00"), s.Entropy()...))
	if want := ed25519.NewKeyFromSeed(seed[:]); !bytes.Equal(k.Bytes(), want) {
		t.Errorf("the key is %x, want %x", k.Bytes(), want)
	}
}

// TestVectors repeats what testdata/cmtp-1-xzibit.json has for this package.
func TestVectors(t *testing.T) {
	b, err := os.ReadFile("../../testdata/cmtp-1-xzibit.json")
	if err != nil {
		t.Fatal(err)
	}
	var v struct {
		Recovery struct{ Entropy, Words, Seed, Public string }
	}
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	s := mustParse(t, v.Recovery.Words)
	k, err := s.Key()
	if err != nil {
		t.Fatal(err)
	}
	if got := hex.EncodeToString(s.Entropy()); got != v.Recovery.Entropy {
		t.Errorf("the words are read as %s, want %s", got, v.Recovery.Entropy)
	}
	if got := hex.EncodeToString(k.Bytes()); got != v.Recovery.Seed+v.Recovery.Public {
		t.Errorf("the key is %s, want %s%s", got, v.Recovery.Seed, v.Recovery.Public)
	}
}

func TestSecret_Wipe(t *testing.T) {
	s := mustParse(t, words)
	entropy := s.Entropy()
	s.Wipe()
	if !bytes.Equal(entropy, make([]byte, recovery.EntropySize)) {
		t.Errorf("%x is left", entropy)
	}
	for name, use := range map[string]func(){"Words": func() { _ = s.Words() }, "Key": func() { _, _ = s.Key() }} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s uses a wiped secret", name)
				}
			}()
			use()
		}()
	}
}

func TestSecret_Redacted(t *testing.T) {
	s := mustParse(t, words)
	for what, v := range map[string]any{"pointer": s, "value": *s, "struct": struct{ s *recovery.Secret }{s}} {
		var log bytes.Buffer
		slog.New(slog.NewTextHandler(&log, nil)).Info("", "v", v)
		text := log.String()
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d", "%q"} {
			text += fmt.Sprintf(verb, v)
		}
		if b, err := json.Marshal(v); err == nil {
			text += string(b)
		}
		text = strings.ToLower(text)
		for _, piece := range []string{"ozone", "9e885d", "158 136 93", "0x9e, 0x88"} {
			if strings.Contains(text, piece) {
				t.Errorf("the %s prints %s", what, piece)
			}
		}
		if what != "struct" && !strings.Contains(text, "redacted") {
			t.Errorf("the %s prints %s", what, text)
		}
	}
}

// FuzzParse: what is read is shown as the same words, but for case, white space and
// Unicode form, and is read again as the same secret.
func FuzzParse(f *testing.F) {
	seeds, err := filepath.Glob(filepath.Join("testdata", "fuzz", f.Name(), "*"))
	if err != nil || len(seeds) == 0 {
		f.Fatalf("no seeds: %v", err)
	}
	for _, s := range seeds {
		if info, err := os.Stat(s); err != nil || info.Size() == 0 {
			f.Fatalf("seed %s: %v", s, err)
		}
	}
	f.Fuzz(func(t *testing.T, typed string) {
		s, err := recovery.Parse(typed)
		if err != nil {
			if !errors.Is(err, recovery.ErrCount) && !errors.Is(err, recovery.ErrWord) && !errors.Is(err, recovery.ErrChecksum) {
				t.Fatalf("an undocumented error: %v", err)
			}
			return
		}
		shown := s.Words()
		if again := mustParse(t, shown); !bytes.Equal(again.Entropy(), s.Entropy()) {
			t.Fatalf("%q becomes %x, then %x", typed, s.Entropy(), again.Entropy())
		}
		if list := strings.Fields(typed); isASCII(typed) && !strings.EqualFold(strings.Join(list, " "), shown) {
			t.Fatalf("%q is shown as %q", typed, shown)
		}
	})
}

func isASCII(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r > 127 }) < 0
}
