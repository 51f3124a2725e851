package discovery_test

import (
	"encoding/base64"
	"errors"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"cmtpd/internal/crypt"
	"cmtpd/internal/discovery"
)

// testKey returns the key whose seed is n and zeros, and its base64.
func testKey(tb testing.TB, n byte) (crypt.PublicKey, string) {
	tb.Helper()
	seed := make([]byte, crypt.SeedSize)
	seed[0] = n
	key, err := crypt.PrivateKeyFromSeed(seed)
	if err != nil {
		tb.Fatal(err)
	}
	pk := key.Public()
	return pk, base64.StdEncoding.EncodeToString(pk[:])
}

func testKeys(tb testing.TB, n int) (tags string) {
	for i := range n {
		_, text := testKey(tb, byte(i+1))
		tags += ";p=" + text
	}
	return tags
}

func TestParseRecord(t *testing.T) {
	one, oneText := testKey(t, 1)
	two, twoText := testKey(t, 2)
	bare := discovery.Record{Mode: discovery.None, MaxAge: discovery.DefaultMaxAge}
	withKey := bare
	withKey.Keys = []crypt.PublicKey{one}
	full := discovery.Record{
		Keys: []crypt.PublicKey{one, two}, Successor: two, Port: 2525, Mode: discovery.Enforce, MaxAge: time.Hour,
	}
	for _, c := range []struct {
		name, text string
		want       discovery.Record
	}{
		{"version alone", "v=CMTP1", bare},
		{"closed", "v=CMTP1;", bare},
		{"closed with blanks", "v=CMTP1; \t", bare},
		{"blanks", " \tv =\tCMTP1 ;\tp = " + oneText + " ; k\t=ed25519\t", withKey},
		{"no blanks", "v=CMTP1;k=ed25519;p=" + oneText, withKey},
		{"all", "v=CMTP1; k=ed25519; p=" + oneText + "; p=" + twoText + "; n=" + twoText + "; port=2525; mode=enforce; max-age=3600", full},
		{"any order", "v=CMTP1;max-age=3600;mode=enforce;p=" + oneText + ";port=2525;n=" + twoText + ";k=ed25519;p=" + twoText, full},
		{"unknown tags", "v=CMTP1; x=; t_2-y=a b=c\td; x=1; p=" + oneText + "; P=?; Mode=enforce", withKey},
		{"mode none", "v=CMTP1; mode=none", bare},
		{"testing without a key", "v=CMTP1; mode=testing", discovery.Record{Mode: discovery.Testing, MaxAge: bare.MaxAge}},
		{"numbers at their least", "v=CMTP1; port=1; max-age=0", discovery.Record{Port: 1, Mode: discovery.None}},
		{"numbers at their most", "v=CMTP1; port=65535; max-age=31557600", discovery.Record{Port: 65535, Mode: discovery.None, MaxAge: discovery.MaxMaxAge}},
	} {
		got, err := discovery.ParseRecord(c.text)
		if err != nil || !reflect.DeepEqual(*got, c.want) {
			t.Errorf("%s: got %+v, %v; want %+v", c.name, got, err, c.want)
			continue
		}
		again, err := discovery.ParseRecord(got.String())
		if err != nil || !reflect.DeepEqual(again, got) {
			t.Errorf("%s: %q is read as %+v, %v", c.name, got, again, err)
		}
	}
	if got := full.String(); got != "v=CMTP1; k=ed25519; p="+oneText+"; p="+twoText+"; n="+twoText+"; port=2525; mode=enforce; max-age=3600" {
		t.Errorf("written as %q", got)
	}
	if got := (&discovery.Record{Keys: withKey.Keys, MaxAge: bare.MaxAge}).String(); got != "v=CMTP1; k=ed25519; p="+oneText {
		t.Errorf("defaults are written as %q", got)
	}
}

