package account

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"cmtpd/internal/address"
	"cmtpd/internal/crypt"
	"cmtpd/internal/durable"
	"cmtpd/internal/xzibit"
)

// Options say what a Store works on.
type Options struct {
	Dir string // of the accounts
	// Invitations is the directory of those; empty: there are none, and none can be made.
	Invitations string
	FS          durable.FS
	Signer      *crypt.PrivateKey // the server's identity
	Now         func() time.Time
	// OnRemove, which may be nil, is told of every ID that will mean nothing any more: of
	// an account that was removed, and of an invitation that did not become one. It must
	// not use the Store.
	OnRemove func(ID)
	// OnChange, which may be nil, is told of every account that was made, changed or removed, once it
	// is so. It must not use the Store.
	OnChange func(ID)
}

// A Store holds the accounts of a server, one file each in its directory, and
// all of them in memory, and in the same way the open invitations. It is safe for
// many goroutines; only one process may have a directory open.
type Store struct {
	dir         string
	invitations string
	fs          durable.FS
	signer      *crypt.PrivateKey
	now         func() time.Time
	onRemove    func(ID)
	onChange    func(ID)

	write   sync.Mutex // held through a change, its flush included
	failure error      // under write: wraps ErrFailed once disk and memory may differ
	sweep   time.Time  // under write: no invitation expires before

	mu      sync.RWMutex
	users   map[address.Address]*Account    // under mu
	byID    map[ID]*Account                 // under mu: the same
	invited map[address.Address]*Invitation // under mu
}

// How the names in the directory end: an account's, and what an atomic write that
// was cut short has left (durable.WriteNew).
const (
	suffix    = ".json"
	temporary = ".tmp"
)

// maxFile bounds what an account's file may hold, in bytes.
const maxFile = 1 << 20

// Open reads every account and every invitation, and makes the directories when there are
// none. It fails when a file there cannot be read as an account: a server that leaves
// a user out would turn that user's mail away. Invitations that cannot be used any
// more are removed.
func Open(o Options) (*Store, error) {
	s := &Store{dir: o.Dir, invitations: o.Invitations, fs: o.FS, signer: o.Signer, now: o.Now, onRemove: o.OnRemove,
		users: make(map[address.Address]*Account), byID: make(map[ID]*Account), invited: make(map[address.Address]*Invitation)}
	if s.onRemove == nil {
		s.onRemove = func(ID) {}
	}
	if s.onChange = o.OnChange; s.onChange == nil {
		s.onChange = func(ID) {}
	}
	if err := s.openDir("account", s.dir, s.load); err != nil {
		return nil, err
	}
	if s.invitations == "" {
		return s, nil
	}
	if err := s.openDir("invitation", s.invitations, s.loadInvitation); err != nil {
		return nil, err
	}
	if err := s.dropUseless(); err != nil {
		return nil, fmt.Errorf("removing invitations that are over: %w", err)
	}
	return s, nil
}

// openDir makes a directory, takes away what atomic writes have left in it, and loads
// every file there: load is given the name and the bytes. What is what a file holds.
func (s *Store) openDir(what, dir string, load func(name string, data []byte) error) error {
	if err := durable.MkdirAll(s.fs, dir, 0o700); err != nil {
		return fmt.Errorf("opening the %ss: %w", what, err)
	}
	names, err := s.fs.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("opening the %ss: %w", what, err)
	}
	var damaged []error
	for _, name := range names {
		path := filepath.Join(dir, name)
		if strings.HasPrefix(name, ".") && strings.HasSuffix(name, temporary) {
			// It holds a xzibit, which must not outlive its account.
			if err := s.fs.Remove(path); err != nil {
				return fmt.Errorf("opening the %ss: %w", what, err)
			}
			continue
		}
		if !strings.HasSuffix(name, suffix) {
			continue // an operator's, not ours
		}
		data, err := durable.ReadFile(s.fs, path, maxFile)
		if err == nil {
			err = load(name, data)
		}
		if err != nil {
			damaged = append(damaged, fmt.Errorf("%s file %s: %w", what, path, err))
		}
	}
	return errors.Join(damaged...)
}

// errReadOnly is why a store that Read has returned takes no change.
var errReadOnly = fmt.Errorf("%w: they were opened only to be looked at", ErrFailed)

// Read returns the accounts in a directory to who looks at them, beside a daemon or without
// one: nothing can be changed, and nothing is signed. No directory has none.
func Read(dir string, fsys durable.FS) (*Store, error) {
	s := &Store{dir: dir, fs: fsys, failure: errReadOnly, users: make(map[address.Address]*Account), byID: make(map[ID]*Account)}
	return s, readDir("account", dir, fsys, s.load)
}

