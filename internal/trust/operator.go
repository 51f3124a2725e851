package trust

import (
	"fmt"
	"slices"
	"time"
)

// Accept makes a held key the only one of the domain, and the operator the one who vouches for
// it: who has compared a key has compared no other. It wraps ErrNotHeld unless
// a server has shown exactly this key.
func (s *State) Accept(at time.Time, f Fingerprint) (*State, error) {
	i := slices.IndexFunc(s.Pending, func(p Pending) bool { return !p.Held.IsZero() && f.Is(p.Key) })
	if i < 0 {
		return nil, fmt.Errorf("accepting a key of %s: %w; compare it again with what cmtpd trust show prints", s.Domain, ErrNotHeld)
	}
	p := s.Pending[i]
	next := s.act(at, "accept", p.Key)
	next.Keys = []Key{{Key: p.Key, Provenance: Operator, First: p.First, Last: p.Last}}
	return next, nil
}

// Pin makes a key one of those that the operator vouches for. No other key of the domain
// stays, nor what it has announced.
func (s *State) Pin(at time.Time, key Public) (*State, error) {
	next := s.act(at, "pin", key)
	k := Key{Key: key, First: next.Latest}
	if i := next.find(key); i >= 0 {
		k = next.Keys[i]
	}
	k.Provenance = Operator
	next.Keys = slices.DeleteFunc(next.Keys, func(k Key) bool { return k.Provenance != Operator || k.Key == key })
	if len(next.Keys) == MaxKeys {
		return nil, fmt.Errorf("pinning a key of %s: %w (%d); forget the domain first", s.Domain, ErrKeys, MaxKeys)
	}
	next.Keys = append(next.Keys, k)
	return next, nil
}

// Forget leaves nothing but the fact: the next sighting is a first contact.
func (s *State) Forget(at time.Time) *State {
	next := s.act(at, "forget", Public{})
	return &State{Domain: s.Domain, Latest: at.UTC().Round(0), Actions: next.Actions}
}

// act returns a copy in which an action on a key is recorded, and nothing that would speak
// against that key is left.
func (s *State) act(at time.Time, do string, key Public) *State {
	next := s.clone()
	now := next.tick(at)
	if len(next.Actions) == maxActions {
		next.Actions = slices.Delete(next.Actions, 0, 1)
	}
	next.Actions = append(next.Actions, Action{now, do, key})
	next.dropPending(key)
	next.Successor, next.Candidate, next.Former = nil, nil, nil
	return next
}
