package session_test

import (
	"testing"
	"time"

	"cmtpd/internal/account"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/crypt"
)

// A proof with one thing else in it than what is asked for is none, and one that is
// right is taken behind it.
func TestServer_Auth_Altered(t *testing.T) {
	s := serve(t, setup{})
	alice, bob := vectorKey(t, "alice"), vectorKey(t, "bob")
	other := s.inside()
	for what, alter := range map[string]func(p *crypt.Proof) *crypt.PrivateKey{
		"account": func(p *crypt.Proof) *crypt.PrivateKey { p.Name = mustAddress("bob@cref.example"); return alice },
		"domain":  func(p *crypt.Proof) *crypt.PrivateKey { p.Name = mustAddress("alice@second.example"); return alice },
		"server's domain": func(p *crypt.Proof) *crypt.PrivateKey {
			p.Server = mustAddress("x@second.example").Domain
			return alice
		},
		"key":              func(p *crypt.Proof) *crypt.PrivateKey { p.Key = bob.Public(); return alice },
		"signer":           func(*crypt.Proof) *crypt.PrivateKey { return bob },
		"key and signer":   func(p *crypt.Proof) *crypt.PrivateKey { p.Key = bob.Public(); return bob },
		"server's key":     func(p *crypt.Proof) *crypt.PrivateKey { p.ServerKey = bob.Public(); return alice },
		"another channel":  func(p *crypt.Proof) *crypt.PrivateKey { p.Binding = other.Binding(); return alice },
		"no binding":       func(p *crypt.Proof) *crypt.PrivateKey { p.Binding = [32]byte{}; return alice },
		"role of a server": func(p *crypt.Proof) *crypt.PrivateKey { p.Role = crypt.ServerRole; return alice },
		"recovery's role":  func(p *crypt.Proof) *crypt.PrivateKey { p.Role = crypt.RecoveryRole; return alice },
	} {
		t.Run(what, func(t *testing.T) {
			c := s.inside()
			c.tb = t
			p := c.proof("alice@cref.example", alice)
			key := alter(&p)
			sig := p.Sign(key)
			// The parameters are as they should be: only what was signed differs.
			asked := c.proof("alice@cref.example", alice)
			if what == "key and signer" {
				asked.Key = bob.Public()
			}
			c.want(cmtp.StatusWrongProof, command(cmtp.Auth, "alice@cref.example", "cref.example", append(asked.Key[:], sig[:]...)...))
			c.want(cmtp.StatusNotProven, "UPLOAD\x00"+form(nil))
			c.auth("alice@cref.example", alice)
			c.end()
		})
	}
}

// Parameters in another spelling are the same ones, and the digest is that of the
// account's xzibit.
func TestServer_Auth_Spelling(t *testing.T) {
	s := serve(t, setup{})
	alice := vectorKey(t, "alice")
	for _, addr := range []string{"alice@cref.example", "ALICE@Cref.EXAMPLE."} {
		c := s.inside()
		p := c.proof("alice@cref.example", alice)
		sig := p.Sign(alice)
		got := c.want(cmtp.StatusDone, command(cmtp.Auth, addr, "CREF.example", append(p.Key[:], sig[:]...)...))
		if digest := s.account("alice@cref.example").XzibitDigest(); string(got) != string(digest[:]) {
			t.Errorf("digest %x, want %x", got, digest)
		}
		c.end()
	}
}

// What was proven in one channel is worth nothing in the next.
func TestServer_Auth_Replayed(t *testing.T) {
	s := serve(t, setup{})
	alice := vectorKey(t, "alice")
	first := s.inside()
	recorded := authBytes(first.proof("alice@cref.example", alice), alice)
	first.want(cmtp.StatusDone, recorded)
	for range 3 {
		c := s.inside()
		c.want(cmtp.StatusWrongProof, recorded)
		c.want(cmtp.StatusNotProven, "UPLOAD\x00"+form(nil))
		c.end()
	}
	first.want(cmtp.StatusNotNow, recorded) // one user and no more
	first.want(cmtp.StatusNotNow, authBytes(first.proof("bob@cref.example", vectorKey(t, "bob")), vectorKey(t, "bob")))
	first.end()
}

