package account

import (
	"cmp"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"cmtpd/internal/address"
	"cmtpd/internal/config"
	"cmtpd/internal/crypt"
	"cmtpd/internal/invite"
	"cmtpd/internal/oprf"
)

// MaxInvitations is how many may be open at a time.
const MaxInvitations = 10000

// An Invitation lets who knows its code make an account, or give an account another key
// than the one that its user has lost. It is never changed after it was made.
type Invitation struct {
	ID      ID // becomes that of the account; of a reset it is only the invitation's
	Address address.Address
	Reset   bool
	Created time.Time
	Expires time.Time
	// Server is the key that the code names; zero where an older version has made it.
	Server crypt.PublicKey

	hash   [sha256.Size]byte // invite.HashSecret of the code's secret
	seed   func() []byte     // becomes the account's
	unlock func() (*oprf.Key, error)
}

// invitationForm is an invitation in JSON, in its file and on the control socket.
type invitationForm struct {
	ID      ID              `json:"id"`
	Address address.Address `json:"address"`
	Reset   bool            `json:"reset"`
	Created time.Time       `json:"created"`
	Expires time.Time       `json:"expires"`
	Server  []byte          `json:"server,omitempty"`
	Hash    []byte          `json:"hash,omitempty"` // in the file alone
	Seed    []byte          `json:"seed,omitempty"` // in the file alone
}

func (i *Invitation) form() invitationForm {
	f := invitationForm{ID: i.ID, Address: i.Address, Reset: i.Reset, Created: i.Created, Expires: i.Expires}
	if i.Server != (crypt.PublicKey{}) {
		f.Server = i.Server[:]
	}
	return f
}

// invitation is the inverse of form.
func (f *invitationForm) invitation() (*Invitation, error) {
	i := &Invitation{ID: f.ID, Address: f.Address, Reset: f.Reset, Created: f.Created, Expires: f.Expires}
	if n := len(f.Server); n != 0 && n != len(i.Server) {
		return nil, fmt.Errorf("its server's key has %d bytes, want %d", n, len(i.Server))
	}
	copy(i.Server[:], f.Server)
	return i, nil
}

// NamesKey reports whether the code names this key of the server, so that its user takes the
// server for the right one. Of what an older version has made it is not known, and so true.
func (i *Invitation) NamesKey(server crypt.PublicKey) bool {
	return i.Server == crypt.PublicKey{} || i.Server == server
}

// MarshalJSON returns the invitation as the control socket shows it: without what only
// the server may know.
func (i *Invitation) MarshalJSON() ([]byte, error) { return json.Marshal(i.form()) }

// UnmarshalJSON reads what MarshalJSON wrote.
func (i *Invitation) UnmarshalJSON(data []byte) error {
	var f invitationForm
	if err := json.Unmarshal(data, &f); err != nil {
		return err
	}
	read, err := f.invitation()
	if err != nil {
		return err
	}
	*i = *read
	return nil
}

// file returns the invitation as it stands in its file.
func (i *Invitation) file() ([]byte, error) {
	f := i.form()
	f.Hash, f.Seed = i.hash[:], i.seed()
	return encodeFile(f)
}

// parseInvitation reads a file.
func parseInvitation(data []byte) (*Invitation, error) {
	var f invitationForm
	if err := json.Unmarshal(data, &f); err != nil {
		return nil, err
	}
	if err := checkID(f.ID); err != nil {
		return nil, err
	}
	if f.Address.IsZero() {
		return nil, errors.New("it names no address")
	}
	i, err := f.invitation()
	if err != nil {
		return nil, err
	}
	if copy(i.hash[:], f.Hash) != len(i.hash) || len(f.Hash) != len(i.hash) {
		return nil, fmt.Errorf("its hash has %d bytes, want %d", len(f.Hash), len(i.hash))
	}
	seed, err := parseSeed(f.Seed)
	if err == nil && seed == nil {
		err = oprf.ErrSeed
	}
	if err != nil {
		return nil, err
	}
	i.setSeed(seed)
	return i, nil
}

