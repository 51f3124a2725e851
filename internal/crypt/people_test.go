package crypt_test

import (
	"encoding/binary"
	"fmt"
	"testing"

	"cmtpd/internal/address"
	"cmtpd/internal/crypt"
)

// people are those of docs/protocol.md, by what they sign with.
type people struct {
	server, alice, bob, recovery *crypt.PrivateKey
	alice2, alice3               *crypt.PrivateKey // what alice has later
	former                       *crypt.PrivateKey // what the server had before
}

func newPeople(t testing.TB) people {
	t.Helper()
	return people{
		server: grown(t, 0x00), alice: grown(t, 0x20), bob: grown(t, 0x40), recovery: grown(t, 0x60),
		alice2: grown(t, 0x80), alice3: grown(t, 0xa0), former: grown(t, 0xc0),
	}
}

// grown returns the key whose seed counts on from first.
func grown(t testing.TB, first byte) *crypt.PrivateKey {
	t.Helper()
	k, err := crypt.PrivateKeyFromSeed(counting(first))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// counting returns 32 bytes that count on from first.
func counting(first byte) []byte {
	b := make([]byte, 32)
	for i := range b {
		b[i] = first + byte(i)
	}
	return b
}

// whose returns the key that goes with pk.
func (p people) whose(pk crypt.PublicKey) *crypt.PrivateKey {
	for _, k := range []*crypt.PrivateKey{p.server, p.alice, p.bob, p.alice2, p.alice3, p.former} {
		if k.Public() == pk {
			return k
		}
	}
	panic(fmt.Sprintf("nobody has the key %x", pk[:]))
}

// named returns an address; with nothing before the @ it is the server itself.
func named(t testing.TB, s string) address.Address {
	t.Helper()
	if s[0] == '@' {
		d, err := address.ParseDomain(s[1:])
		if err != nil {
			t.Fatal(err)
		}
		return address.Address{Domain: d}
	}
	a, err := address.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// Times of the examples.
const (
	time1 crypt.UnixTime = 1700000000
	time2 crypt.UnixTime = 1710000000
	time3 crypt.UnixTime = 1720000000
)

// first is alice's first key statement.
func (p people) first(t testing.TB) crypt.KeyStatement {
	return crypt.KeyStatement{Name: named(t, "alice@cref.example"), Key: p.alice.Public(), NotBefore: time1}
}

// lost is the statement by which the server alone gives key to whom s names.
func lost(s crypt.KeyStatement, key crypt.PublicKey, at crypt.UnixTime) crypt.KeyStatement {
	s = s.Follow(key, at)
	s.Reset = true
	return s
}

// own is the server's statement of its own key.
func (p people) own(t testing.TB) crypt.KeyStatement {
	return crypt.KeyStatement{Name: named(t, "@cref.example"), Key: p.server.Public(), NotBefore: time2}
}

// history signs the statements, each one by whom its key belongs to and by the server.
// It looks at none of them.
func (p people) history(statements ...crypt.KeyStatement) *crypt.History {
	h := &crypt.History{}
	for i, s := range statements {
		b := s.Append(nil)
		k := crypt.SignedKey{KeyStatement: s, Server: p.server.Sign(b)}
		if i > 0 && !s.Reset {
			k.Old = p.whose(statements[i-1].Key).Sign(b)
		}
		h.Keys = append(h.Keys, k)
	}
	return h
}

// threeKeys is the history of alice, who changed her key once and lost it once.
func (p people) threeKeys(t testing.TB) *crypt.History {
	first := p.first(t)
	second := first.Follow(p.alice2.Public(), time2)
	return p.history(first, second, lost(second, p.alice3.Public(), time3))
}

func (p people) rotation(t testing.TB) crypt.Rotation {
	return crypt.Rotation{Domain: named(t, "@cref.example").Domain, Old: p.former.Public(), New: p.server.Public(), When: time2}
}

// ownHistory is that of the server, with these rotations.
func (p people) ownHistory(t testing.TB, rotations ...crypt.SignedRotation) *crypt.History {
	h := p.history(p.own(t))
	h.Rotations = rotations
	return h
}

// aliased is h, given to who asked for another name.
func (p people) aliased(h *crypt.History, from, to address.Address) *crypt.History {
	a := crypt.Alias{From: from, To: to}
	h.Alias = &crypt.SignedAlias{Alias: a, Server: p.server.Sign(a.Append(nil))}
	return h
}

// wire writes what docs/protocol.md gives in its tables, field by field: the tests'
// own encoder. A string is taken as it is; name adds the NUL.
func wire(fields ...any) (b []byte) {
	for _, f := range fields {
		switch f := f.(type) {
		case string:
			b = append(b, f...)
		case byte:
			b = append(b, f)
		case uint32:
			b = binary.BigEndian.AppendUint32(b, f)
		case uint64:
			b = binary.BigEndian.AppendUint64(b, f)
		case crypt.UnixTime:
			b = binary.BigEndian.AppendUint64(b, uint64(f))
		case []byte:
			b = append(b, f...)
		case [32]byte:
			b = append(b, f[:]...)
		case crypt.PublicKey:
			b = append(b, f[:]...)
		case crypt.Signature:
			b = append(b, f[:]...)
		default:
			panic(fmt.Sprintf("a field of type %T", f))
		}
	}
	return b
}

// name is a domain and an account as they stand in a statement.
func name(domain, account string) string { return domain + "\x00" + account + "\x00" }

// wireKey is a key statement by docs/protocol.md section 17.2.
func wireKey(name string, key crypt.PublicKey, at crypt.UnixTime, flags byte, previous [32]byte) []byte {
	return wire("CMTP-1 key\x00", name, uint32(1), key, at, flags, previous)
}

// badNames are no names or not in normal form: pairs of domain and account.
func badNames() map[string]string {
	long := string(make255('a'))
	return map[string]string{
		"domain in upper case":     name("Cref.example", "alice"),
		"domain with a final dot":  name("cref.example.", "alice"),
		"domain as U-label":        name("b\u00fccher.example", "alice"),
		"no domain":                name("", "alice"),
		"IP address":               name("192.0.2.1", "alice"),
		"domain that is not UTF-8": name("cref\xff.example", "alice"),
		"domain of 254 bytes":      name(longDomain()+"a", "alice"),
		"account in upper case":    name("cref.example", "Alice"),
		"account in NFD":           name("cref.example", "gru\u0308n"),
		"account with a space":     name("cref.example", "a b"),
		"account with an @":        name("cref.example", "a@b"),
		"account with a control":   name("cref.example", "a\x1bb"),
		"account not in UTF-8":     name("cref.example", "\xff"),
		"account of 256 bytes":     name("cref.example", long+"a"),
	}
}

func make255(c byte) []byte {
	b := make([]byte, address.MaxLength)
	for i := range b {
		b[i] = c
	}
	return b
}

// longDomain returns a domain of 253 bytes.
func longDomain() string {
	b := make255('d')[:address.MaxDomainLength]
	for i := 63; i < len(b); i += 64 {
		b[i] = '.'
	}
	return string(b)
}

// longest is the longest name.
func longest(t testing.TB) address.Address {
	return named(t, string(make255('a'))+"@"+longDomain())
}

// badKeys are 32 bytes that are no usable key.
func badKeys(t testing.TB, pk crypt.PublicKey) map[string]crypt.PublicKey {
	return map[string]crypt.PublicKey{
		"zeros":         {},
		"small order":   smallOrder(t)[0],
		"mixed order":   mixedOrder(t, pk)[0],
		"non-canonical": crypt.PublicKey(nonCanonical()[7]),
	}
}
