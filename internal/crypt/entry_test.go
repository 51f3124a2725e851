package crypt_test

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"strings"
	"testing"

	"cmtpd/internal/address"
	"cmtpd/internal/crypt"
)

var entryDigest = [32]byte(counting(0xe0))

func TestPublicKey_ID(t *testing.T) {
	pk := newPeople(t).alice.Public()
	if sum := sha256.Sum256(pk[:]); pk.ID() != crypt.KeyID(sum[:16]) {
		t.Errorf("the ID is %x", pk.ID())
	}
}

func TestOrigin(t *testing.T) {
	p := newPeople(t)
	alice := named(t, "alice@cref.example")
	o := crypt.NewOrigin(entryDigest, alice, time3, p.server)
	sig := p.server.Sign(wire("CMTP-1 origin\x00", entryDigest, name("cref.example", "alice"), time3))
	want := "origin d=cref.example t=1720000000 s=" + base64.StdEncoding.EncodeToString(sig[:])
	if o.String() != want {
		t.Errorf("the entry is %q, want %q", o.String(), want)
	}
	again, err := crypt.ParseOrigin(want)
	if err != nil || again != o {
		t.Fatalf("parses to %+v, %v", again, err)
	}
	if !again.Verify(entryDigest, alice.Account, p.server.Public()) {
		t.Error("the origin is refused")
	}
	later, elsewhere := o, o
	later.When++
	elsewhere.Domain = named(t, "@other.example").Domain
	for what, ok := range map[string]bool{
		"message": o.Verify([32]byte{}, alice.Account, p.server.Public()),
		"account": o.Verify(entryDigest, named(t, "bob@cref.example").Account, p.server.Public()),
		"nobody":  o.Verify(entryDigest, address.Account{}, p.server.Public()),
		"server":  o.Verify(entryDigest, alice.Account, p.former.Public()),
		"time":    later.Verify(entryDigest, alice.Account, p.server.Public()),
		"domain":  elsewhere.Verify(entryDigest, alice.Account, p.server.Public()),
	} {
		if ok {
			t.Errorf("it vouches for another %s", what)
		}
	}
}

func TestSender(t *testing.T) {
	p := newPeople(t)
	id := p.alice.Public().ID()
	for in, escaped := range map[string]string{
		"alice":           "alice",
		"gr\u00fcn=50%+x": "gr%C3%BCn%3D50%25+x",
		"!$&<>~^'\"`{|}":  "!$&<>~^'\"`{|}",
		"\u65e5\u672c":    "%E6%97%A5%E6%9C%AC",
	} {
		source := named(t, in+"@cref.example")
		s := crypt.NewSender(entryDigest, source, time3, p.alice)
		sig := p.alice.Sign(wire("CMTP-1 sender\x00", entryDigest, name("cref.example", in), id[:], time3))
		want := "sender a=" + escaped + " d=cref.example k=" + base64.StdEncoding.EncodeToString(id[:]) +
			" t=1720000000 s=" + base64.StdEncoding.EncodeToString(sig[:])
		if s.String() != want {
			t.Errorf("the entry is %q, want %q", s.String(), want)
		}
		again, err := crypt.ParseSender(want)
		if err != nil || again != s {
			t.Errorf("%s: parses to %+v, %v", in, again, err)
		}
		if !again.Verify(entryDigest, p.alice.Public()) {
			t.Errorf("%s: the sender is refused", in)
		}
		if s.Verify([32]byte{}, p.alice.Public()) || s.Verify(entryDigest, p.bob.Public()) {
			t.Errorf("%s: it is another message's or another key's too", in)
		}
		for what, change := range map[string]func(s *crypt.Sender){
			"name": func(s *crypt.Sender) { s.Name = named(t, "mallory@cref.example") },
			"key":  func(s *crypt.Sender) { s.Key[15] ^= 1 },
			"time": func(s *crypt.Sender) { s.When-- },
		} {
			other := s
			change(&other)
			if other.Verify(entryDigest, p.alice.Public()) {
				t.Errorf("%s: its %s is not signed", in, what)
			}
		}
	}
}

