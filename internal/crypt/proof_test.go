package crypt_test

import (
	"testing"

	"cmtpd/internal/crypt"
)

// proofs are of each role, with the key that signs and the text that it signs.
func (p people) proofs(t testing.TB) map[string]struct {
	proof crypt.Proof
	key   *crypt.PrivateKey
	text  []byte
} {
	binding := [32]byte(counting(0x40))
	server, other := named(t, "@cref.example").Domain, named(t, "@other.example")
	alice := named(t, "alice@cref.example")
	text := func(role byte, account, domain string, key *crypt.PrivateKey) []byte {
		return wire("CMTP-1 auth\x00", role, account+"\x00", domain+"\x00", "cref.example\x00", key.Public(), p.server.Public(), binding)
	}
	return map[string]struct {
		proof crypt.Proof
		key   *crypt.PrivateKey
		text  []byte
	}{
		"user": {crypt.Proof{Role: crypt.UserRole, Name: alice, Server: server, Key: p.alice.Public(), ServerKey: p.server.Public(), Binding: binding},
			p.alice, text(1, "alice", "cref.example", p.alice)},
		"server": {crypt.Proof{Role: crypt.ServerRole, Name: other, Server: server, Key: p.former.Public(), ServerKey: p.server.Public(), Binding: binding},
			p.former, text(2, "", "other.example", p.former)},
		"recovery": {crypt.Proof{Role: crypt.RecoveryRole, Name: alice, Server: server, Key: p.recovery.Public(), ServerKey: p.server.Public(), Binding: binding},
			p.recovery, text(3, "alice", "cref.example", p.recovery)},
	}
}

func TestProof(t *testing.T) {
	p := newPeople(t)
	for what, c := range p.proofs(t) {
		sig := c.proof.Sign(c.key)
		if sig != c.key.Sign(c.text) {
			t.Errorf("%s: what is signed is not\n%x", what, c.text)
		}
		if !c.proof.Verify(sig) {
			t.Errorf("%s: the proof is refused", what)
		}
		if c.proof.Verify(c.proof.Sign(p.bob)) {
			t.Errorf("%s: another key's signature passes", what)
		}
		for field, change := range map[string]func(q *crypt.Proof){
			"role":         func(q *crypt.Proof) { q.Role = q.Role%3 + 1 },
			"account":      func(q *crypt.Proof) { q.Name.Account = named(t, "mallory@cref.example").Account },
			"domain":       func(q *crypt.Proof) { q.Name.Domain = named(t, "@elsewhere.example").Domain },
			"server":       func(q *crypt.Proof) { q.Server = named(t, "@elsewhere.example").Domain },
			"key":          func(q *crypt.Proof) { q.Key = p.bob.Public() },
			"server's key": func(q *crypt.Proof) { q.ServerKey = p.bob.Public() },
			"binding":      func(q *crypt.Proof) { q.Binding[31] ^= 1 },
		} {
			other := c.proof
			change(&other)
			if other.Verify(sig) {
				t.Errorf("%s: it proves another %s too", what, field)
			}
			if other.Sign(c.key) == sig {
				t.Errorf("%s: the %s is not signed", what, field)
			}
		}
	}
}
