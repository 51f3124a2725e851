package invite_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode"

	"cmtpd/internal/crypt"
	"cmtpd/internal/invite"
)

var update = flag.Bool("update", false, "write the test vectors anew")

const vectorsFile = "../../testdata/cmtp-1-invite.json"

// vectors are one code and all that is made of it.
type vectors struct {
	Comment      string `json:"comment"`
	ServerSeed   string `json:"server_seed"`
	ServerPublic string `json:"server_ed25519_public"`
	SecretBits   string `json:"secret_60_bits"`
	ServerBits   string `json:"server_60_bits"`
	Code         string `json:"code"`
	Secret       string `json:"secret"`
	Account      string `json:"account_id"`
	Hash         string `json:"secret_sha256"`
}

const secretBits = 0x123456789abcdef

func server(tb testing.TB) crypt.PublicKey {
	tb.Helper()
	seed := make([]byte, crypt.SeedSize)
	for i := range seed {
		seed[i] = byte(i)
	}
	key, err := crypt.PrivateKeyFromSeed(seed)
	if err != nil {
		tb.Fatal(err)
	}
	return key.Public()
}

// expected makes the vectors without the package: with another base32 and by the
// letter of protocol.md section 20.
func expected(tb testing.TB) vectors {
	key := server(tb)
	bits := fmt.Sprintf("%015x", secretBits)
	sum := sha256.Sum256([]byte("CMTP-1 invitation\x00" + string(key[:]) + crockford(tb, bits)))
	theirs := hex.EncodeToString(sum[:])[:15] // 60 bits are 15 hex digits
	code := crockford(tb, bits) + crockford(tb, theirs)
	account := []byte("0123456789abcdef")
	hash := sha256.Sum256([]byte("CMTP-1 invitation secret\x00" + string(account) + code[:12]))
	shown := code[:4]
	for i := 4; i < 24; i += 4 {
		shown += "-" + code[i:i+4]
	}
	return vectors{
		Comment:    "protocol.md section 20; 60 bits are 15 hex digits, the most significant first",
		ServerSeed: "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f", ServerPublic: hex.EncodeToString(key[:]),
		SecretBits: bits, ServerBits: theirs, Code: shown, Secret: code[:12],
		Account: hex.EncodeToString(account), Hash: hex.EncodeToString(hash[:]),
	}
}

// crockford returns 15 hex digits as 12 symbols.
func crockford(tb testing.TB, digits string) string {
	tb.Helper()
	n, ok := new(big.Int).SetString(digits, 16)
	if !ok {
		tb.Fatal(digits)
	}
	return strings.Map(func(r rune) rune {
		return rune("0123456789ABCDEFGHJKMNPQRSTVWXYZ"[strings.IndexRune("0123456789abcdefghijklmnopqrstuv", r)])
	}, fmt.Sprintf("%012s", n.Text(32)))
}

