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

// mayForget reports whether a domain may make room for others: neither DNSSEC nor the operator
// vouches for it, and nothing is held.
func (e *entry) mayForget(now time.Time) bool {
	return e.state != nil && e.state.strength() <= DNS && e.state.Enforce.IsZero() && len(e.state.Holds(now)) == 0
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

// chooseVictims looks for the least recently seen domains that may be forgotten, and reports
// whether there are any.
func (s *Store) chooseVictims() bool {
	now := s.now()
	var all []victim
	s.mu.RLock()
	for n, e := range s.domains {
		if e.mayForget(now) {
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
	if e == nil || !e.mayForget(s.now()) || !e.state.Latest.Equal(v.seen) {
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