func (i *Invitation) setSeed(seed func() []byte) {
	i.seed = seed
	i.unlock = sync.OnceValues(func() (*oprf.Key, error) { return unlockKey(seed) })
}

// An Invited is an invitation with its code, which is shown once.
type Invited struct {
	Invitation *Invitation `json:"invitation"`
	Code       string      `json:"code"`
}

func (s *Store) invitationPath(id ID) string { return filepath.Join(s.invitations, id.String()+suffix) }

func (s *Store) loadInvitation(name string, data []byte) error {
	const advice = "remove it, and invite again"
	i, err := parseInvitation(data)
	if err != nil {
		return fmt.Errorf("%w; %s", err, advice)
	}
	if name != i.ID.String()+suffix {
		return fmt.Errorf("it holds the invitation %v; %s", i.ID, advice)
	}
	if other := s.invited[i.Address]; other != nil {
		return fmt.Errorf("%s is in %v%s too; %s", i.Address, other.ID, suffix, advice)
	}
	s.invited[i.Address] = i
	return nil
}

// isUseless reports whether nobody can use an invitation any more: it has expired, or the
// crash after its use came before its removal, or the account is not what it was made
// for.
func (s *Store) isUseless(i *Invitation) bool {
	a := s.users[i.Address]
	switch {
	case !s.now().Before(i.Expires):
		return true
	case i.Reset:
		return a == nil || a.seed != nil && subtle.ConstantTimeCompare(a.seed(), i.seed()) == 1
	}
	return a != nil
}

// dropUseless removes what has become useless. The caller holds write, or is alone.
func (s *Store) dropUseless() error {
	var useless []*Invitation
	s.sweep = s.now().Add(config.MaxInvitationLife)
	s.mu.RLock()
	for _, i := range s.invited {
		if s.isUseless(i) {
			useless = append(useless, i)
		} else if i.Expires.Before(s.sweep) {
			s.sweep = i.Expires
		}
	}
	s.mu.RUnlock()
	return s.drop(useless...)
}

// drop removes invitations, on disk first. The caller holds write.
func (s *Store) drop(gone ...*Invitation) error {
	paths := make([]string, len(gone))
	for n, i := range gone {
		paths[n] = s.invitationPath(i.ID)
	}
	if err := s.unlink(paths...); err != nil {
		return err
	}
	s.mu.Lock()
	for _, i := range gone {
		delete(s.invited, i.Address)
	}
	s.mu.Unlock()
	for _, i := range gone {
		s.onRemove(i.ID)
	}
	return nil
}

// used ends the invitation of an address after the account with this ID was stored. That
// account is there whatever becomes of this: when the file cannot be removed, fail has
// ended all changes, and the next Open knows it for used. The caller holds write.
func (s *Store) used(addr address.Address, account ID) {
	i := s.invitation(addr)
	if i == nil {
		return
	}
	s.mu.Lock()
	delete(s.invited, addr)
	s.mu.Unlock()
	if s.unlink(s.invitationPath(i.ID)) == nil && i.ID != account {
		s.onRemove(i.ID)
	}
}

// invitation returns that of an address, or nil.
func (s *Store) invitation(addr address.Address) *Invitation {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.invited[addr]
}

// Invite makes an invitation that lasts for life, in the place of an older one of the
// address. A reset is for an account that exists, any other for an address that is free.
func (s *Store) Invite(addr address.Address, reset bool, life time.Duration) (*Invited, error) {
	made, err := s.invite(addr, reset, life)
	if err != nil {
		return nil, fmt.Errorf("inviting %s: %w", addr, err)
	}
	return made, nil
}