// A server proves its key, of another domain than ours, and is granted nothing by it.
func TestServer_Auth_Server(t *testing.T) {
	s := serve(t, setup{})
	key, alice := newKey(t), vectorKey(t, "alice")
	c := s.inside()
	proof := func(own string) crypt.Proof {
		p := c.proof("x@cref.example", key)
		p.Role, p.Name = crypt.ServerRole, name(own)
		return p
	}
	for _, own := range []string{"@cref.example", "@second.example"} {
		c.want(cmtp.StatusWrongProof, authBytes(proof(own), key))
	}
	wrong := proof("@other.example")
	wrong.Role = crypt.UserRole
	c.want(cmtp.StatusWrongProof, authBytes(wrong, key))
	if got := c.want(cmtp.StatusDone, authBytes(proof("@other.example"), key)); len(got) > 0 {
		t.Errorf("a payload of %d bytes", len(got))
	}
	c.want(cmtp.StatusNotNow, authBytes(proof("@third.example"), key))
	c.want(cmtp.StatusNotProven, "UPLOAD\x00"+form(nil))
	c.want(cmtp.StatusNotProven, "MAIL\x00"+message(t, to("x@third.example"), sealed("x", 100)))
	c.auth("alice@cref.example", alice) // one of each
	c.end()
}

// Whoever is not what they have proven to be any more has proven nothing.
func TestServer_Auth_Lapses(t *testing.T) {
	const addr = "alice@cref.example"
	lapses := map[string]func(s *server){
		"disabled": func(s *server) { must(s.tb, s.accounts.SetDisabled(mustAddress(addr), true)) },
		"removed":  func(s *server) { must(s.tb, s.accounts.Remove(mustAddress(addr))) },
		"made anew, with the same key": func(s *server) {
			must(s.tb, s.accounts.Remove(mustAddress(addr)))
			x := s.account("bob@cref.example").Xzibit
			_, err := s.accounts.Add(account.NewRegistration(mustAddress(addr), vectorKey(s.tb, "alice"), time.Now(), x))
			must(s.tb, err)
		},
		"another key": func(s *server) {
			c := s.inside()
			c.auth(addr, vectorKey(s.tb, "alice"))
			s.rotate(c, addr, vectorKey(s.tb, "alice"), newKey(s.tb))
		},
	}
	for name, lapse := range lapses {
		t.Run(name, func(t *testing.T) {
			s := serve(t, setup{})
			c := s.inside()
			c.auth(addr, vectorKey(t, "alice"))
			own := to("eve@other.example")
			own.SourceAccount, own.SourceDomain = "alice", "cref.example"
			c.want(cmtp.StatusQueued, "MAIL\x00"+message(t, own, sealed("before", 100)))
			lapse(s)
			c.want(cmtp.StatusNotProven, "MAIL\x00"+message(t, own, sealed("after", 100)))
			c.want(cmtp.StatusNotProven, "UPLOAD\x00"+form(nil))
			c.end()
		})
	}
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// rotate gives the proven user of c another key.
func (s *server) rotate(c *insider, addr string, old, key *crypt.PrivateKey) []byte {
	a := s.account(addr)
	next := a.Statement().Follow(key.Public(), crypt.UnixTimeOf(time.Now()))
	f := cmtp.UploadForm{
		Replaces: a.XzibitDigest(), Statement: &next, OldSignature: old.Sign(next.Append(nil)), Possession: next.Possess(key), Xzibit: a.Xzibit,
	}
	return c.want(cmtp.StatusDone, "UPLOAD\x00"+form(f.Append(nil)))
}

// After a new key the session goes on as its user's; the old key is refused, by a reason
// that tells its holder what to do, which a stranger's key is not given.
func TestServer_Auth_OldKey(t *testing.T) {
	const addr = "alice@cref.example"
	s := serve(t, setup{})
	old, key := vectorKey(t, "alice"), newKey(t)
	c := s.inside()
	c.auth(addr, old)
	h := verifyHistory(t, s.rotate(c, addr, old, key), addr, key.Public())
	if len(h.Keys) != 2 {
		t.Errorf("the history has %d keys", len(h.Keys))
	}
	verifyHistory(t, s.rotate(c, addr, key, newKey(t)), addr, s.account(addr).Key)
	c.end()
	c = s.inside()
	stale := c.want(cmtp.StatusWrongProof, authBytes(c.proof(addr, old), old))
	stranger := newKey(t)
	wrong := c.want(cmtp.StatusWrongProof, authBytes(c.proof(addr, stranger), stranger))
	if string(stale) == string(wrong) {
		t.Errorf("an older key and a stranger's are both told %q", wrong)
	}
	c.end()
}
