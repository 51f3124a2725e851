package crypt_test

import (
	"bytes"
	"errors"
	"testing"

	"cmtpd/internal/address"
	"cmtpd/internal/crypt"
)

// foreignVector is what a server answers about a name of another one's domain.
type foreignVector struct {
	Name    string         `json:"name"`
	Domain  address.Domain `json:"asked_domain"`
	Account string         `json:"asked_account"`
	Trust   crypt.Trust    `json:"trust"`
	Part    int            `json:"part"`
	Key     hexBytes       `json:"key"` // in force
	Payload hexBytes       `json:"payload"`
}

func (p people) foreignVectors(histories []historyVector) []foreignVector {
	server, bob, alice2 := p.server.Public(), p.bob.Public(), p.alice2.Public()
	h := histories[0].Payload
	plain := wire([]byte{2, 1}, server, bob, p.server.Sign(bob[:]))
	itself := wire([]byte{1, 1}, server, server, p.server.Sign(server[:]))
	d := histories[0].Domain
	return []foreignVector{
		{"a key by CMTP 0.01", d, "bob", crypt.TrustDNS, 1, bob[:], plain},
		{"the server's own by CMTP 0.01", d, "", crypt.TrustFirstContact, 1, server[:], itself},
		{"a history by CMTP 1", d, "alice", crypt.TrustOperator, 2, alice2[:], wire([]byte{4, 2}, server, []byte(h))},
	}
}

func TestForeign_Vectors(t *testing.T) {
	p := newPeople(t)
	for _, v := range loadStatements(t).Foreign {
		f, err := crypt.ParseForeign(v.Payload)
		if err != nil {
			t.Fatalf("%s: %v", v.Name, err)
		}
		key := f.Current()
		if f.Trust != v.Trust || f.Part() != v.Part || f.Server != p.server.Public() || !bytes.Equal(key[:], v.Key) {
			t.Errorf("%s parses to %+v", v.Name, f)
		}
		if again := f.Append(nil); !bytes.Equal(again, v.Payload) {
			t.Errorf("%s encodes again to %x", v.Name, again)
		}
		if err := f.Verify(named(t, v.Account+"@"+v.Domain.String())); err != nil {
			t.Errorf("%s: %v", v.Name, err)
		}
	}
}

// A server cannot pass off what another one has not said.
func TestForeign_Verify(t *testing.T) {
	p, all := newPeople(t), loadStatements(t).Foreign
	plain, itself, history := []byte(all[0].Payload), []byte(all[1].Payload), []byte(all[2].Payload)
	alice, bob, server := named(t, "alice@cref.example"), named(t, "bob@cref.example"), named(t, "@cref.example")
	parse := func(b []byte) *crypt.Foreign {
		f, err := crypt.ParseForeign(b)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	other := p.former.Public()
	swapped := parse(plain)
	swapped.Key = p.alice.Public()
	for what, tt := range map[string]struct {
		f     *crypt.Foreign
		asked address.Address
		want  error
	}{
		"another key":            {swapped, bob, crypt.ErrUnsigned},
		"another server":         {parse(wire([]byte{2, 1}, other, plain[34:])), bob, crypt.ErrUnsigned},
		"a user as the server":   {parse(plain), server, crypt.ErrHistory},
		"another name":           {parse(history), bob, crypt.ErrHistory},
		"a history of another":   {parse(wire([]byte{4, 2}, other, history[34:])), alice, crypt.ErrUnsigned},
		"the server's own":       {parse(itself), server, nil},
		"the history as it came": {parse(history), alice, nil},
	} {
		if err := tt.f.Verify(tt.asked); !errors.Is(err, tt.want) || (err == nil) != (tt.want == nil) {
			t.Errorf("%s: %v, want %v", what, err, tt.want)
		}
	}
}

func TestParseForeign_Refused(t *testing.T) {
	all := loadStatements(t).Foreign
	plain, history := []byte(all[0].Payload), []byte(all[2].Payload)
	edit := func(b []byte, at int, to byte) []byte {
		b = bytes.Clone(b)
		b[at] = to
		return b
	}
	for what, b := range map[string][]byte{
		"nothing": nil, "no trust": edit(plain, 0, 0), "trust 5": edit(plain, 0, 5), "part 0": edit(plain, 1, 0), "part 3": edit(plain, 1, 3),
		"too short": plain[:len(plain)-1], "too long": append(bytes.Clone(plain), 0), "the other part": edit(plain, 1, 2),
		"a history cut": history[:len(history)-1], "a history and more": append(bytes.Clone(history), 0), "no usable key": edit(edit(plain, 2, 1), 33, 0xff),
	} {
		if f, err := crypt.ParseForeign(b); f != nil || !errors.Is(err, crypt.ErrForeign) && !errors.Is(err, crypt.ErrStatement) {
			t.Errorf("%s: %+v, %v", what, f, err)
		}
	}
}

func TestTrust_String(t *testing.T) {
	for trust, want := range map[crypt.Trust]string{crypt.TrustFirstContact: "first contact", crypt.TrustDNS: "DNS",
		crypt.TrustDNSSEC: "DNSSEC", crypt.TrustOperator: "the operator", 9: "Trust(9)"} {
		if trust.String() != want {
			t.Errorf("%d is %q, want %q", trust, trust, want)
		}
	}
}

// FuzzForeign: what is parsed encodes again identically, and can be verified whatever it
// holds. Nothing that a fuzzer makes is the other server's word for another name.
func FuzzForeign(f *testing.F) {
	requireSeeds(f)
	server := newPeople(f).server.Public()
	f.Fuzz(func(t *testing.T, b []byte) {
		x, err := crypt.ParseForeign(b)
		if err != nil {
			if x != nil || !errors.Is(err, crypt.ErrForeign) && !errors.Is(err, crypt.ErrStatement) {
				t.Fatalf("%x: %+v, %v", b, x, err)
			}
			return
		}
		if len(b) > crypt.MaxForeign || !bytes.Equal(x.Append(nil), b) {
			t.Fatalf("%x encodes again to %x", b, x.Append(nil))
		}
		if err := x.Verify(named(t, "mallory@elsewhere.example")); err == nil && x.Server == server && x.Part() == 2 {
			t.Fatalf("%x is mallory's", b)
		}
	})
}
