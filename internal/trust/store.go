package trust

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"cmtpd/internal/address"
	"cmtpd/internal/durable"
)

// MaxDomains is how many domains are remembered unless Options say otherwise.
const MaxDomains = 100_000

// Errors of a Store.
var (
	ErrFull    = errors.New("too many domains are remembered (delivery.known_domains), and none of them may be forgotten")
	ErrUnknown = errors.New("nothing is known of the domain")
	ErrNotHeld = errors.New("no such key of the domain is held")
	ErrKeys    = errors.New("there are as many pinned keys as a domain can have")
)

// Options say how a Store is opened. FS must be set.
type Options struct {
	FS  durable.FS
	Now func() time.Time // time.Now if nil
	Log *slog.Logger     // discarded if nil

	MaxDomains int // MaxDomains if 0
}

// A Store holds the states of all domains, one file each in its directory, and all of them
// in memory. It is safe for many goroutines, which wait for each other where they judge one
// domain; only one process may have a directory open.
type Store struct {
	dir string
	fs  durable.FS
	log *slog.Logger
	now func() time.Time
	max int

	locks [64]sync.Mutex // by the name's first byte; held through a change, its flush included

	mu      sync.RWMutex
	domains map[name]*entry // under mu; an entry in it is never changed
	victims []victim        // under mu: whom to forget next, the first one last
	changes uint64          // under mu
	full    uint64          // under mu: how often there was no room
}

// An entry is what is known of one domain, in memory and on disk.
type entry struct {
	state   *State // nil where damage is not
	damage  error
	told    bool      // the log says whose the damaged file is
	latest  time.Time // of the state on disk
	enforce time.Time // of the state on disk
	dirty   bool      // nobody knows what is on disk
}

// An Entry is what a Store has of a domain, for people.
type Entry struct {
	File    string `json:"file"`
	State   *State `json:"state,omitempty"`   // nil when it is damaged
	Damage  string `json:"damage,omitempty"`  // what is wrong with the file
	Holding []Hold `json:"holding,omitempty"` // why mail waits now
}

// Stats are figures of a Store.
type Stats struct {
	Domains int
	Held    int    // domains with a hold now, the damaged ones included
	Damaged int    // of them
	Changes uint64 // that the log has lines of, since the start
	Full    uint64 // how often a new domain could not be remembered, since the start
}

// Open opens the states in dir, which it makes when there is none. A file that is damaged
// holds its domain, and does not keep a server from starting.
func Open(dir string, o Options) (*Store, error) {
	s := &Store{dir: dir, fs: o.FS, log: o.Log, now: o.Now, max: o.MaxDomains, domains: make(map[name]*entry)}
	if s.now == nil {
		s.now = time.Now
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.max == 0 {
		s.max = MaxDomains
	}
	if err := durable.MkdirAll(s.fs, dir, 0o700); err != nil {
		return nil, fmt.Errorf("opening what is known of other servers' keys: %w", err)
	}
	left, err := s.load()
	for _, file := range left {
		if err == nil {
			err = s.fs.Remove(filepath.Join(dir, file))
		}
	}
	if err != nil {
		return nil, fmt.Errorf("opening what is known of other servers' keys: %w", err)
	}
	for n, e := range s.domains {
		if e.damage != nil {
			s.log.Error("what was known of a domain's keys is damaged: the domain is held", "file", filepath.Join(dir, n.file()), "error", e.damage)
		}
	}
	for more := true; more && len(s.domains) > s.max; {
		more, _ = s.forgetOne(nil)
	}
	return s, nil
}

// load reads every file, and returns the names of those that a write which was cut short
// has left.
func (s *Store) load() (left []string, err error) {
	files, err := s.fs.ReadDir(s.dir)
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		if strings.HasPrefix(file, ".") && strings.HasSuffix(file, ".tmp") {
			left = append(left, file)
			continue
		}
		n, ok := parseName(file)
		if !ok {
			continue // an operator's, not ours
		}
		data, err := durable.ReadFile(s.fs, filepath.Join(s.dir, file), maxFile)
		e := new(entry)
		if err == nil {
			e.state, err = decode(n, data)
		}
		if err != nil && !errors.Is(err, ErrDamaged) {
			err = fmt.Errorf("%w: %w", ErrDamaged, err)
		}
		if e.damage = err; err == nil {
			e.latest, e.enforce = e.state.Latest, e.state.Enforce
		}
		s.domains[n] = e
	}
	return left, nil
}

// Read returns what is known of the domains whose files are in dir, beside a process that
// has it open or without one. It changes nothing. There may be no dir.
func Read(dir string, fsys durable.FS, now time.Time) ([]Entry, error) {
	s := &Store{dir: dir, fs: fsys, now: func() time.Time { return now }, domains: make(map[name]*entry)}
	if _, err := s.load(); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("reading what is known of other servers' keys: %w", err)
	}
	return s.List()
}

// lock waits for the others that work on the domain, and returns what lets them on.
func (s *Store) lock(n name) (unlock func()) {
	l := &s.locks[int(n[0])%len(s.locks)]
	l.Lock()
	return l.Unlock
}

func (s *Store) get(n name) *entry {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.domains[n]
}