// ReadInvitations is Read for the open invitations, in no order.
func ReadInvitations(dir string, fsys durable.FS, now time.Time) (open []*Invitation, err error) {
	s := &Store{invited: make(map[address.Address]*Invitation)}
	if err := readDir("invitation", dir, fsys, s.loadInvitation); err != nil {
		return nil, err
	}
	for _, i := range s.invited {
		if now.Before(i.Expires) {
			open = append(open, i)
		}
	}
	return open, nil
}

// readDir loads every file of a directory, and changes nothing.
func readDir(what, dir string, fsys durable.FS, load func(name string, data []byte) error) error {
	names, err := fsys.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("reading the %ss: %w", what, err)
	}
	for _, name := range names {
		if !strings.HasSuffix(name, suffix) {
			continue
		}
		data, err := durable.ReadFile(fsys, filepath.Join(dir, name), maxFile)
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed just now
		}
		if err == nil {
			err = load(name, data)
		}
		if err != nil {
			return fmt.Errorf("%s file %s: %w", what, filepath.Join(dir, name), err)
		}
	}
	return nil
}

func (s *Store) load(name string, data []byte) error {
	const advice = "restore it from a backup or move it away"
	a := new(Account)
	if err := json.Unmarshal(data, a); err != nil {
		return fmt.Errorf("%w; %s", err, advice)
	}
	if name != a.ID.String()+suffix {
		return fmt.Errorf("it holds the account %v; %s", a.ID, advice)
	}
	if other := s.users[a.Address]; other != nil {
		return fmt.Errorf("%s is in %v%s too; move one of them away", a.Address, other.ID, suffix)
	}
	s.users[a.Address], s.byID[a.ID] = a.sign(s.signer), a
	return nil
}

// put makes a the account of its address, on disk first. The caller holds write.
func (s *Store) put(a *Account) error {
	data, err := a.file()
	if err == nil {
		err = s.replace(s.path(a.ID), data)
	}
	if err != nil {
		return fmt.Errorf("storing the account %s: %w", a.Address, err)
	}
	a.sign(s.signer)
	s.mu.Lock()
	s.users[a.Address], s.byID[a.ID] = a, a
	s.mu.Unlock()
	s.onChange(a.ID)
	return nil
}

// replace makes a file hold data. The caller holds write.
//
//	open, pwrite, fdatasync  accounts/.<random>.tmp
//	rename                   accounts/.<random>.tmp   accounts/<id>.json
//	fsync                    accounts/
//
// It does the same in invitations/.
func (s *Store) replace(path string, data []byte) error {
	if s.failure != nil {
		return s.failure
	}
	tmp := filepath.Join(filepath.Dir(path), "."+durable.RandomName()+temporary)
	if err := durable.WriteNew(s.fs, tmp, data, 0o600); err != nil {
		return err
	}
	if err := durable.Publish(s.fs, tmp, path); err != nil {
		return s.fail(err)
	}
	return nil
}

// unlink removes files of one directory for good. The caller holds write.
//
//	unlink  accounts/<id>.json
//	fsync   accounts/
//
// It does the same in invitations/.
func (s *Store) unlink(paths ...string) error {
	if s.failure != nil {
		return s.failure
	}
	for _, path := range paths {
		if err := s.fs.Remove(path); err != nil {
			return s.fail(err)
		}
	}
	if len(paths) > 0 {
		if err := s.fs.SyncDir(filepath.Dir(paths[0])); err != nil {
			return s.fail(err)
		}
	}
	return nil
}

// fail ends all changes after one of which nobody knows whether it took effect:
// going on could make a second file for one address. The caller holds write.
func (s *Store) fail(cause error) error {
	s.failure = fmt.Errorf("%w: %w", ErrFailed, cause)
	return s.failure
}

func (s *Store) path(id ID) string { return filepath.Join(s.dir, id.String()+suffix) }

// Get returns the account of addr, disabled or not.
func (s *Store) Get(addr address.Address) (*Account, error) {
	s.mu.RLock()
	a := s.users[addr]
	s.mu.RUnlock()
	if a == nil {
		return nil, fmt.Errorf("%s: %w", addr, ErrUnknown)
	}
	return a, nil
}

// List returns all accounts, by domain and name. It never fails; a store that is
// reached through the control socket does.
func (s *Store) List() ([]*Account, error) {
	s.mu.RLock()
	all := make([]*Account, 0, len(s.users))
	for _, a := range s.users {
		all = append(all, a)
	}
	s.mu.RUnlock()
	slices.SortFunc(all, func(a, b *Account) int { return compareAddresses(a.Address, b.Address) })
	return all, nil
}

