package trust

import (
	"fmt"
	"time"

	"cmtpd/internal/address"
)

// Show returns what is known of a domain, or ErrUnknown.
func (s *Store) Show(domain address.Domain) (Entry, error) {
	n := nameOf(domain)
	e := s.get(n)
	if e == nil {
		return Entry{}, fmt.Errorf("%s: %w", domain, ErrUnknown)
	}
	return s.entry(n, e), nil
}

// Accept ends the hold of a key that the operator has compared, and makes it the domain's only
// key. It wraps ErrUnknown or ErrNotHeld. The system calls are those of Judge.
func (s *Store) Accept(domain address.Domain, f Fingerprint) error {
	return s.act(domain, false, func(state *State, now time.Time) (*State, error) { return state.Accept(now, f) })
}

// Pin makes a key one of those that the operator vouches for; other keys are forgotten. Nothing
// has to be known of the domain. The system calls are those of Judge.
func (s *Store) Pin(domain address.Domain, key Public) error {
	return s.act(domain, true, func(state *State, now time.Time) (*State, error) { return state.Pin(now, key) })
}

// Forget makes the domain a stranger, but for the record of that. It wraps ErrUnknown. The
// system calls are those of Judge.
func (s *Store) Forget(domain address.Domain) error {
	return s.act(domain, false, func(state *State, now time.Time) (*State, error) { return state.Forget(now), nil })
}

// act carries out what the operator has decided. After an error it has not happened, as far as this
// process is concerned: the next change writes what was there before.
func (s *Store) act(domain address.Domain, make bool, do func(*State, time.Time) (*State, error)) error {
	n := nameOf(domain)
	defer s.lock(n)()
	e := s.get(n)
	if e == nil && !make {
		return fmt.Errorf("%s: %w", domain, ErrUnknown)
	}
	before := &State{Domain: domain}
	if e != nil && e.state != nil {
		before = e.state
	}
	after, err := do(before, s.now())
	if err != nil {
		return err
	}
	if e == nil {
		if err := s.makeRoom(n); err != nil {
			return err
		}
	}
	if err := s.write(n, after); err != nil {
		if e != nil {
			doubt := *e
			doubt.dirty = true
			s.keep(n, &doubt, nil)
		}
		return err
	}
	s.keep(n, &entry{state: after, latest: after.Latest, enforce: after.Enforce}, changes(before, after))
	return nil
}
