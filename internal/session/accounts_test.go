package session_test

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cmtpd/internal/cmtp"
	"cmtpd/internal/crypt"
	"cmtpd/internal/durable"
	"cmtpd/internal/guess"
	"cmtpd/internal/session"
	"cmtpd/internal/xzibit"
)

// A user registers by an invitation, opens the keys again with the password alone,
// and has a recovery copy; the server's operator is not asked for anything.
func TestServer_Register(t *testing.T) {
	s := serve(t, setup{})
	m := newModern(t, "erin@second.example")
	m.register(s)
	c := s.inside()
	m.opens(c)
	got := c.want(cmtp.StatusDone, c.recoverBytes(m.addr, m.recovery))
	ring, err := xzibit.OpenCopy(got, m.addr, m.recovery)
	if err != nil || ring.Keys[0].Key.Public() != m.key.Public() {
		t.Errorf("the recovery copy: %v", err)
	}
	for _, key := range []*crypt.PrivateKey{m.key, newKey(t)} {
		c.want(cmtp.StatusWrongProof, c.recoverBytes(m.addr, key))
	}
	p := c.proof(m.addr, m.recovery) // with the role of a user
	sig := p.Sign(m.recovery)
	c.want(cmtp.StatusWrongProof, command(cmtp.Recover, m.addr, "", append(p.Key[:], sig[:]...)...))
	other := s.inside()
	c.want(cmtp.StatusWrongProof, other.recoverBytes(m.addr, m.recovery)) // of another channel
	c.auth(m.addr, m.key)
	c.end()
	clear := s.dial(true)
	clear.send(login(m.addr))
	clear.expect(failure(t)) // version 3 is Part II's
}

// Only the invitation's code, in the session that has shown it, and once.
func TestServer_Register_Refused(t *testing.T) {
	s := serve(t, setup{})
	m := newModern(t, "erin@cref.example")
	code := s.invite(m.addr, false)
	e, _ := blind(t, m.password)
	wrong := strings.Map(func(r rune) rune {
		if r == '0' {
			return '1'
		}
		return '0'
	}, code)

	c := s.inside()
	c.want(cmtp.StatusBadInvitation, command(cmtp.Enroll, m.addr, wrong, e...))
	c.want(cmtp.StatusBadInvitation, command(cmtp.Enroll, m.addr, "", e...))
	c.want(cmtp.StatusBadInvitation, command(cmtp.Enroll, m.addr, strings.ToLower(code)+" ", e...))
	c.want(cmtp.StatusBadInvitation, command(cmtp.Enroll, "frank@cref.example", code, e...))
	f := form(m.registration(t, m.enroll(c, code), nil).Append(nil))
	c.want(cmtp.StatusNotNow, command(cmtp.Register, m.addr, wrong)+f)
	c.want(cmtp.StatusNotNow, command(cmtp.Register, "frank@cref.example", code)+f)
	other := s.inside()
	other.want(cmtp.StatusNotNow, command(cmtp.Register, m.addr, code)+f)
	other.end()
	c.want(cmtp.StatusBadStatement, command(cmtp.Register, m.addr, code)+form(nil))
	c.want(cmtp.StatusNotNow, command(cmtp.Register, m.addr, code)+f) // once, right or wrong

	for what, tt := range map[string]struct {
		edit func(*cmtp.RegisterForm)
		want cmtp.Status
	}{
		"possession": {func(f *cmtp.RegisterForm) { f.Possession[0] ^= 1 }, cmtp.StatusBadStatement},
		"name": {func(f *cmtp.RegisterForm) {
			f.Statement.Name = mustAddress("frank@cref.example")
			f.Possession = f.Statement.Possess(m.key)
		}, cmtp.StatusBadStatement},
		"time": {func(f *cmtp.RegisterForm) { f.Statement.NotBefore -= 3700; f.Possession = f.Statement.Possess(m.key) }, cmtp.StatusBadStatement},
		"predecessor": {func(f *cmtp.RegisterForm) {
			f.Statement.Previous = [32]byte{1}
			f.Possession = f.Statement.Possess(m.key)
		}, cmtp.StatusBadStatement},
		"reset": {func(f *cmtp.RegisterForm) {
			f.Statement.Previous, f.Statement.Reset = [32]byte{1}, true
			f.Possession = f.Statement.Possess(m.key)
		}, cmtp.StatusBadStatement},
		"older xzibit": {func(f *cmtp.RegisterForm) { f.Xzibit = s.account("bob@cref.example").Xzibit }, cmtp.StatusBadStatement},
		"no xzibit":    {func(f *cmtp.RegisterForm) { f.Xzibit = []byte("no xzibit") }, cmtp.StatusBadStatement},
		"no copy":      {func(f *cmtp.RegisterForm) { f.Copy = []byte("no copy") }, cmtp.StatusBadStatement},
	} {
		f := m.registration(t, m.enroll(c, code), nil)
		tt.edit(f)
		t.Log(what)
		c.want(tt.want, command(cmtp.Register, m.addr, code)+form(f.Append(nil)))
	}

	again := m.registration(t, m.enroll(c, code), nil)
	late := s.inside()
	m.enroll(late, code)
	c.want(cmtp.StatusDone, command(cmtp.Register, m.addr, code)+form(again.Append(nil)))
	c.want(cmtp.StatusBadInvitation, command(cmtp.Enroll, m.addr, code, e...))
	late.want(cmtp.StatusBadInvitation, command(cmtp.Register, m.addr, code)+form(again.Append(nil)))
	late.end()
	c.end()
}

