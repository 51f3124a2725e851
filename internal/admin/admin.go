// Package admin is what an administrator does to a server's data from the
// command line: users, and looking into the spool.
//
// It guarantees that a running daemon and the command line never change the same
// data at once, and that nothing is left in the data directory that the daemon's
// own user could not read.
package admin

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
	"time"

	"cmtpd/internal/account"
	"cmtpd/internal/address"
	"cmtpd/internal/config"
	"cmtpd/internal/control"
	"cmtpd/internal/crypt"
	"cmtpd/internal/durable"
	"cmtpd/internal/keyfile"
	"cmtpd/internal/xzibit"
)

// Errors for the person at the terminal.
var (
	ErrOwner    = errors.New("the data directory belongs to another user")
	ErrPassword = errors.New("the password is wrong")
)

// Users changes the accounts of one server.
type Users struct {
	control.Users
	cfg    *config.Config
	server crypt.PublicKey
	lock   io.Closer // nil where a daemon runs
}

// OpenUsers returns the accounts of the server that cfg describes: through the
// daemon where one runs, and else directly, with the daemon kept from starting
// until Close.
func OpenUsers(cfg *config.Config) (*Users, error) {
	if err := OwnData(cfg.DataDir); err != nil {
		return nil, err
	}
	lock, err := durable.OS.Lock(cfg.LockFile())
	if errors.Is(err, durable.ErrLocked) {
		key, err := keyfile.Load(cfg.KeyFile())
		if err != nil {
			return nil, err
		}
		defer key.Wipe()
		return &Users{Users: control.Dial(cfg.ControlSocket()), cfg: cfg, server: key.Public()}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("locking the data directory: %w", err)
	}
	users, err := openDirect(cfg)
	if err != nil {
		lock.Close()
		return nil, err
	}
	users.lock = lock
	return users, nil
}

// openDirect makes the identity if this is the first thing that is ever done
// here: a user's keyring names its home server's key.
func openDirect(cfg *config.Config) (*Users, error) {
	key, _, err := keyfile.LoadOrCreate(cfg.KeyFile())
	if err != nil {
		return nil, err
	}
	store, err := account.Open(account.Options{Dir: cfg.AccountsDir(), Invitations: cfg.InvitationsDir(), FS: durable.OS, Signer: key, Now: time.Now})
	if err != nil {
		return nil, err
	}
	return &Users{Users: store, cfg: cfg, server: key.Public()}, nil
}

// OwnData makes the data directory, or refuses one of another user's (ErrOwner):
// files that root leaves there are files that the daemon's own user cannot read.
func OwnData(dir string) error {
	info, err := os.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("making the data directory: %w", err)
		}
		return nil
	}
	if err != nil {
		return fmt.Errorf("looking at the data directory: %w", err)
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("%w: run this as the owner of %s (uid %d), for instance with: sudo -u '#%d'", ErrOwner, dir, st.Uid, st.Uid)
	}
	return nil
}

// Close lets a daemon start again.
func (u *Users) Close() error {
	if u.lock == nil {
		return nil
	}
	return u.lock.Close()
}

// Create makes an account for addr with a new key pair, sealed under password.
func (u *Users) Create(addr address.Address, password []byte) (*account.Account, error) {
	if !u.cfg.IsLocal(addr.Domain) {
		return nil, fmt.Errorf("adding %s: %w; the configuration's domains are %v", addr, account.ErrForeign, u.cfg.Domains)
	}
	key, err := crypt.GenerateKey()
	if err != nil {
		return nil, err
	}
	defer key.Wipe()
	ring := &xzibit.Keyring{Keys: []xzibit.KeyPair{{Key: key, Made: time.Now()}}, Server: u.server}
	sealed, err := xzibit.Seal(ring, addr.String(), password, xzibit.DefaultParams())
	if err != nil {
		return nil, fmt.Errorf("sealing the keys of %s: %w", addr, err)
	}
	return u.Add(account.NewRegistration(addr, key, time.Now(), sealed))
}

// ChangePassword seals the keys of addr, opened with old, under password.
func (u *Users) ChangePassword(addr address.Address, old, password []byte) error {
	a, err := u.Get(addr)
	if err != nil {
		return err
	}
	ring, err := xzibit.Open(a.Xzibit, addr.String(), old)
	if errors.Is(err, xzibit.ErrPassword) {
		return fmt.Errorf("changing the password of %s: %w; without the old one nobody can open the mail that is sealed to the account's key: "+
			"user remove and user add make a new account of that name", addr, ErrPassword)
	}
	if err != nil {
		return fmt.Errorf("opening the keys of %s: %w", addr, err)
	}
	defer ring.Wipe()
	ring.Server = u.server // it may have another key by now
	sealed, err := xzibit.Seal(ring, addr.String(), password, xzibit.DefaultParams())
	if err != nil {
		return fmt.Errorf("sealing the keys of %s: %w", addr, err)
	}
	return u.SetXzibit(account.NewXzibit(a, ring.Keys[0].Key, sealed))
}

// A UserView is an account as it is shown, and the form of --json.
type UserView struct {
	Address     string    `json:"address"`
	ID          string    `json:"id"`
	Key         string    `json:"key"` // base64
	Fingerprint string    `json:"fingerprint"`
	Created     time.Time `json:"created"`
	Disabled    bool      `json:"disabled"`
	XzibitBytes int       `json:"xzibit_bytes"`
}

// View returns what is shown of an account.
func View(a *account.Account) UserView {
	return UserView{
		Address: a.Address.String(), ID: a.ID.String(), Key: base64.StdEncoding.EncodeToString(a.Key[:]),
		Fingerprint: a.Key.String(), Created: a.Created, Disabled: a.Disabled, XzibitBytes: len(a.Xzibit),
	}
}

// maxPassword bounds a password, in bytes.
const maxPassword = 1024

// CutPassword returns the first line of what was read from standard input, and
// the rest. It refuses an empty password: one taken from an empty file would
// seal a user's keys under nothing.
func CutPassword(input []byte) (password, rest []byte, err error) {
	line, rest, _ := bytes.Cut(input, []byte("\n"))
	line = bytes.TrimSuffix(line, []byte("\r"))
	switch {
	case len(line) == 0:
		return nil, nil, errors.New("the password is empty")
	case len(line) > maxPassword:
		return nil, nil, fmt.Errorf("the password is longer than %d bytes", maxPassword)
	}
	return line, rest, nil
}