// Judge judges a sighting of a domain. When it returns a Verdict, what the sighting has
// taught is on disk, but for the times of what is merely seen again: they are written once
// a day. An error means that nothing may be sent or accepted now, and that it can be
// tried again; ErrFull is wrapped by one. Of a domain that is known by claims alone, nothing is remembered
// where half of MaxDomains are.
//
//	open, pwrite, fdatasync  trust/.<name>.json.<random>.tmp
//	rename                   trust/.<name>.json.<random>.tmp   trust/<name>.json
//	fsync                    trust/
func (s *Store) Judge(ctx context.Context, domain address.Domain, g Sighting) (Verdict, error) {
	if err := ctx.Err(); err != nil {
		return Verdict{}, fmt.Errorf("judging the server of %s: %w", domain, err)
	}
	n := nameOf(domain)
	defer s.lock(n)()
	e := s.get(n)
	before := &State{Domain: domain}
	if e != nil {
		if e.damage != nil {
			s.tell(n, e, domain)
			return Verdict{Why: Damaged}, nil
		}
		before = e.state
	}
	after, v := before.Judge(s.now(), g)
	if after == before && (e == nil || !e.dirty) || e == nil && g.Claimed && s.isHalfFull() {
		return v, nil
	}
	if err := s.put(n, e, before, after); err != nil {
		return Verdict{}, fmt.Errorf("judging the server of %s: %w", domain, err)
	}
	return v, nil
}

// tell logs once whose a damaged file is: it cannot say so itself. The caller has the domain's lock.
func (s *Store) tell(n name, e *entry, domain address.Domain) {
	if e.told {
		return
	}
	s.log.Warn("a domain is held", "domain", domain.String(), "why", Damaged.Text(), "file", filepath.Join(s.dir, n.file()))
	s.mu.Lock()
	s.domains[n] = &entry{damage: e.damage, told: true}
	s.mu.Unlock()
}

// put makes after the state of a domain. When it cannot be written, it is in memory all
// the same, so that what was seen counts, and the next put writes it. The caller has the
// domain's lock.
func (s *Store) put(n name, e *entry, before, after *State) error {
	if e == nil {
		if err := s.makeRoom(n); err != nil {
			return err
		}
		e = &entry{dirty: true}
	}
	next := &entry{state: after, latest: e.latest, enforce: e.enforce, dirty: true}
	var err error
	if e.dirty || !same(before, after) || isStale(e, after) {
		if err = s.write(n, after); err == nil {
			next.latest, next.enforce, next.dirty = after.Latest, after.Enforce, false
		}
	} else {
		next.dirty = false
	}
	s.keep(n, next, changes(before, after))
	return err
}

// isStale reports whether what is on disk of the times has to be brought up to date: once a day, and
// as long as three quarters of enforce are left there.
func isStale(e *entry, s *State) bool {
	left := s.Enforce.Sub(s.Latest)
	return s.Latest.Sub(e.latest) >= writeEvery || !s.Enforce.IsZero() && e.enforce.Sub(s.Latest) < left*3/4
}

func (s *Store) write(n name, state *State) error {
	data, err := encode(state)
	if err == nil {
		err = durable.WriteFile(s.fs, filepath.Join(s.dir, n.file()), data, 0o600)
	}
	if err != nil {
		return fmt.Errorf("storing what is known of %s: %w", state.Domain, err)
	}
	return nil
}

// keep makes e a domain's entry, and logs how it came to that.
func (s *Store) keep(n name, e *entry, all []change) {
	s.mu.Lock()
	s.domains[n] = e
	s.changes += uint64(len(all))
	s.mu.Unlock()
	for _, c := range all {
		s.log.Log(context.Background(), c.level, c.text, append([]any{"domain", e.state.Domain.String()}, c.args...)...)
	}
}

// Known returns what is known of a domain, to decide how its servers may be met; nil when that is
// nothing. It wraps ErrDamaged where nobody can say.
func (s *Store) Known(domain address.Domain) (*State, error) {
	e := s.get(nameOf(domain))
	if e == nil {
		return nil, nil
	}
	if e.damage != nil {
		return nil, fmt.Errorf("%s: %s (%w)", domain, Damaged.Text(), e.damage)
	}
	return e.state, nil
}

// Stats returns the figures of now.
func (s *Store) Stats() Stats {
	now := s.now()
	s.mu.RLock()
	defer s.mu.RUnlock()
	st := Stats{Domains: len(s.domains), Changes: s.changes, Full: s.full}
	for _, e := range s.domains {
		switch {
		case e.damage != nil:
			st.Held++
			st.Damaged++
		case len(e.state.Holds(now)) > 0:
			st.Held++
		}
	}
	return st
}

func (s *Store) entry(n name, e *entry) Entry {
	v := Entry{File: filepath.Join(s.dir, n.file()), State: e.state}
	if e.damage != nil {
		v.Damage = e.damage.Error()
		v.Holding = []Hold{{Why: Damaged}}
	} else {
		v.Holding = e.state.Holds(s.now())
	}
	return v
}

// List returns all domains, the damaged ones first, then by name. It never fails; a store
// that is reached through the control socket does.
func (s *Store) List() ([]Entry, error) {
	s.mu.RLock()
	all := make([]Entry, 0, len(s.domains))
	for n, e := range s.domains {
		all = append(all, s.entry(n, e))
	}
	s.mu.RUnlock()
	slices.SortFunc(all, func(a, b Entry) int { return strings.Compare(a.key(), b.key()) })
	return all, nil
}

func (e Entry) key() string {
	if e.State == nil {
		return " " + e.File
	}
	return e.State.Domain.String()
}
