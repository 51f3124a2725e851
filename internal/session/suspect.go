package session

import (
	"errors"
	"sync"
	"time"

	"cmtpd/internal/address"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/guess"
)

// A Guess is what became of an attempt at what only an account's user knows.
type Guess string

// The results of a guess.
const (
	GuessCharged   Guess = "charged"    // UNLOCK evaluated, for who is not the proven user
	GuessReturned  Guess = "returned"   // charged before, by who was proven to be the user then
	GuessRightCode Guess = "right_code" // ENROLL took an invitation's code
	GuessWrongCode Guess = "wrong_code" // ENROLL refused one
	GuessExhausted Guess = "exhausted"  // refused, for want of attempts
	GuessFailed    Guess = "failed"     // could not be charged, and so was refused
)

// AllGuesses are all of them.
var AllGuesses = []Guess{GuessCharged, GuessReturned, GuessRightCode, GuessWrongCode, GuessExhausted, GuessFailed}

// refusedGuess names the result of charging an attempt that was refused.
func refusedGuess(err error) Guess {
	if _, spent := errors.AsType[*guess.Exhausted](err); spent {
		return GuessExhausted
	}
	return GuessFailed
}

const (
	// suspectEvery is how often the log is told of one account that somebody may be
	// guessing: sessions are cheap, and must not fill the operator's disk.
	suspectEvery = time.Minute
	// maxSuspects bounds how many accounts are told apart in that: strangers name them.
	maxSuspects = 1024
)

// suspicions remember when the log was told of whom. The rest, beyond maxSuspects, share
// the zero address.
type suspicions struct {
	mu   sync.Mutex
	told map[address.Address]time.Time // under mu
}

// isNews reports whether the log is to be told of an account now, and notes that it was.
func (s *suspicions) isNews(at address.Address, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.told[at]; !known && len(s.told) >= maxSuspects {
		for a, t := range s.told {
			if now.Sub(t) >= suspectEvery {
				delete(s.told, a)
			}
		}
		if len(s.told) >= maxSuspects {
			at = address.Address{}
		}
	}
	if t, known := s.told[at]; known && now.Sub(t) < suspectEvery && !now.Before(t) {
		return false
	}
	if s.told == nil {
		s.told = make(map[address.Address]time.Time)
	}
	s.told[at] = now
	return true
}

// suspect tells the operator, once an account and minute, that somebody may be guessing.
func (p *part2) suspect(event string, at address.Address, err error) {
	if p.suspicions.isNews(at, p.cfg.Now()) {
		p.cfg.Log.Warn(event, "account", at.String(), "conn", p.client.conn, "client", p.client.addr, "err", err)
	}
}

// about returns whom a command that somebody may be guessing with is about, as it stands
// there, for the log. No command has a password.
func about(c *cmtp.Command) string {
	switch c.Verb {
	case cmtp.Login:
		return printable(string(c.User()))
	case cmtp.Auth, cmtp.Unlock, cmtp.Enroll, cmtp.Register, cmtp.Recover:
		return shown(string(c.User()), string(c.Domain()))
	}
	return ""
}
