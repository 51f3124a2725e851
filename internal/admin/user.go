package admin

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"cmtpd/internal/account"
	"cmtpd/internal/address"
	"cmtpd/internal/config"
	"cmtpd/internal/crypt"
	"cmtpd/internal/oprf"
	"cmtpd/internal/spool"
	"cmtpd/internal/xzibit"
)

// Create makes an account for addr with a new key pair, sealed under password so that
// the server has to help to open it.
func (u *Users) Create(addr address.Address, password []byte) (*account.Account, error) {
	seed, err := oprf.NewSeed()
	if err != nil {
		return nil, err
	}
	defer clear(seed[:])
	unlock, err := oprf.KeyFromSeed(seed[:])
	if err != nil {
		return nil, err
	}
	return u.create(addr, seed[:], func(ring *xzibit.Keyring) ([]byte, error) {
		return sealUnlocked(ring, addr, password, unlock.Evaluate)
	})
}

// CreateVersion2 is Create for users whose programs know no UNLOCK: the password alone
// opens the keys.
func (u *Users) CreateVersion2(addr address.Address, password []byte) (*account.Account, error) {
	return u.create(addr, nil, func(ring *xzibit.Keyring) ([]byte, error) {
		return xzibit.Seal(ring, addr.String(), password, xzibit.DefaultParams())
	})
}

func (u *Users) create(addr address.Address, seed []byte, seal func(*xzibit.Keyring) ([]byte, error)) (*account.Account, error) {
	if err := u.check(addr); err != nil {
		return nil, fmt.Errorf("adding %s: %w", addr, err)
	}
	key, err := crypt.GenerateKey()
	if err != nil {
		return nil, err
	}
	defer key.Wipe()
	now := time.Now()
	sealed, err := seal(&xzibit.Keyring{Keys: []xzibit.KeyPair{{Key: key, Made: now}}, Server: u.server})
	if err != nil {
		return nil, fmt.Errorf("sealing the keys of %s: %w", addr, err)
	}
	r := account.NewRegistration(addr, key, now, sealed)
	r.Seed = seed
	return u.Add(r)
}

// check refuses what the accounts themselves cannot know.
func (u *Users) check(addr address.Address) error {
	names := account.Directory{Domains: u.cfg.Domains, Aliases: u.cfg.Aliases}
	return names.CheckNew(addr)
}

// sealUnlocked seals a keyring into version 3.
func sealUnlocked(ring *xzibit.Keyring, addr address.Address, password []byte, evaluate func(oprf.Element) (oprf.Element, error)) ([]byte, error) {
	output, err := unlock(password, evaluate)
	if err != nil {
		return nil, err
	}
	defer clear(output)
	return xzibit.SealUnlocked(ring, addr.String(), password, output, xzibit.DefaultParams())
}

// unlock returns what the server's function makes of a password. Evaluate is the server's
// side of it.
func unlock(password []byte, evaluate func(oprf.Element) (oprf.Element, error)) ([]byte, error) {
	input, err := xzibit.UnlockInput(password)
	if err != nil {
		return nil, err
	}
	defer clear(input)
	return oprf.Ask(input, evaluate)
}

// ChangePassword seals the keys of addr, opened with old, under password, in the version
// that they are in, or in version 2 where that is 1.
func (u *Users) ChangePassword(addr address.Address, old, password []byte) error {
	a, err := u.Get(addr)
	if err != nil {
		return err
	}
	evaluate := func(blinded oprf.Element) (oprf.Element, error) { return u.Evaluate(addr, blinded) }
	ring, err := openRing(a, old, evaluate)
	if errors.Is(err, xzibit.ErrPassword) {
		return fmt.Errorf("changing the password of %s: %w; without the old one nobody can open the mail that is sealed to the account's key: "+
			"user invite --reset lets the user make another key", addr, ErrPassword)
	}
	if err != nil {
		return fmt.Errorf("opening the keys of %s: %w", addr, err)
	}
	defer ring.Wipe()
	ring.Server = u.server // it may have another key by now
	var sealed []byte
	if a.XzibitVersion() < xzibit.Unlocked {
		sealed, err = xzibit.Seal(ring, addr.String(), password, xzibit.DefaultParams())
	} else {
		sealed, err = sealUnlocked(ring, addr, password, evaluate)
	}
	if err != nil {
		return fmt.Errorf("sealing the keys of %s: %w", addr, err)
	}
	return u.SetXzibit(account.NewXzibit(a, ring.Keys[0].Key, sealed))
}