func (s *Store) invite(addr address.Address, reset bool, life time.Duration) (*Invited, error) {
	if s.invitations == "" {
		return nil, errors.New("this store keeps no invitations")
	}
	if life <= 0 || life > config.MaxInvitationLife {
		return nil, fmt.Errorf("%w: %v is not between 0 and %v", ErrLife, life, config.MaxInvitationLife)
	}
	if err := checkName(addr); err != nil {
		return nil, err
	}
	s.write.Lock()
	defer s.write.Unlock()
	switch _, err := s.Get(addr); {
	case reset && err != nil:
		return nil, ErrUnknown
	case !reset && err == nil:
		return nil, fmt.Errorf("%w; to give it another key, make the invitation a reset", ErrExists)
	}
	if !s.now().Before(s.sweep) {
		if err := s.dropUseless(); err != nil {
			return nil, err
		}
	}
	i, code, err := s.newInvitation(addr, reset, life)
	if err != nil {
		return nil, err
	}
	data, err := i.file()
	if err == nil {
		err = s.replace(s.invitationPath(i.ID), data)
	}
	if err != nil {
		return nil, err
	}
	if i.Expires.Before(s.sweep) {
		s.sweep = i.Expires
	}
	s.mu.Lock()
	s.invited[addr] = i
	s.mu.Unlock()
	return &Invited{i, code.Reveal()}, nil
}

// newInvitation makes an invitation that takes the place of the one that the address
// has. It takes over its ID, and so its file: one replaces the other at once.
func (s *Store) newInvitation(addr address.Address, reset bool, life time.Duration) (*Invitation, invite.Code, error) {
	code := invite.New(s.signer.Public())
	now := s.now().UTC().Truncate(time.Second)
	i := &Invitation{ID: NewID(), Address: addr, Reset: reset, Created: now, Expires: now.Add(life), Server: s.signer.Public()}
	if old := s.invitation(addr); old != nil {
		i.ID = old.ID
	} else if s.openInvitations() >= MaxInvitations {
		return nil, code, fmt.Errorf("%w: %d; see user invitations", ErrInvitations, MaxInvitations)
	}
	i.hash = invite.HashSecret(i.ID, code.Secret())
	seed, err := newSeed()
	i.setSeed(seed)
	return i, code, err
}

func (s *Store) openInvitations() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return len(s.invited)
}

// Invitations returns those that are open, by domain and name.
func (s *Store) Invitations() ([]*Invitation, error) {
	now := s.now()
	s.mu.RLock()
	all := make([]*Invitation, 0, len(s.invited))
	for _, i := range s.invited {
		if now.Before(i.Expires) {
			all = append(all, i)
		}
	}
	s.mu.RUnlock()
	slices.SortFunc(all, func(a, b *Invitation) int { return compareAddresses(a.Address, b.Address) })
	return all, nil
}

func compareAddresses(a, b address.Address) int {
	return cmp.Or(cmp.Compare(a.Domain.String(), b.Domain.String()), cmp.Compare(a.Account.String(), b.Account.String()))
}

// Revoke ends the invitation of an address, or returns ErrInvitation where there is
// none.
func (s *Store) Revoke(addr address.Address) error {
	s.write.Lock()
	defer s.write.Unlock()
	i := s.invitation(addr)
	if i == nil {
		return fmt.Errorf("%s: %w", addr, ErrInvitation)
	}
	if err := s.drop(i); err != nil {
		return fmt.Errorf("ending the invitation of %s: %w", addr, err)
	}
	return nil
}

// opened returns the invitation that the secret of a code opens, or ErrInvitation.
func (s *Store) opened(addr address.Address, secret string) (*Invitation, error) {
	i := s.invitation(addr)
	if i == nil || !s.now().Before(i.Expires) {
		return nil, ErrInvitation
	}
	parsed, err := invite.ParseSecret(secret)
	if err != nil || !invite.Matches(i.hash, i.ID, parsed) {
		return nil, ErrInvitation
	}
	return i, nil
}

// Enroll is Evaluate for an account that does not exist yet, or is to be reset, under the
// key that it will have (docs/protocol.md section 19.4). Secret is that of the
// invitation's code. It returns ErrInvitation, and wraps oprf.ErrElement.
func (s *Store) Enroll(addr address.Address, secret string, blinded [32]byte) ([32]byte, error) {
	i, err := s.opened(addr, secret)
	if err != nil {
		return [32]byte{}, err
	}
	return evaluate(i.unlock, blinded)
}