// Add makes the account that r asks for. An open invitation of its address ends.
func (s *Store) Add(r Registration) (*Account, error) {
	a, err := s.registered(&r)
	if err != nil {
		return nil, fmt.Errorf("adding %s: %w", r.Address, err)
	}
	s.write.Lock()
	defer s.write.Unlock()
	if _, err := s.Get(r.Address); err == nil {
		return nil, fmt.Errorf("adding %s: %w", r.Address, ErrExists)
	}
	if err := s.put(a); err != nil {
		return nil, err
	}
	s.used(r.Address, a.ID)
	return a, nil
}

// registered returns the account that r asks for.
func (s *Store) registered(r *Registration) (*Account, error) {
	first, err := r.check()
	if err != nil {
		return nil, err
	}
	if err := checkName(r.Address); err != nil {
		return nil, err
	}
	if err := s.checkFirst(&first); err != nil {
		return nil, err
	}
	a := s.newAccount(NewID(), &first, r.Xzibit, r.Copy)
	if a.seed, err = parseSeed(r.Seed); err != nil {
		return nil, err
	}
	if a.seed == nil && a.XzibitVersion() >= xzibit.Unlocked {
		return nil, fmt.Errorf("%w: it is of version 3, and its seed is missing", ErrXzibit)
	}
	return a, nil
}

func (s *Store) checkFirst(first *crypt.KeyStatement) error {
	if !first.IsFirst() {
		return fmt.Errorf("%w: it names one before it, and there is none", ErrStatement)
	}
	return s.checkTime(first.NotBefore)
}

func (s *Store) newAccount(id ID, first *crypt.KeyStatement, sealed, recovery []byte) *Account {
	return &Account{ID: id, Address: first.Name, Key: first.Key, Statements: []Statement{{KeyStatement: *first}},
		Xzibit: sealed, Copy: recovery, Created: s.now().UTC().Truncate(time.Second)}
}

// SetXzibit replaces the xzibit of the account that r names. r proves that the account's
// key is held: its statement is the newest of the account. The recovery copy stays,
// since it holds the same keys.
func (s *Store) SetXzibit(r Registration) error {
	statement, err := r.check()
	if err != nil {
		return fmt.Errorf("replacing the xzibit of %s: %w", r.Address, err)
	}
	return s.change(r.Address, func(a *Account) error {
		if *a.Statement() != statement {
			return fmt.Errorf("replacing the xzibit of %s: %w: it is for another key", r.Address, ErrProof)
		}
		if digest := a.XzibitDigest(); !bytes.Equal(r.Replaces, digest[:]) {
			return fmt.Errorf("replacing the xzibit of %s: %w", r.Address, ErrConflict)
		}
		if err := a.checkVersion(r.Xzibit); err != nil {
			return fmt.Errorf("replacing the xzibit of %s: %w", r.Address, err)
		}
		a.Xzibit = r.Xzibit
		return nil
	})
}

// Evaluate returns a blinded element under the key that the account of addr has for
// it, as Account.Evaluate does.
func (s *Store) Evaluate(addr address.Address, blinded [32]byte) ([32]byte, error) {
	a, err := s.Get(addr)
	if err != nil {
		return [32]byte{}, err
	}
	return a.Evaluate(blinded)
}

// active returns the account with an ID, unless it is disabled.
func (s *Store) active(id ID) (*Account, error) {
	s.mu.RLock()
	a := s.byID[id]
	s.mu.RUnlock()
	if a == nil || a.Disabled {
		return nil, fmt.Errorf("account %v: %w", id, ErrUnknown)
	}
	return a, nil
}

// SetDisabled disables or enables an account.
func (s *Store) SetDisabled(addr address.Address, disabled bool) error {
	return s.change(addr, func(a *Account) error {
		a.Disabled = disabled
		return nil
	})
}

func (s *Store) change(addr address.Address, edit func(*Account) error) error {
	s.write.Lock()
	defer s.write.Unlock()
	old, err := s.Get(addr)
	if err != nil {
		return err
	}
	a := *old
	if err := edit(&a); err != nil {
		return err
	}
	return s.put(&a)
}

// Remove forgets an account, its xzibit included, and an invitation to reset it, which
// goes first: it must not be there for a later account of that name. The mail stays in
// the spool under the account's ID.
func (s *Store) Remove(addr address.Address) error {
	s.write.Lock()
	defer s.write.Unlock()
	a, err := s.Get(addr)
	if err != nil {
		return err
	}
	if inv := s.invitation(addr); inv != nil {
		if err := s.drop(inv); err != nil {
			return fmt.Errorf("removing the account %s: %w", addr, err)
		}
	}
	if err := s.unlink(s.path(a.ID)); err != nil {
		return fmt.Errorf("removing the account %s: %w", addr, err)
	}
	s.mu.Lock()
	delete(s.users, addr)
	delete(s.byID, a.ID)
	s.mu.Unlock()
	s.onRemove(a.ID)
	s.onChange(a.ID)
	return nil
}