// An invitation that has expired is none.
func TestServer_Enroll_Expired(t *testing.T) {
	s := serve(t, setup{})
	made, err := s.accounts.Invite(mustAddress("erin@cref.example"), false, time.Nanosecond)
	if err != nil {
		t.Fatal(err)
	}
	e, _ := blind(t, "x")
	c := s.inside()
	expired := c.want(cmtp.StatusBadInvitation, command(cmtp.Enroll, "erin@cref.example", secret(made.Code), e...))
	unknown := c.want(cmtp.StatusBadInvitation, command(cmtp.Enroll, "frank@cref.example", secret(made.Code), e...))
	if !bytes.Equal(expired, unknown) {
		t.Errorf("%q and %q tell expired from unknown", expired, unknown)
	}
}

// A reset gives the account another key that the history shows as one; sessions of the
// old key are over.
func TestServer_Register_Reset(t *testing.T) {
	s := serve(t, setup{})
	old := newModern(t, "erin@cref.example")
	old.register(s)
	session := s.inside()
	session.auth(old.addr, old.key)
	before := s.account(old.addr).Statement()
	fresh := newModern(t, old.addr)
	fresh.password = "battery staple"
	code := s.invite(old.addr, true)
	c := s.inside()
	output := fresh.enroll(c, code)
	c.want(cmtp.StatusBadStatement, command(cmtp.Register, old.addr, code)+form(fresh.registration(t, output, nil).Append(nil)))
	output = fresh.enroll(c, code)
	h := verifyHistory(t, c.want(cmtp.StatusDone, command(cmtp.Register, old.addr, code)+form(fresh.registration(t, output, before).Append(nil))), old.addr, fresh.key.Public())
	if len(h.Keys) != 2 || !h.Keys[1].Reset {
		t.Errorf("the history has %d keys, and no reset at its end", len(h.Keys))
	}
	session.want(cmtp.StatusNotProven, "UPLOAD\x00"+form(nil))
	c.want(cmtp.StatusWrongProof, c.recoverBytes(old.addr, old.recovery))
	c.want(cmtp.StatusWrongProof, authBytes(c.proof(old.addr, old.key), old.key))
	fresh.opens(c)
	c.auth(fresh.addr, fresh.key)
	c.end()
}