// What must not count is either somebody else's or refused with a reason.
func TestParseRecord_Refused(t *testing.T) {
	_, key := testKey(t, 1)
	_, other := testKey(t, 2)
	url := strings.NewReplacer("+", "-", "/", "_").Replace("v=CMTP1;p=" + "+/" + key[2:])
	for _, c := range []struct{ name, text, why string }{
		{"empty", "", ""},
		{"SPF", "v=spf1 -all", ""},
		{"a later version", "v=CMTP2; p=" + key, ""},
		{"a longer version", "v=CMTP10", ""},
		{"small letters", "v=cmtp1", ""},
		{"a large tag", "V=CMTP1", ""},
		{"version not first", "k=ed25519; v=CMTP1", ""},
		{"behind a semicolon", ";v=CMTP1", ""},
		{"no semicolon", "v=CMTP1 p=" + key, ""},
		{"other white space", "v=CMTP1\u00a0;", ""},

		{"version twice", "v=CMTP1; v=CMTP1", "twice"},
		{"k twice", "v=CMTP1; k=ed25519; k=ed25519", "twice"},
		{"n twice", "v=CMTP1; n=" + key + "; n=" + other, "twice"},
		{"port twice", "v=CMTP1; port=25; port=25", "twice"},
		{"mode twice", "v=CMTP1; mode=none; mode=none", "twice"},
		{"max-age twice", "v=CMTP1; max-age=1; max-age=1", "twice"},
		{"a key twice", "v=CMTP1; p=" + key + "; p=" + key, "twice"},
		{"another algorithm", "v=CMTP1; k=ed448", "ed25519"},
		{"algorithm in capitals", "v=CMTP1; k=Ed25519", "ed25519"},
		{"no key", "v=CMTP1; p=", "32 bytes"},
		{"short key", "v=CMTP1; p=" + key[:40], "32 bytes"},
		{"long key", "v=CMTP1; p=" + key[:43] + "AAAA=", "32 bytes"},
		{"33 bytes", "v=CMTP1; p=" + key[:43] + "A", "33 bytes"},
		{"31 bytes", "v=CMTP1; p=" + key[:42] + "==", "32 bytes"},
		{"no padding", "v=CMTP1; p=" + key[:43], "32 bytes"},
		{"unused bits", "v=CMTP1; p=" + key[:42] + "B=", "32 bytes"},
		{"base64url", url, "32 bytes"},
		{"blanks in a key", "v=CMTP1; p=" + key[:20] + " " + key[20:], "32 bytes"},
		{"small order", "v=CMTP1; p=" + base64.StdEncoding.EncodeToString(make([]byte, 32)), "public key"},
		{"bad successor", "v=CMTP1; n=" + base64.StdEncoding.EncodeToString(make([]byte, 32)), "public key"},
		{"port 0", "v=CMTP1; port=0", "number"},
		{"port 65536", "v=CMTP1; port=65536", "number"},
		{"leading zero", "v=CMTP1; port=025", "number"},
		{"sign", "v=CMTP1; port=+25", "number"},
		{"no port", "v=CMTP1; port=", "number"},
		{"a year and a second", "v=CMTP1; max-age=31557601", "number"},
		{"negative", "v=CMTP1; max-age=-1", "number"},
		{"huge", "v=CMTP1; max-age=99999999999999999999", "number"},
		{"unknown mode", "v=CMTP1; mode=Enforce; p=" + key, "enforce, testing"},
		{"no mode", "v=CMTP1; mode=", "enforce, testing"},
		{"enforce without a key", "v=CMTP1; mode=enforce", "nobody"},
		{"no tag", "v=CMTP1; p", "no tag"},
		{"an empty tag", "v=CMTP1;; port=25", "no tag"},
		{"two at the end", "v=CMTP1;;", "no tag"},
		{"no name", "v=CMTP1; =x", "no tag"},
		{"digit first", "v=CMTP1; 1x=y", "no tag"},
		{"a name with a dot", "v=CMTP1; x.y=z", "no tag"},
		{"a name beyond ASCII", "v=CMTP1; \xe1x=z", "no tag"},
		{"a control", "v=CMTP1; x=a\nb", "byte 0x0a"},
		{"DEL", "v=CMTP1; x=\x7f", "byte 0x7f"},
		{"beyond ASCII", "v=CMTP1; x=é", "byte 0xc3"},
	} {
		got, err := discovery.ParseRecord(c.text)
		switch {
		case got != nil:
			t.Errorf("%s was taken: %+v", c.name, got)
		case c.why == "" && err != discovery.ErrNotARecord:
			t.Errorf("%s: %v", c.name, err)
		case c.why != "" && (!errors.Is(err, discovery.ErrRecord) || !strings.Contains(err.Error(), c.why)):
			t.Errorf("%s: %v, want something about %q", c.name, err, c.why)
		}
	}
}

