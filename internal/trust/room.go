package trust

import (
	"bytes"
	"cmp"
	"errors"
	"io/fs"
	"path/filepath"
	"slices"
	"time"
)

// batch is how many domains are chosen at once to be forgotten: to find the least recently
// seen one takes a look at all.
const batch = 1024

// A victim is a domain that is to be forgotten unless it is seen again.
type victim struct {
	name name
	seen time.Time
}

// makeRoom makes sure that one more domain can be remembered. While all that may be forgotten is
// at work, there may be as many more as can be at work at once. The caller has the lock of n.
func (s *Store) makeRoom(n name) error {
	s.mu.RLock()
	have := len(s.domains)
	s.mu.RUnlock()
	if have < s.max {
		return nil
	}
	if done, busy := s.forgetOne(&n); !done && (!busy || have >= s.max+len(s.locks)) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.full++
		return ErrFull
	}
	return nil
}

// isHalfFull reports whether the rest of the room is for domains that somebody here has looked for.
func (s *Store) isHalfFull() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return len(s.domains) >= s.max/2
}

// A rank says how soon a domain makes room for others.
type rank uint8

const (
	never rank = iota // it had mail of ours, the operator vouches for it, something is held, or it is damaged
	late              // where no other may: DNSSEC vouches for it, it enforces, or it is held without CMTP 1; not seen for a month
	soon              // all others
)

// rank returns how soon a domain may be forgotten. Somebody here has looked for it, or it has come by itself; but who has a
// signed zone has as many domains with DNSSEC as they like, so that keeps none for ever.
func (e *entry) rank(now time.Time) rank {
	s := e.state
	switch {
	case s == nil, s.Mail, s.pinned():
		return never
	case now.Sub(s.Latest) > pendingLife: // and then only Without holds
		if s.strength() > DNS || !s.Enforce.IsZero() || !s.Without.IsZero() {
			return late
		}
		return soon
	case s.strength() > DNS, !s.Enforce.IsZero(), len(s.Holds(now)) > 0:
		return never
	}
	return soon
}

// forgetOne forgets the least recently seen domain that may be forgotten, and reports whether it
// did, and if not, whether there is one that only is at work. The caller has the lock of held, if that is
// not nil.
//
//	unlink  trust/<name>.json
//
// There is no flush: after a crash more is remembered.
func (s *Store) forgetOne(held *name) (done, busy bool) {
	for chosen := false; ; {
		v, ok := s.nextVictim()
		switch {
		case ok && s.forget(v, held):
			return true, false
		case !ok && chosen:
			return false, busy
		case !ok:
			busy = s.chooseVictims()
			chosen = true
		}
	}
}

func (s *Store) nextVictim() (n victim, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.victims) == 0 {
		return n, false
	}
	n = s.victims[len(s.victims)-1]
	s.victims = s.victims[:len(s.victims)-1]
	return n, true
}

// chooseVictims looks for the least recently seen domains of those that may be forgotten soonest, and reports
// whether there are any.
func (s *Store) chooseVictims() bool {
	now := s.now()
	var all []victim
	best := late
	s.mu.RLock()
	for n, e := range s.domains {
		r := e.rank(now)
		if r > best {
			best, all = r, all[:0]
		}
		if r == best {
			all = append(all, victim{n, e.state.Latest})
		}
	}
	s.mu.RUnlock()
	slices.SortFunc(all, func(a, b victim) int {
		return cmp.Or(b.seen.Compare(a.seen), bytes.Compare(a.name[:], b.name[:]))
	})
	oldest := slices.Clone(all[max(0, len(all)-batch):])
	s.mu.Lock()
	defer s.mu.Unlock()
	s.victims = oldest
	return len(oldest) > 0
}

// forget forgets a domain unless it is at work, or was seen since it was chosen.
func (s *Store) forget(v victim, held *name) bool {
	n := v.name
	l := &s.locks[int(n[0])%len(s.locks)]
	if held == nil || l != &s.locks[int(held[0])%len(s.locks)] {
		if !l.TryLock() {
			return false
		}
		defer l.Unlock()
	}
	e := s.get(n)
	if e == nil || e.rank(s.now()) == never || !e.state.Latest.Equal(v.seen) {
		return false
	}
	if err := s.fs.Remove(filepath.Join(s.dir, n.file())); err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.log.Warn("a domain could not be forgotten to make room for another", "file", filepath.Join(s.dir, n.file()), "error", err)
		return false
	}
	s.mu.Lock()
	delete(s.domains, n)
	s.mu.Unlock()
	return true
}
