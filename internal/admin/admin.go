// Package admin is what an administrator does to a server's data from the
// command line: users, and looking into the spool.
//
// It guarantees that a running daemon and the command line never change the same
// data at once, and that nothing is left in the data directory that the daemon's
// own user could not read.
package admin

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
	"time"

	"cmtpd/internal/account"
	"cmtpd/internal/config"
	"cmtpd/internal/control"
	"cmtpd/internal/crypt"
	"cmtpd/internal/durable"
	"cmtpd/internal/keyfile"
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
		as := fmt.Sprintf("sudo -u '#%d'", st.Uid)
		if name := nameOf(st.Uid); name != "" {
			as = As(name) + "cmtpd ..."
		}
		return fmt.Errorf("%w: run this as the owner of %s (uid %d), for instance with: %s", ErrOwner, dir, st.Uid, as)
	}
	return nil
}

// KeyNotLost returns an error where there was an identity and is none: with another one nobody would know the server,
// and its spool would be another's.
func KeyNotLost(cfg *config.Config) error {
	_, key := os.Lstat(cfg.KeyFile())
	if _, err := os.Lstat(cfg.SpoolDir()); err != nil || !errors.Is(key, fs.ErrNotExist) {
		return nil
	}
	return fmt.Errorf("%s is missing, and there is a spool that belongs to it: restore it from a backup, "+
		"or see docs/operations.md, A lost key", cfg.KeyFile())
}

// Close lets a daemon start again.
func (u *Users) Close() error {
	if u.lock == nil {
		return nil
	}
	return u.lock.Close()
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
