package crypt_test

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"cmtpd/internal/crypt"
)

func (p people) receipt(t testing.TB) crypt.Receipt {
	return crypt.Receipt{
		Digest: [32]byte(counting(0xe0)), Destination: named(t, "bob@other.example"), When: time3,
		Commit: 0x0102030405060708, Hash: [32]byte(counting(0x11)),
	}
}

func wireReceipt(digest [32]byte, names string, at crypt.UnixTime, commit uint64, hash [32]byte) []byte {
	return wire("CMTP-1 receipt\x00", digest, names, at, commit, hash)
}

func TestReceipt_Append(t *testing.T) {
	p := newPeople(t)
	r := p.receipt(t)
	own, long := r, r
	own.Destination, own.When, own.Commit = named(t, "@other.example"), 0, 0
	long.Destination = longest(t)
	for what, c := range map[string]struct {
		r     crypt.Receipt
		names string
	}{
		"to bob":        {r, name("other.example", "bob")},
		"to the server": {own, name("other.example", "")},
		"the longest":   {long, name(longDomain(), string(make255('a')))},
	} {
		want := wireReceipt(c.r.Digest, c.names, c.r.When, c.r.Commit, c.r.Hash)
		if got := c.r.Append([]byte("before")); string(got) != "before"+string(want) {
			t.Errorf("%s: encodes to\n%x, want\n%x", what, got, want)
		}
		b := c.r.AppendSigned([]byte("before"), p.server)
		if string(b) != "before"+string(want)+string(wire(p.server.Sign(want))) {
			t.Errorf("%s: the signature is not one of the statement: %x", what, b)
		}
		if again, err := crypt.OpenReceipt(b[6:], p.server.Public()); err != nil || again != c.r {
			t.Errorf("%s: opens to %+v, %v", what, again, err)
		}
	}
	if n := len(long.AppendSigned(nil, p.server)); n != crypt.MaxReceipt {
		t.Errorf("the longest receipt has %d bytes, not %d", n, crypt.MaxReceipt)
	}
}

func TestOpenReceipt(t *testing.T) {
	p := newPeople(t)
	r := p.receipt(t)
	refuse := func(what string, b []byte, want error) {
		t.Helper()
		got, err := crypt.OpenReceipt(b, p.server.Public())
		if !errors.Is(err, want) || got != (crypt.Receipt{}) {
			t.Errorf("%s: opens to %+v, %v, want %v", what, got, err, want)
		}
	}
	good := r.AppendSigned(nil, p.server)
	for n := range good {
		refuse(fmt.Sprintf("%d bytes of %d", n, len(good)), good[:n], crypt.ErrStatement)
	}
	refuse("a byte behind", append(bytes.Clone(good), 0), crypt.ErrStatement)
	refuse("another server's", r.AppendSigned(nil, p.former), crypt.ErrUnsigned)
	signed := func(b []byte) []byte { return append(b, wire(p.server.Sign(b))...) }
	for what, names := range badNames() {
		refuse(what, signed(wireReceipt(r.Digest, names, r.When, r.Commit, r.Hash)), crypt.ErrStatement)
	}
	names := name("other.example", "bob")
	refuse("past the time", signed(wireReceipt(r.Digest, names, lastTime+1, 1, r.Hash)), crypt.ErrStatement)
	refuse("another label", signed(bytes.Replace(r.Append(nil), []byte("receipt"), []byte("receivt"), 1)), crypt.ErrStatement)
	// The signature of each of these is one of the good receipt.
	sig := good[len(good)-crypt.SignatureSize:]
	for what, change := range map[string]func(r *crypt.Receipt){
		"digest":      func(r *crypt.Receipt) { r.Digest[31] ^= 1 },
		"destination": func(r *crypt.Receipt) { r.Destination = named(t, "alice@other.example") },
		"domain":      func(r *crypt.Receipt) { r.Destination = named(t, "bob@cref.example") },
		"time":        func(r *crypt.Receipt) { r.When++ },
		"commit":      func(r *crypt.Receipt) { r.Commit++ },
		"hash":        func(r *crypt.Receipt) { r.Hash[0] ^= 0x80 },
	} {
		other := r
		change(&other)
		refuse("another "+what, append(other.Append(nil), sig...), crypt.ErrUnsigned)
	}
	for i := range good {
		good[i] ^= 1 << (i % 8)
		if got, err := crypt.OpenReceipt(good, p.server.Public()); err == nil {
			t.Errorf("byte %d may be changed: %+v", i, got)
		}
		good[i] ^= 1 << (i % 8)
	}
}
