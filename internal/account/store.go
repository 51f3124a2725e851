package account

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"cmtpd/internal/address"
	"cmtpd/internal/crypt"
	"cmtpd/internal/durable"
)

// A Store holds the accounts of a server, one file each in its directory, and
// all of them in memory. It is safe for many goroutines; only one process may
// have a directory open.
type Store struct {
	dir    string
	fs     durable.FS
	signer *crypt.PrivateKey
	now    func() time.Time

	write   sync.Mutex // held through a change, its flush included
	failure error      // under write: wraps ErrFailed once disk and memory may differ

	mu    sync.RWMutex
	users map[address.Address]*Account // under mu
}

// How the names in the directory end: an account's, and what an atomic write that
// was cut short has left (durable.WriteNew).
const (
	suffix    = ".json"
	temporary = ".tmp"
)

// maxFile bounds what an account's file may hold, in bytes.
const maxFile = 1 << 20

// Open reads every account in dir, which it makes when there is none. It fails
// when a file there cannot be read as an account: a server that leaves a user
// out would turn that user's mail away.
func Open(dir string, fsys durable.FS, signer *crypt.PrivateKey, now func() time.Time) (*Store, error) {
	if err := durable.MkdirAll(fsys, dir, 0o700); err != nil {
		return nil, fmt.Errorf("opening the accounts: %w", err)
	}
	names, err := fsys.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("opening the accounts: %w", err)
	}
	s := &Store{dir: dir, fs: fsys, signer: signer, now: now, users: make(map[address.Address]*Account)}
	var damaged []error
	for _, name := range names {
		if strings.HasPrefix(name, ".") && strings.HasSuffix(name, temporary) {
			// It holds a xzibit, which must not outlive its account.
			if err := fsys.Remove(filepath.Join(dir, name)); err != nil {
				return nil, fmt.Errorf("opening the accounts: %w", err)
			}
			continue
		}
		if !strings.HasSuffix(name, suffix) {
			continue // an operator's, not ours
		}
		a, err := s.load(name)
		switch {
		case err != nil:
			damaged = append(damaged, fmt.Errorf("account file %s: %w; restore it from a backup or move it away", filepath.Join(dir, name), err))
		case s.users[a.Address] != nil:
			damaged = append(damaged, fmt.Errorf("account file %s: %s is in %v%s too; move one of them away", filepath.Join(dir, name), a.Address, s.users[a.Address].ID, suffix))
		default:
			s.users[a.Address] = a
		}
	}
	if err := errors.Join(damaged...); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *Store) load(name string) (*Account, error) {
	data, err := durable.ReadFile(s.fs, filepath.Join(s.dir, name), maxFile)
	if err != nil {
		return nil, err
	}
	a := new(Account)
	if err := json.Unmarshal(data, a); err != nil {
		return nil, err
	}
	if name != a.ID.String()+suffix {
		return nil, fmt.Errorf("it holds the account %v", a.ID)
	}
	return a.sign(s.signer), nil
}

// put makes a the account of its address, on disk first. The caller holds write.
//
//	open, pwrite, fdatasync  accounts/.<random>.tmp
//	rename                   accounts/.<random>.tmp   accounts/<id>.json
//	fsync                    accounts/
func (s *Store) put(a *Account) error {
	data, err := json.MarshalIndent(a, "", "  ")
	if err != nil {
		return err
	}
	if s.failure != nil {
		return fmt.Errorf("storing the account %s: %w", a.Address, s.failure)
	}
	tmp := filepath.Join(s.dir, "."+durable.RandomName()+temporary)
	if err := durable.WriteNew(s.fs, tmp, append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("storing the account %s: %w", a.Address, err)
	}
	if err := durable.Publish(s.fs, tmp, s.path(a.ID)); err != nil {
		return fmt.Errorf("storing the account %s: %w", a.Address, s.fail(err))
	}
	s.mu.Lock()
	s.users[a.Address] = a.sign(s.signer)
	s.mu.Unlock()
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
	slices.SortFunc(all, func(a, b *Account) int {
		return cmp.Or(cmp.Compare(a.Address.Domain.String(), b.Address.Domain.String()),
			cmp.Compare(a.Address.Account.String(), b.Address.Account.String()))
	})
	return all, nil
}

// Add makes the account that r asks for.
func (s *Store) Add(r Registration) (*Account, error) {
	key, err := r.check()
	if err != nil {
		return nil, err
	}
	if base := r.Address.Account.Base(); base != r.Address.Account || strings.HasPrefix(base.String(), "+") {
		return nil, fmt.Errorf("adding %s: %w: what follows a + is a subaddress of %s", r.Address, ErrReserved, base)
	}
	s.write.Lock()
	defer s.write.Unlock()
	if _, err := s.Get(r.Address); err == nil {
		return nil, fmt.Errorf("adding %s: %w", r.Address, ErrExists)
	}
	a := &Account{ID: NewID(), Address: r.Address, Key: key, Xzibit: r.Xzibit, Created: s.now().UTC().Truncate(time.Second)}
	if err := s.put(a); err != nil {
		return nil, err
	}
	return a, nil
}

// SetXzibit replaces the xzibit of the account that r names; r proves that the
// account's key is held, and its key must be the account's.
func (s *Store) SetXzibit(r Registration) error {
	key, err := r.check()
	if err != nil {
		return err
	}
	return s.change(r.Address, func(a *Account) error {
		if a.Key != key {
			return fmt.Errorf("replacing the xzibit of %s: %w: it is for another key", r.Address, ErrProof)
		}
		a.Xzibit = r.Xzibit
		return nil
	})
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

// Remove forgets an account, its xzibit included. Its mail stays in the spool
// under the account's ID.
//
//	unlink  accounts/<id>.json
//	fsync   accounts/
func (s *Store) Remove(addr address.Address) error {
	s.write.Lock()
	defer s.write.Unlock()
	a, err := s.Get(addr)
	if err != nil {
		return err
	}
	if s.failure != nil {
		return fmt.Errorf("removing the account %s: %w", addr, s.failure)
	}
	if err := s.fs.Remove(s.path(a.ID)); err != nil {
		return fmt.Errorf("removing the account %s: %w", addr, s.fail(err))
	}
	if err := s.fs.SyncDir(s.dir); err != nil {
		return fmt.Errorf("removing the account %s: %w", addr, s.fail(err))
	}
	s.mu.Lock()
	delete(s.users, addr)
	s.mu.Unlock()
	return nil
}
