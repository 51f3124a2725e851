package session_test

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"cmtpd/internal/cmtp"
	"cmtpd/internal/session"
)

// The log is told of an account once a minute, whatever number of sessions guess at it, and the
// metrics of every guess.
func TestServer_Suspect(t *testing.T) {
	var passed atomic.Int64
	began := time.Now()
	s := serve(t, setup{front: loopback, edit: func(cfg *session.Config) {
		cfg.Now = func() time.Time { return began.Add(time.Duration(passed.Load())) }
		cfg.Guesses = budget(t, t.TempDir(), 30)
	}})
	m := newModern(t, "erin@cref.example")
	code := s.invite(m.addr, false)
	c := s.insideFrom("203.0.113.5")
	f := m.registration(t, m.enroll(c, code), nil)
	c.want(cmtp.StatusDone, command(cmtp.Register, m.addr, code)+form(f.Append(nil)))
	m.opens(c)
	c.auth(m.addr, m.key)
	c.end()

	lines := func(what, about string, want int) {
		t.Helper()
		got := 0
		for line := range strings.Lines(s.log.String()) {
			if strings.Contains(line, what) && strings.Contains(line, `"account":"`+about+`"`) {
				got++
			}
		}
		if got != want {
			t.Errorf("%d lines say %q of %s, want %d:\n%s", got, what, about, want, s.log.String())
		}
	}
	if n := m.guesses(s, "198.51.100.1", 15); n != 10 {
		t.Errorf("%d guesses were answered", n)
	}
	lines("used up\",", m.addr, 1)
	e, _ := blind(t, "x")
	wrong := func(addr string) {
		c := s.insideFrom("192.0.2.1")
		for range 2 {
			c.want(cmtp.StatusBadInvitation, command(cmtp.Enroll, addr, "000000000000", e...))
		}
		c.end()
	}
	wrong("nobody@cref.example")
	wrong("nobody@cref.example")
	lines("code was refused", "nobody@cref.example", 1)
	passed.Store(int64(time.Minute - time.Nanosecond))
	wrong("nobody@cref.example")
	lines("code was refused", "nobody@cref.example", 1)
	passed.Store(int64(time.Minute))
	wrong("nobody@cref.example")
	lines("code was refused", "nobody@cref.example", 2)

	s.tally.mu.Lock()
	defer s.tally.mu.Unlock()
	for result, want := range map[session.Guess]int{session.GuessCharged: 11, session.GuessReturned: 1, session.GuessExhausted: 5,
		session.GuessRightCode: 1, session.GuessWrongCode: 8, session.GuessFailed: 0} {
		if got := s.tally.guesses[result]; got != want {
			t.Errorf("%d guesses are %s, want %d", got, result, want)
		}
	}
}

// Strangers who name any number of accounts cost bounded memory, and a line a minute more.
func TestSuspicions(t *testing.T) {
	isNews := session.Suspicions()
	now := time.Unix(1e9, 0)
	for i := range session.MaxSuspects {
		if news, _ := isNews(mustAddress(fmt.Sprintf("u%d@cref.example", i)), now); !news {
			t.Fatalf("account %d is no news", i+1)
		}
	}
	told := 0
	for i := range 100 {
		news, n := isNews(mustAddress(fmt.Sprintf("v%d@cref.example", i)), now)
		if n > session.MaxSuspects+1 {
			t.Fatalf("%d are kept", n)
		}
		if news {
			told++
		}
	}
	if told != 1 {
		t.Errorf("%d lines for the accounts beyond, want 1", told)
	}
	if news, n := isNews(mustAddress("w@cref.example"), now.Add(time.Minute)); !news || n != 1 {
		t.Errorf("a minute later: %v, and %d are kept", news, n)
	}
	if news, _ := isNews(mustAddress("w@cref.example"), now); !news {
		t.Error("a clock that was set back silences the log")
	}
}

// At the level debug the log says whom a command was about that was refused.
func TestServer_RefusedAbout(t *testing.T) {
	s := serve(t, setup{})
	e, _ := blind(t, "x")
	c := s.inside()
	c.want(cmtp.StatusNoAccount, login("nobody"))
	c.want(cmtp.StatusNoAccount, command(cmtp.Unlock, "nobody@cref.example", "", e...))
	c.want(cmtp.StatusForeignDomain, command(cmtp.Unlock, "alice@elsewhere.example", "", e...))
	c.end()
	for _, want := range []string{`"account":"nobody","command":"LOGIN"`, `"account":"nobody@cref.example","command":"UNLOCK"`, `"account":"alice@elsewhere.example","command":"UNLOCK"`} {
		if !strings.Contains(s.log.String(), want) {
			t.Errorf("%q is not in the log:\n%s", want, s.log.String())
		}
	}
}