// TestSender_Verify_Key: a signature is good only under the key that the entry names.
func TestSender_Verify_Key(t *testing.T) {
	p := newPeople(t)
	id := p.bob.Public().ID()
	s := crypt.Sender{Name: named(t, "alice@cref.example"), Key: id, When: time3}
	s.Signature = p.alice.Sign(wire("CMTP-1 sender\x00", entryDigest, name("cref.example", "alice"), id[:], time3))
	if s.Verify(entryDigest, p.alice.Public()) {
		t.Error("the entry names bob's key, and alice's passes")
	}
}

// replaced are the ways to spoil a word of an entry, by what they are of.
var replaced = []struct{ what, old, new string }{
	{"another domain case", "d=cref", "d=Cref"},
	{"a final dot", "cref.example ", "cref.example. "},
	{"a U-label", "d=cref.example", "d=b\u00fccher.example"},
	{"no domain", "d=cref.example", "d="},
	{"an escaped domain", "d=cref", "d=%63ref"},
	{"an IP address", "d=cref.example", "d=192.0.2.1"},
	{"an @ in the domain", "d=cref", "d=a@cref"},
	{"t=00", "t=1720000000", "t=00"},
	{"a leading zero", "t=1720000000", "t=01720000000"},
	{"a plus sign", "t=1720000000", "t=+1720000000"},
	{"a minus sign", "t=1720000000", "t=-1"},
	{"no time", "t=1720000000", "t="},
	{"hex time", "t=1720000000", "t=0x10"},
	{"underscores", "t=1720000000", "t=1_720_000_000"},
	{"past the time", "t=1720000000", "t=253402300800"},
	{"past 64 bits", "t=1720000000", "t=18446744073709551616"},
	{"two spaces", " t=", "  t="},
	{"a tab", " t=", "\tt="},
	{"no space", " t=", "t="},
	{"a key in upper case", " t=", " T="},
	{"another key", " t=", " u="},
	{"no equals sign", " t=", " t"},
	{"an extra word", " t=", " x=1 t="},
	{"a word twice", " t=", " t=1720000000 t="},
	{"unpadded", "==#", "#"},
	{"half padded", "==#", "=#"},
	{"padded too far", "==#", "===#"},
	{"newline inside base64", "==#", "\n==#"},
	{"carriage return behind", "==#", "==\r#"},
	{"no signature", "", ""},
	{"space behind", "#", " #"},
	{"word behind", "#", " x=1#"},
	{"NUL behind", "#", "\x00#"},
	{"space before", "^", " ^"},
	{"nothing", "", ""},
}

// spoil returns good spoilt in every such way. ^ and # stand for its ends.
func spoil(good string) map[string]string {
	all := make(map[string]string)
	for _, r := range replaced {
		s := strings.Replace("^"+good+"#", r.old, r.new, 1)
		all[r.what] = strings.Trim(s, "^#")
	}
	head, tail, _ := strings.Cut(good, " s=")
	all["no signature"] = head
	all["nothing"] = ""
	all["empty base64"] = head + " s="
	all["one byte less"] = head + " s=" + tail[:len(tail)-4]
	all["base64 for URLs"] = head + " s=" + strings.NewReplacer("+", "-", "/", "_").Replace(tail)
	// 64 bytes leave four bits over in the last digit, which are zero.
	last := tail[len(tail)-3]
	all["bits left over"] = head + " s=" + tail[:len(tail)-3] + string(last+1) + "=="
	return all
}

