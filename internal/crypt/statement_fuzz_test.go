package crypt_test

import (
	"bytes"
	"errors"
	"testing"

	"cmtpd/internal/address"
	"cmtpd/internal/crypt"
)

// FuzzKeyStatement: what is taken off the front encodes again to just that.
func FuzzKeyStatement(f *testing.F) {
	requireSeeds(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		s, n, err := crypt.ParseKeyStatement(b)
		if err != nil {
			if !errors.Is(err, crypt.ErrStatement) || n != 0 || s != (crypt.KeyStatement{}) {
				t.Fatalf("%x: %+v, %d, %v", b, s, n, err)
			}
			return
		}
		if n > crypt.MaxKeyStatement || !bytes.Equal(s.Append(nil), b[:n]) {
			t.Fatalf("%x encodes again to %x", b[:n], s.Append(nil))
		}
		if _, err := crypt.ParsePublicKey(s.Key[:]); err != nil {
			t.Fatalf("%x: %v", b, err)
		}
	})
}

// FuzzHistory: what is parsed encodes again identically, and can be verified whatever
// it holds. Nothing that a fuzzer makes is signed for another name.
func FuzzHistory(f *testing.F) {
	requireSeeds(f)
	p := newPeople(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := crypt.ParseHistory(b)
		if err != nil {
			if !errors.Is(err, crypt.ErrStatement) || h != nil {
				t.Fatalf("%x: %+v, %v", b, h, err)
			}
			return
		}
		if len(b) > crypt.MaxHistory || !bytes.Equal(h.Append(nil), b) {
			t.Fatalf("%x encodes again to %x", b, h.Append(nil))
		}
		if err := h.Verify(named(t, "mallory@elsewhere.example"), p.server.Public()); err == nil {
			t.Fatalf("%x is mallory's", b)
		}
		if later, ok := h.Since(h.Current().Digest()); !ok || len(later) > len(h.Keys)-1 {
			t.Fatalf("%x: %d statements after the last one, %v", b, len(later), ok)
		}
	})
}

// FuzzReceipt signs whatever it is given: what is opened encodes again identically.
func FuzzReceipt(f *testing.F) {
	requireSeeds(f)
	p := newPeople(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		signed := append(bytes.Clone(b), wire(p.server.Sign(b))...)
		r, err := crypt.OpenReceipt(signed, p.server.Public())
		if err != nil {
			if !errors.Is(err, crypt.ErrStatement) || r != (crypt.Receipt{}) {
				t.Fatalf("%x: %+v, %v", b, r, err)
			}
			return
		}
		if len(signed) > crypt.MaxReceipt || !bytes.Equal(r.AppendSigned(nil, p.server), signed) {
			t.Fatalf("%x encodes again to %x", b, r.Append(nil))
		}
	})
}

// longestEntry is what a sender entry can have: every byte of the account escaped.
const longestEntry = len("sender a= d= k= t= s=") + 3*address.MaxLength + address.MaxDomainLength + 24 + 12 + 88

// FuzzOrigin: what is parsed is written again identically.
func FuzzOrigin(f *testing.F) {
	requireSeeds(f)
	f.Fuzz(func(t *testing.T, entry string) {
		o, err := crypt.ParseOrigin(entry)
		if err != nil {
			if !errors.Is(err, crypt.ErrStatement) || o != (crypt.Origin{}) {
				t.Fatalf("%q: %+v, %v", entry, o, err)
			}
			return
		}
		if o.String() != entry || len(entry) > longestEntry {
			t.Fatalf("%q is written again as %q", entry, o.String())
		}
	})
}

// FuzzSender: what is parsed is written again identically, and is safe to show.
func FuzzSender(f *testing.F) {
	requireSeeds(f)
	f.Fuzz(func(t *testing.T, entry string) {
		s, err := crypt.ParseSender(entry)
		if err != nil {
			if !errors.Is(err, crypt.ErrStatement) || s != (crypt.Sender{}) {
				t.Fatalf("%q: %+v, %v", entry, s, err)
			}
			return
		}
		if s.String() != entry || len(entry) > longestEntry {
			t.Fatalf("%q is written again as %q", entry, s.String())
		}
		for i := range len(entry) {
			if entry[i] < ' ' || entry[i] >= 0x7f {
				t.Fatalf("%q holds the byte %#x", entry, entry[i])
			}
		}
	})
}