func openRing(a *account.Account, password []byte, evaluate func(oprf.Element) (oprf.Element, error)) (*xzibit.Keyring, error) {
	if a.XzibitVersion() < xzibit.Unlocked {
		return xzibit.Open(a.Xzibit, a.Address.String(), password)
	}
	output, err := unlock(password, evaluate)
	if err != nil {
		return nil, err
	}
	defer clear(output)
	return xzibit.OpenUnlocked(a.Xzibit, a.Address.String(), password, output)
}

// Invite makes an invitation for addr. Where life is 0 it lasts as long as the configuration says.
func (u *Users) Invite(addr address.Address, reset bool, life time.Duration) (*account.Invited, error) {
	if err := u.check(addr); err != nil {
		return nil, fmt.Errorf("inviting %s: %w", addr, err)
	}
	if life == 0 {
		life = u.cfg.Accounts.InvitationLife
	}
	if life < config.MinInvitationLife {
		return nil, fmt.Errorf("inviting %s: %w: %v is not between %v and %v", addr, account.ErrLife, life, config.MinInvitationLife, config.MaxInvitationLife)
	}
	return u.Users.Invite(addr, reset, life)
}

// Mail returns how many messages the mailbox of an account holds, and their bytes, damaged ones
// included. Without a spool there are none.
func (u *Users) Mail(a *account.Account) (messages int, bytes int64, err error) {
	s, err := OpenSpool(u.cfg)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, 0, nil
	}
	if err != nil {
		return 0, 0, err
	}
	defer s.Close()
	for info, err := range s.List(spool.MailboxID(a.ID), 0) {
		if err != nil && !errors.Is(err, spool.ErrDamaged) {
			return messages, bytes, fmt.Errorf("counting the mail of %s: %w", a.Address, err)
		}
		messages++
		bytes += info.Size
	}
	return messages, bytes, nil
}

// A UserView is an account as it is shown, and the form of --json.
type UserView struct {
	Address       string    `json:"address"`
	ID            string    `json:"id"`
	Key           string    `json:"key"` // base64
	Fingerprint   string    `json:"fingerprint"`
	Created       time.Time `json:"created"`
	Disabled      bool      `json:"disabled"`
	Keys          int       `json:"keys"`      // how many the account has had
	KeySince      time.Time `json:"key_since"` // zero when unknown
	Reset         bool      `json:"reset"`     // whether the server ever gave a key without the one before it
	XzibitBytes   int       `json:"xzibit_bytes"`
	XzibitVersion uint32    `json:"xzibit_version"`
}

// View returns what is shown of an account.
func View(a *account.Account) UserView {
	v := UserView{
		Address: a.Address.String(), ID: a.ID.String(), Key: base64.StdEncoding.EncodeToString(a.Key[:]),
		Fingerprint: a.Key.String(), Created: a.Created, Disabled: a.Disabled,
		Keys: len(a.Statements), KeySince: a.Statement().NotBefore.Time(),
		XzibitBytes: len(a.Xzibit), XzibitVersion: a.XzibitVersion(),
	}
	for _, s := range a.Statements {
		v.Reset = v.Reset || s.Reset
	}
	return v
}

// An InvitationView is an invitation as it is shown, and the form of --json.
type InvitationView struct {
	Address string    `json:"address"`
	Reset   bool      `json:"reset"`
	Created time.Time `json:"created"`
	Expires time.Time `json:"expires"`
	Void    bool      `json:"void"`           // the code names a key that the server has no more: invite again
	Code    string    `json:"code,omitempty"` // only once, when it is made
}

// ViewInvitation returns what is shown of an invitation.
func (u *Users) ViewInvitation(i *account.Invitation) InvitationView {
	return InvitationView{Address: i.Address.String(), Reset: i.Reset, Created: i.Created, Expires: i.Expires, Void: !i.NamesKey(u.server)}
}