// A proven user of the older form is given what version 3 needs, changes to it, and
// another device's older upload is refused.
func TestServer_Upload(t *testing.T) {
	s := serve(t, setup{})
	const addr = "alice@cref.example"
	m := newModern(t, addr)
	m.key = vectorKey(t, "alice")
	m.ring.Keys[0].Key = m.key
	before := s.account(addr).XzibitDigest()
	c := s.inside()
	e, finish := blind(t, m.password)
	c.want(cmtp.StatusNotNow, command(cmtp.Unlock, addr, "", e...))
	c.auth(addr, m.key)
	x, recovery := m.seal(t, finish(c.want(cmtp.StatusDone, command(cmtp.Unlock, addr, "", e...))))
	upload := form((&cmtp.UploadForm{Replaces: before, Xzibit: x, Copy: recovery}).Append(nil))
	verifyHistory(t, c.want(cmtp.StatusDone, "UPLOAD\x00"+upload), addr, m.key.Public())
	c.want(cmtp.StatusStale, "UPLOAD\x00"+upload)
	back := &cmtp.UploadForm{Replaces: s.account(addr).XzibitDigest(), Xzibit: s.account("bob@cref.example").Xzibit}
	c.want(cmtp.StatusBadStatement, "UPLOAD\x00"+form(back.Append(nil))) // to version 1
	m.opens(c)
	c.end()
	stranger := s.inside()
	m.opens(stranger)
	stranger.end()

	for what, edit := range map[string]func(f *cmtp.UploadForm, key *crypt.PrivateKey){
		"old signature": func(f *cmtp.UploadForm, _ *crypt.PrivateKey) { f.OldSignature[5] ^= 1 },
		"possession":    func(f *cmtp.UploadForm, _ *crypt.PrivateKey) { f.Possession[5] ^= 1 },
		"reset": func(f *cmtp.UploadForm, key *crypt.PrivateKey) {
			f.Statement.Reset, f.OldSignature = true, crypt.Signature{}
			f.Possession = f.Statement.Possess(key)
		},
		"another account's": func(f *cmtp.UploadForm, key *crypt.PrivateKey) {
			f.Statement.Name = mustAddress("bob@cref.example")
			f.OldSignature, f.Possession = m.key.Sign(f.Statement.Append(nil)), f.Statement.Possess(key)
		},
		"time": func(f *cmtp.UploadForm, key *crypt.PrivateKey) {
			f.Statement.NotBefore += 3700
			f.OldSignature, f.Possession = m.key.Sign(f.Statement.Append(nil)), f.Statement.Possess(key)
		},
		"predecessor": func(f *cmtp.UploadForm, key *crypt.PrivateKey) {
			f.Statement.Previous[3] ^= 1
			f.OldSignature, f.Possession = m.key.Sign(f.Statement.Append(nil)), f.Statement.Possess(key)
		},
	} {
		t.Run(what, func(t *testing.T) {
			c, key, a := s.inside(), newKey(t), s.account(addr)
			c.auth(addr, m.key)
			next := a.Statement().Follow(key.Public(), crypt.UnixTimeOf(time.Now()))
			f := &cmtp.UploadForm{Replaces: a.XzibitDigest(), Statement: &next, OldSignature: m.key.Sign(next.Append(nil)),
				Possession: next.Possess(key), Xzibit: a.Xzibit, Copy: a.Copy}
			edit(f, key)
			c.want(cmtp.StatusBadStatement, "UPLOAD\x00"+form(f.Append(nil)))
			if s.account(addr).Key != m.key.Public() {
				t.Error("the key has changed")
			}
			c.end()
		})
	}
}

// Where the operator has switched LOGIN off for keys of the older form, their own user
// still has them, and nobody else; those of version 3 are given to everybody.
func TestServer_Login_SwitchedOff(t *testing.T) {
	s := serve(t, setup{edit: func(cfg *session.Config) { cfg.PlainLogin = false }})
	m := newModern(t, "erin@cref.example")
	m.register(s)
	clear := s.dial(true)
	clear.send(login("alice"))
	clear.expect(failure(t))
	c := s.inside()
	c.want(cmtp.StatusSwitchedOff, login("alice"))
	c.auth("alice@cref.example", vectorKey(t, "alice"))
	if got := c.want(cmtp.StatusDone, login("alice")); !bytes.Equal(got, s.account("alice@cref.example").Xzibit) {
		t.Error("it is another xzibit")
	}
	c.want(cmtp.StatusSwitchedOff, login("bob"))
	c.want(cmtp.StatusDone, login(m.addr))
	c.end()
}