func TestVectors(t *testing.T) {
	want := expected(t)
	if *update {
		b, err := json.MarshalIndent(want, "", "  ")
		if err == nil {
			err = os.WriteFile(vectorsFile, append(b, '\n'), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(vectorsFile)
	if err != nil {
		t.Fatal(err)
	}
	var v vectors
	if err := json.Unmarshal(b, &v); err != nil || v != want {
		t.Fatalf("the file has %+v, %v\nwant %+v", v, err, want)
	}
	c := invite.FromBits(secretBits, server(t))
	if c.Reveal() != v.Code || c.Secret().Reveal() != v.Secret || !c.IsFor(server(t)) {
		t.Errorf("the code is %s with the secret %s, want %s and %s", c.Reveal(), c.Secret().Reveal(), v.Code, v.Secret)
	}
	account := [16]byte([]byte("0123456789abcdef"))
	hash := invite.HashSecret(account, c.Secret())
	if hex.EncodeToString(hash[:]) != v.Hash {
		t.Errorf("the hash is %x, want %s", hash, v.Hash)
	}
	// The document shows this code.
	doc, err := os.ReadFile("../../docs/protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(doc), "\n## 20.")
	section, _, _ = strings.Cut(section, "\n## ")
	for _, part := range []string{v.SecretBits, v.ServerBits, v.Code, v.Secret, v.Account, v.Hash[:32], v.Hash[32:]} {
		if !strings.Contains(section, part) {
			t.Errorf("section 20 of protocol.md does not have %s", part)
		}
	}
}

func TestNew(t *testing.T) {
	key := server(t)
	seen := make(map[string]bool)
	var or, and uint64 = 0, 1<<64 - 1
	for range 200 {
		c := invite.New(key)
		if !c.IsFor(key) || c.IsZero() || seen[c.Reveal()] {
			t.Fatal("the code is for another server, none, or not random")
		}
		seen[c.Reveal()] = true
		n, err := parseBits(c.Secret().Reveal())
		if err != nil {
			t.Fatal(err)
		}
		or, and = or|n, and&n
	}
	if or != 1<<60-1 || and != 0 {
		t.Errorf("of 60 bits %x were ever set and %x always", or, and)
	}
}

// parseBits reads symbols with the other base32.
func parseBits(s string) (uint64, error) {
	digits := strings.Map(func(r rune) rune {
		return rune("0123456789abcdefghijklmnopqrstuv"[strings.IndexRune("0123456789ABCDEFGHJKMNPQRSTVWXYZ", r)])
	}, s)
	n, ok := new(big.Int).SetString(digits, 32)
	if !ok || !n.IsUint64() {
		return 0, errors.New("no number")
	}
	return n.Uint64(), nil
}

func TestCode_IsFor(t *testing.T) {
	key := server(t)
	c := invite.New(key)
	for i := range 256 {
		other := key
		other[i/8] ^= 1 << (i % 8)
		if c.IsFor(other) {
			t.Fatalf("the code is for a key with another bit %d", i)
		}
	}
	// Each symbol tells, those of the secret too.
	text := strings.ReplaceAll(c.Reveal(), "-", "")
	for i := range text {
		typo := []byte(text)
		if typo[i]++; strings.IndexByte("0123456789ABCDEFGHJKMNPQRSTVWXYZ", typo[i]) < 0 {
			typo[i] = '0'
		}
		wrong, err := invite.Parse(string(typo))
		if err != nil {
			t.Fatal(err)
		}
		if wrong.IsFor(key) {
			t.Errorf("with another symbol %d the code is for the server", i+1)
		}
	}
}

func TestParse(t *testing.T) {
	c := invite.FromBits(1<<55|0x1f, server(t)) // has a 1 and zeros
	want := c.Reveal()
	bare := strings.ReplaceAll(want, "-", "")
	for what, in := range map[string]string{
		"as shown":       want,
		"bare":           bare,
		"lower case":     strings.ToLower(want),
		"spaces":         "  " + strings.ReplaceAll(want, "-", " ") + "\n",
		"spaced out":     strings.Join(strings.Split(bare, ""), " - "),
		"other dashes":   strings.ReplaceAll(want, "-", "\u2013") + "\u00a0\u2011",
		"I and O":        strings.NewReplacer("1", "I", "0", "O").Replace(want),
		"l and o":        strings.NewReplacer("1", "l", "0", "o").Replace(want),
		"i and L":        strings.NewReplacer("1", "i", "0", "o").Replace(strings.ToLower(want)),
		"at the longest": want + strings.Repeat(" ", invite.MaxTyped-len(want)),
	} {
		got, err := invite.Parse(in)
		if err != nil || got.Reveal() != want {
			t.Errorf("%s: %v", what, err)
		}
	}
	for in, text := range map[string]string{
		"":                        "it has 0 characters",
		bare[:23]:                 "it has 23 characters",
		bare + "0":                "it has 25 characters",
		"U" + bare[1:]:            "character 1,",
		bare[:23] + "u":           "character 24,",
		want[:5] + "!" + want[6:]: "character 5,",
		bare[:23] + "\u017f":      "character 24,", // upper case would make an S of it
		bare[:23] + "\uff11":      "character 24,",
		bare[:23] + "\xff":        "character 24,",
		strings.Repeat(" ", invite.MaxTyped) + "0": "far too long",
	} {
		_, err := invite.Parse(in)
		if !errors.Is(err, invite.ErrCode) || !strings.Contains(err.Error(), text) {
			t.Errorf("%q: %v, want %q", in, err, text)
		}
		if err != nil && len(in) > 20 && shares(err.Error(), bare) {
			t.Errorf("%v shows a part of the code", err)
		}
	}
}

// shares reports whether four symbols of the code stand in the text.
func shares(text, code string) bool {
	for i := range len(code) - 3 {
		if strings.Contains(text, code[i:i+4]) {
			return true
		}
	}
	return false
}

func TestParseSecret(t *testing.T) {
	c := invite.New(server(t))
	s, err := invite.ParseSecret(c.Secret().Reveal())
	if err != nil || s.Reveal() != c.Secret().Reveal() {
		t.Fatal(err)
	}
	for _, in := range []string{"", "0123456789A", "0123456789ABC", "0123456789aB", "0123-456789A", "0123456789AU", "0123456789A\x00", "012345U789AB"} {
		if _, err := invite.ParseSecret(in); !errors.Is(err, invite.ErrSecret) || in != "" && strings.Contains(err.Error(), in) {
			t.Errorf("%q: %v", in, err)
		}
	}
}

func TestMatches(t *testing.T) {
	s, other := invite.New(server(t)).Secret(), invite.New(server(t)).Secret()
	account := [16]byte{1}
	kept := invite.HashSecret(account, s)
	if !invite.Matches(kept, account, s) {
		t.Error("the right secret is refused")
	}
	if invite.Matches(kept, account, other) || invite.Matches(kept, [16]byte{2}, s) || invite.Matches([32]byte{}, account, s) {
		t.Error("a wrong secret, or another account's, is taken")
	}
}

// However a code is printed by mistake, nothing of it is seen.
func TestRedacted(t *testing.T) {
	c := invite.FromBits(secretBits, server(t))
	hidden := struct {
		c invite.Code
		s invite.Secret
	}{c, c.Secret()}
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "c", c, "s", c.Secret(), "all", hidden)
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "c", c, "s", c.Secret())
	text := log.String()
	const want = "[redacted invitation]"
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t"} {
		for _, v := range []any{c, &c, c.Secret()} {
			if got := fmt.Sprintf(verb, v); got != want {
				t.Errorf("%s of %T is %q", verb, v, got)
			}
		}
		text += fmt.Sprintf(verb+" "+verb+" "+verb+" "+verb+"\n", c, &c, c.Secret(), hidden)
	}
	b, err := json.Marshal(map[string]any{"c": c, "s": c.Secret()})
	if err != nil {
		t.Fatal(err)
	}
	text += string(b)
	if string(b) != `{"c":"`+want+`","s":"`+want+`"}` {
		t.Errorf("as JSON they are %s", b)
	}
	for _, v := range []slog.LogValuer{c, c.Secret()} {
		if v.LogValue().String() != want {
			t.Errorf("%T is logged as %s", v, v.LogValue())
		}
	}
	for _, part := range []string{c.Reveal(), c.Secret().Reveal(), c.Reveal()[:4], fmt.Sprint(uint64(secretBits)), fmt.Sprintf("%x", secretBits), hex.EncodeToString([]byte(c.Secret().Reveal()))} {
		if strings.Contains(strings.ToLower(text), strings.ToLower(part)) {
			t.Errorf("%s stands in\n%s", part, text)
		}
	}
}

// FuzzParse: what is accepted is shown in one form, which is read as the same; spaces
// and dashes change nothing; and errors are fit for a terminal.
func FuzzParse(f *testing.F) {
	seeds, err := filepath.Glob("testdata/fuzz/FuzzParse/*")
	if err != nil || len(seeds) < 5 {
		f.Fatalf("the committed corpus is missing: %d seeds, %v", len(seeds), err)
	}
	f.Fuzz(func(t *testing.T, in string) {
		c, err := invite.Parse(in)
		if err != nil {
			if !errors.Is(err, invite.ErrCode) || strings.ContainsFunc(err.Error(), func(r rune) bool { return !unicode.IsPrint(r) }) {
				t.Errorf("the error is %q", err)
			}
			return
		}
		shown := c.Reveal()
		again, err := invite.Parse(shown)
		if err != nil || again.Reveal() != shown || len(shown) != 29 {
			t.Errorf("%q is shown as %q, %v", in, shown, err)
		}
		s, err := invite.ParseSecret(c.Secret().Reveal())
		if err != nil || s.Reveal() != strings.ReplaceAll(shown[:14], "-", "") {
			t.Errorf("the secret of %q: %v", shown, err)
		}
	})
}