func TestParseRecord_Limits(t *testing.T) {
	got, err := discovery.ParseRecord("v=CMTP1" + testKeys(t, discovery.MaxKeys))
	if err != nil || len(got.Keys) != discovery.MaxKeys {
		t.Errorf("%d keys: %+v, %v", discovery.MaxKeys, got, err)
	}
	if _, err := discovery.ParseRecord("v=CMTP1" + testKeys(t, discovery.MaxKeys+1)); !errors.Is(err, discovery.ErrRecord) {
		t.Errorf("one key more: %v", err)
	}
	long := "v=CMTP1;x=" + strings.Repeat("y", discovery.MaxRecord-len("v=CMTP1;x="))
	if _, err := discovery.ParseRecord(long); err != nil {
		t.Errorf("%d bytes: %v", len(long), err)
	}
	if _, err := discovery.ParseRecord(long + "y"); !errors.Is(err, discovery.ErrRecord) {
		t.Errorf("one byte more: %v", err)
	}
	name := strings.Repeat("x", discovery.MaxRecord-len("v=CMTP1;=\n"))
	if _, err := discovery.ParseRecord("v=CMTP1;" + name + "=\n"); !errors.Is(err, discovery.ErrRecord) || len(err.Error()) > 256 {
		t.Errorf("what the log is told of a long name: %v", err) // once a meeting
	}
}

// The example in the document is a good record with the server's key in it.
func TestParseRecord_Document(t *testing.T) {
	doc, err := os.ReadFile("../../docs/protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	example := regexp.MustCompile(`(?m)^v=CMTP1;.*$`).FindAllString(string(doc), -1)
	if len(example) != 1 {
		t.Fatalf("found %q", example)
	}
	seed := make([]byte, crypt.SeedSize)
	for i := range seed {
		seed[i] = byte(i)
	}
	key, err := crypt.PrivateKeyFromSeed(seed)
	if err != nil {
		t.Fatal(err)
	}
	want := &discovery.Record{Keys: []crypt.PublicKey{key.Public()}, Port: 2525, Mode: discovery.Enforce, MaxAge: 24 * time.Hour}
	got, err := discovery.ParseRecord(example[0])
	if err != nil || !reflect.DeepEqual(got, want) || got.String() != example[0] {
		t.Errorf("%s is read as %+v, %v, and written as %s", example[0], got, err, got)
	}
}

// FuzzParseRecord: what is taken means the same when it is written again, is then
// written identically, and keeps to the bounds. What is refused has one of two
// reasons.
func FuzzParseRecord(f *testing.F) {
	f.Fuzz(func(t *testing.T, text string) {
		got, err := discovery.ParseRecord(text)
		if err != nil {
			if got != nil || errors.Is(err, discovery.ErrRecord) == errors.Is(err, discovery.ErrNotARecord) {
				t.Fatalf("%q: %+v, %v", text, got, err)
			}
			return
		}
		written := got.String()
		again, err := discovery.ParseRecord(written)
		if err != nil || !reflect.DeepEqual(got, again) || again.String() != written {
			t.Fatalf("%q is written as %q, which is read as %+v, %v", text, written, again, err)
		}
		if len(got.Keys) > discovery.MaxKeys || len(text) > discovery.MaxRecord || got.MaxAge < 0 || got.MaxAge > discovery.MaxMaxAge ||
			got.Port < 0 || got.Port > 65535 || got.Mode == discovery.Enforce && len(got.Keys) == 0 {
			t.Fatalf("%q: %+v", text, got)
		}
		// A tag that is not known changes nothing.
		if more, err := discovery.ParseRecord(text + ";unknown=x"); err == nil && !reflect.DeepEqual(got, more) {
			t.Fatalf("%q with another tag: %+v", text, more)
		}
	})
}