// budget returns what a server counts guesses with, which outlives it.
func budget(t *testing.T, dir string, network int) *guess.Budget {
	t.Helper()
	b, err := guess.Open(filepath.Join(dir, "budget"), guess.Options{FS: durable.OS, Rates: guess.Rates{Rate: 10, Burst: 10, NetworkRate: 60, NetworkBurst: network}})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// guessing is a server whose guesses outlive it, with clients at any address.
func guessing(t *testing.T, dir string, network int) *server {
	t.Helper()
	b := budget(t, dir, network)
	s := serve(t, setup{dir: dir, front: loopback, edit: func(cfg *session.Config) { cfg.Guesses = b }})
	stop := s.stop
	s.stop = func() {
		stop()
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(func() { b.Close() })
	return s
}

// guesses makes up to n of them from one address, each in a session of its own, and
// returns how many were evaluated.
func (m *modern) guesses(s *server, client string, n int) (answered int) {
	s.tb.Helper()
	e, _ := blind(s.tb, "a guess")
	for range n {
		c := s.insideFrom(client)
		c.send(command(cmtp.Unlock, m.addr, "", e...))
		switch status, reason := c.reply(); {
		case status == cmtp.StatusDone:
			answered++
		case status != cmtp.StatusTooOften:
			s.tb.Fatalf("a guess is answered with %d", status)
		case !strings.ContainsAny(string(reason), "0123456789"):
			s.tb.Errorf("the reason tells no time: %q", reason)
		}
		c.end()
	}
	return answered
}

// Nobody who has one network makes more guesses than are allowed, in however many
// sessions and across restarts, nor do many networks at one account. The user, whose
// network was proven, is not kept out.
func TestServer_Unlock_Guesses(t *testing.T) {
	dir := t.TempDir()
	s := guessing(t, dir, 30)
	m := newModern(t, "erin@cref.example")
	code := s.invite(m.addr, false)
	c := s.insideFrom("203.0.113.5") // the user's own network, at home
	f := m.registration(t, m.enroll(c, code), nil)
	c.want(cmtp.StatusDone, command(cmtp.Register, m.addr, code)+form(f.Append(nil)))
	c.auth(m.addr, m.key)
	c.end()

	if got := m.guesses(s, "198.51.100.1", 7); got != 7 {
		t.Errorf("%d of 7 guesses were answered", got)
	}
	for restart := range 3 {
		s.stop()
		s = guessing(t, dir, 30)
		got := m.guesses(s, "198.51.100.1", 6)
		if want := 3; restart == 0 && got != want || restart > 0 && got != 0 {
			t.Errorf("%d guesses were answered after restart %d", got, restart+1)
		}
	}
	for _, other := range []string{"198.51.100.200", "192.0.2.9", "192.0.2.10"} {
		if got := m.guesses(s, other, 3); got != 0 {
			t.Errorf("from %s %d more guesses were answered", other, got)
		}
	}
	home := s.insideFrom("203.0.113.5")
	m.opens(home)
	home.end()
	s.stop()
	s = guessing(t, dir, 30)
	home = s.insideFrom("203.0.113.5")
	m.opens(home)
	home.auth(m.addr, m.key)
	m.opens(home)
	home.end()
}

// One network has its own bound, for all accounts and codes together.
func TestServer_Unlock_Network(t *testing.T) {
	dir := t.TempDir()
	s := guessing(t, dir, 8)
	e, _ := blind(t, "x")
	for i := range 12 {
		if i == 6 {
			s.stop()
			s = guessing(t, dir, 8)
		}
		want := cmtp.StatusBadInvitation
		if i >= 8 {
			want = cmtp.StatusTooOften
		}
		c := s.insideFrom("198.51.100.1")
		c.want(want, command(cmtp.Enroll, "nobody@cref.example", "000000000000", e...))
		c.end()
	}
	c := s.insideFrom("192.0.2.1")
	c.want(cmtp.StatusBadInvitation, command(cmtp.Enroll, "nobody@cref.example", "000000000000", e...))
	c.end()
}

// A user who guessed and then proved to be one has what was spent again; other users'
// proofs give nothing back.
func TestServer_Unlock_Refund(t *testing.T) {
	s := guessing(t, t.TempDir(), 1000)
	m := newModern(t, "erin@cref.example")
	m.register0(s, "203.0.113.5")
	e, _ := blind(t, "typo")
	wrong := command(cmtp.Unlock, m.addr, "", e...)
	for range 5 {
		c := s.insideFrom("198.51.100.1")
		for range 9 {
			c.want(cmtp.StatusDone, wrong)
		}
		c.auth(m.addr, m.key)
		for range 20 { // free
			c.want(cmtp.StatusDone, wrong)
		}
		c.end()
	}
	c := s.insideFrom("192.0.2.7")
	for range 10 {
		c.want(cmtp.StatusDone, wrong)
	}
	c.want(cmtp.StatusTooOften, wrong)
	c.auth("bob@cref.example", vectorKey(t, "bob"))
	c.want(cmtp.StatusTooOften, wrong)
	c.end()
	c = s.insideFrom("192.0.2.7")
	c.want(cmtp.StatusTooOften, wrong)
	c.end()
}

// register0 is register from an address.
func (m *modern) register0(s *server, client string) {
	s.tb.Helper()
	code := s.invite(m.addr, false)
	c := s.insideFrom(client)
	f := m.registration(s.tb, m.enroll(c, code), nil)
	c.want(cmtp.StatusDone, command(cmtp.Register, m.addr, code)+form(f.Append(nil)))
	c.end()
}

// What cannot be evaluated is charged too.
func TestServer_Guesses_Charged(t *testing.T) {
	s := guessing(t, t.TempDir(), 1000)
	m := newModern(t, "erin@cref.example")
	m.register0(s, "203.0.113.5")
	c := s.insideFrom("198.51.100.1")
	for range 10 {
		c.want(cmtp.StatusBadParameter, command(cmtp.Unlock, m.addr, "", bytes.Repeat([]byte{0xff}, 32)...))
	}
	c.want(cmtp.StatusTooOften, command(cmtp.Unlock, m.addr, "", bytes.Repeat([]byte{0xff}, 32)...))
	c.end()
}

// Wrong codes are charged on the network that they come from, and on nothing else: they
// neither keep the right one out nor tell who is invited.
func TestServer_Guesses_Codes(t *testing.T) {
	s := guessing(t, t.TempDir(), 12)
	code := s.invite("frank@cref.example", false)
	e, _ := blind(t, "x")
	for client, addr := range map[string]string{"198.51.100.1": "frank@cref.example", "198.51.100.2": "nobody@cref.example"} {
		c := s.insideFrom(client)
		for range 12 {
			c.want(cmtp.StatusBadInvitation, command(cmtp.Enroll, addr, "000000000000", e...))
		}
		c.want(cmtp.StatusTooOften, command(cmtp.Enroll, addr, code, e...))
		c.end()
	}
	c := s.insideFrom("198.51.100.3")
	c.want(cmtp.StatusDone, command(cmtp.Enroll, "frank@cref.example", code, e...))
	c.end()
}

// The operator sees what users do to their accounts, and that somebody guesses.
func TestServer_Accounts_Log(t *testing.T) {
	s := serve(t, setup{})
	m := newModern(t, "erin@second.example")
	m.register(s)
	c := s.inside()
	e, _ := blind(t, "x")
	for range 2 {
		c.want(cmtp.StatusBadInvitation, command(cmtp.Enroll, "frank@second.example", "000000000000", e...))
	}
	c.want(cmtp.StatusDone, c.recoverBytes(m.addr, m.recovery))
	c.end()
	log := s.log.String()
	for line, times := range map[string]int{"an account was registered": 1, "a recovery copy was handed out": 1, "an invitation's code was refused": 1} {
		if n := strings.Count(log, line); n != times {
			t.Errorf("%q stands %d times in the log, want %d", line, n, times)
		}
	}
	if !strings.Contains(log, `"account":"erin@second.example"`) || !strings.Contains(log, `"account":"frank@second.example"`) {
		t.Errorf("the log does not name the accounts:\n%s", log)
	}
}