func TestParseOrigin(t *testing.T) {
	p := newPeople(t)
	o := crypt.NewOrigin(entryDigest, named(t, "alice@cref.example"), time3, p.server)
	good := o.String()
	cases := spoil(good)
	sig := good[strings.Index(good, " s="):]
	cases["another order"] = "origin t=1720000000 d=cref.example" + sig
	cases["the word in upper case"] = "Origin" + strings.TrimPrefix(good, "origin")
	cases["a sender"] = "sender" + strings.TrimPrefix(good, "origin")
	for what, entry := range cases {
		if entry == good {
			t.Errorf("%s: the case is the good entry", what)
		}
		if got, err := crypt.ParseOrigin(entry); !errors.Is(err, crypt.ErrStatement) || got != (crypt.Origin{}) {
			t.Errorf("%s: %q parses to %+v, %v", what, entry, got, err)
		}
	}
	for _, when := range []crypt.UnixTime{0, 1, lastTime} {
		o.When = when
		if again, err := crypt.ParseOrigin(o.String()); err != nil || again != o {
			t.Errorf("%q parses to %+v, %v", o.String(), again, err)
		}
	}
}

func TestParseSender(t *testing.T) {
	p := newPeople(t)
	s := crypt.NewSender(entryDigest, named(t, "alice@cref.example"), time3, p.alice)
	good := s.String()
	words := strings.Split(good, " ")
	cases := make(map[string]string)
	for what, entry := range spoil(good) {
		cases[what] = entry
	}
	cases["the word in upper case"] = "Sender" + strings.TrimPrefix(good, "sender")
	for what, a := range map[string]string{
		"no account":           "",
		"upper case":           "Alice",
		"escaped upper case":   "%41lice",
		"needless escape":      "%61lice",
		"lower-case hex":       "gr%c3%bcn",
		"mixed hex":            "gr%C3%bCn",
		"not escaped":          "gr\u00fcn",
		"NFD":                  "gru%CC%88n",
		"escaped space":        "a%20b",
		"escaped NUL":          "a%00b",
		"escaped @":            "a%40b",
		"an @":                 "a@b",
		"escaped slash":        "a%2Fb",
		"not UTF-8":            "%FF",
		"half a character":     "gr%C3",
		"equals sign":          "a=b",
		"percent at the end":   "alice%",
		"one digit":            "alice%4",
		"percent sign":         "50%x",
		"no hex":               "a%G1b",
		"a sign for a digit":   "a%+1b",
		"escaped percent half": "a%2",
		"256 bytes":            string(make255('a')) + "a",
		"DEL":                  "a\x7fb",
		"tab":                  "a\tb",
	} {
		cases["account: "+what] = strings.Join([]string{words[0], "a=" + a, words[2], words[3], words[4], words[5]}, " ")
	}
	cases["no name at all"] = strings.Join([]string{words[0], "a=", "d=", words[3], words[4], words[5]}, " ")
	cases["another order"] = strings.Join([]string{words[0], words[2], words[1], words[3], words[4], words[5]}, " ")
	cases["key behind time"] = strings.Join([]string{words[0], words[1], words[2], words[4], words[3], words[5]}, " ")
	cases["no key"] = strings.Join([]string{words[0], words[1], words[2], words[4], words[5]}, " ")
	for what, k := range map[string]string{
		"short": base64.StdEncoding.EncodeToString(make([]byte, 15)), "long": base64.StdEncoding.EncodeToString(make([]byte, 17)),
		"unpadded": strings.TrimRight(words[3][2:], "="), "hex": strings.Repeat("0", 32), "empty": "", "newline": "\n" + words[3][2:],
	} {
		cases["key ID: "+what] = strings.Replace(good, words[3], "k="+k, 1)
	}
	for what, entry := range cases {
		if entry == good {
			t.Errorf("%s: the case is the good entry", what)
		}
		if got, err := crypt.ParseSender(entry); !errors.Is(err, crypt.ErrStatement) || got != (crypt.Sender{}) {
			t.Errorf("%s: %q parses to %+v, %v", what, entry, got, err)
		}
	}
	s.Name = longest(t)
	if again, err := crypt.ParseSender(s.String()); err != nil || again != s {
		t.Errorf("the longest name: %v", err)
	}
}
