package crypt_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"testing"
	"time"

	"cmtpd/internal/crypt"
)

const lastTime crypt.UnixTime = 253402300799 // the end of 9999

func TestUnixTime(t *testing.T) {
	end := time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
	for in, want := range map[time.Time]crypt.UnixTime{
		{}:                   0,
		time.Unix(-1, 0):     0,
		time.Unix(0, 0):      0,
		time.Unix(1, 999):    1,
		end:                  lastTime,
		end.Add(time.Second): 0,
		time.Date(2023, 11, 14, 22, 13, 20, 0, time.UTC): time1,
	} {
		got := crypt.UnixTimeOf(in)
		if got != want {
			t.Errorf("%v is %d, want %d", in, got, want)
		}
		if back := got.Time(); got == 0 && !back.IsZero() || got != 0 && (back.Unix() != in.Unix() || back.Location() != time.UTC) {
			t.Errorf("%d is %v", got, back)
		}
	}
}

func TestKeyStatement_Append(t *testing.T) {
	p := newPeople(t)
	first := p.first(t)
	second := first.Follow(p.alice2.Public(), time2)
	reset := lost(second, p.alice3.Public(), time3)
	own := p.own(t)
	green := crypt.KeyStatement{Name: named(t, "gr\u00fcn+x@xn--bcher-kva.example"), Key: p.bob.Public()}
	long := crypt.KeyStatement{Name: longest(t), Key: p.bob.Public(), NotBefore: lastTime}
	alice := name("cref.example", "alice")
	w1 := wireKey(alice, p.alice.Public(), time1, 0, [32]byte{})
	w2 := wireKey(alice, p.alice2.Public(), time2, 0, sha256.Sum256(w1))
	for what, c := range map[string]struct {
		s    crypt.KeyStatement
		want []byte
	}{
		"first":   {first, w1},
		"second":  {second, w2},
		"reset":   {reset, wireKey(alice, p.alice3.Public(), time3, 1, sha256.Sum256(w2))},
		"server":  {own, wireKey(name("cref.example", ""), p.server.Public(), time2, 0, [32]byte{})},
		"unicode": {green, wireKey(name("xn--bcher-kva.example", "gr\u00fcn+x"), p.bob.Public(), 0, 0, [32]byte{})},
		"longest": {long, wireKey(name(longDomain(), string(make255('a'))), p.bob.Public(), lastTime, 0, [32]byte{})},
	} {
		got := c.s.Append([]byte("before"))
		if string(got) != "before"+string(c.want) {
			t.Errorf("%s: encodes to\n%x, want\n%x", what, got, c.want)
		}
		if c.s.Digest() != sha256.Sum256(c.want) {
			t.Errorf("%s: its digest is not that of its bytes", what)
		}
		if c.s.IsFirst() != (c.s.Previous == [32]byte{}) {
			t.Errorf("%s: IsFirst is %v", what, c.s.IsFirst())
		}
		again, n, err := crypt.ParseKeyStatement(append(bytes.Clone(c.want), "behind"...))
		if err != nil || again != c.s || n != len(c.want) {
			t.Errorf("%s: parses to %+v, %d, %v", what, again, n, err)
		}
	}
	if n := len(long.Append(nil)); n != crypt.MaxKeyStatement {
		t.Errorf("the longest statement has %d bytes, not %d", n, crypt.MaxKeyStatement)
	}
	if got := reset.Follow(p.bob.Public(), time1).NotBefore; got != time3 {
		t.Errorf("a time falls to %d", got)
	}
}

func refuseKey(t *testing.T, what string, b []byte) {
	t.Helper()
	s, n, err := crypt.ParseKeyStatement(b)
	if !errors.Is(err, crypt.ErrStatement) || s != (crypt.KeyStatement{}) || n != 0 {
		t.Errorf("%s: parses to %+v, %d, %v", what, s, n, err)
	}
}

func TestParseKeyStatement(t *testing.T) {
	p := newPeople(t)
	alice, key, none := name("cref.example", "alice"), p.alice.Public(), [32]byte{}
	good := wireKey(alice, key, time1, 0, none)
	for n := range good {
		refuseKey(t, "a truncated one", good[:n])
	}
	for what, names := range badNames() {
		refuseKey(t, what, wireKey(names, key, time1, 0, none))
	}
	for what, k := range badKeys(t, key) {
		refuseKey(t, what, wireKey(alice, k, time1, 0, none))
	}
	for what, b := range map[string][]byte{
		"another label":        wire("CMTP-1 kez\x00", alice, uint32(1), key, time1, byte(0), none),
		"label in upper case":  wire("CMTP-1 KEY\x00", alice, uint32(1), key, time1, byte(0), none),
		"label without NUL":    wire("CMTP-1 key", alice, uint32(1), key, time1, byte(0), none),
		"the next version's":   wire("CMTP-2 key\x00", alice, uint32(1), key, time1, byte(0), none),
		"crypto system 0":      wire("CMTP-1 key\x00", alice, uint32(0), key, time1, byte(0), none),
		"crypto system 2":      wire("CMTP-1 key\x00", alice, uint32(2), key, time1, byte(0), none),
		"time past the bound":  wireKey(alice, key, lastTime+1, 0, none),
		"time of all bits":     wireKey(alice, key, 1<<64-1, 0, none),
		"flag 2":               wireKey(alice, key, time1, 2, sha256.Sum256(good)),
		"reset and flag 128":   wireKey(alice, key, time1, 129, sha256.Sum256(good)),
		"reset of nothing":     wireKey(alice, key, time1, 1, none),
		"name without its NUL": wire("CMTP-1 key\x00cref.example", make255('a'), make255('a')),
	} {
		refuseKey(t, what, b)
	}
}

func TestKeyStatement_Possess(t *testing.T) {
	p := newPeople(t)
	s := p.first(t)
	sig := s.Possess(p.alice)
	if !crypt.Verify(p.alice.Public(), wire("CMTP-1 possession\x00", s.Append(nil)), sig) {
		t.Error("the proof is not over the label and the statement")
	}
	if !s.IsPossessed(sig) {
		t.Error("the proof is refused")
	}
	if s.IsPossessed(p.alice.Sign(s.Append(nil))) {
		t.Error("a signature of the bare statement passes")
	}
	if s.IsPossessed(s.Possess(p.bob)) {
		t.Error("another key's proof passes")
	}
	other := s
	other.Name = named(t, "alice@other.example")
	if other.IsPossessed(sig) {
		t.Error("a proof for another name passes")
	}
}
