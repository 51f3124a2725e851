// Package admin is what an administrator does to a server's data from the
// command line: to its users, its spool, its queue, and what it knows of other servers.
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
	"time"

	"cmtpd/internal/account"
	"cmtpd/internal/config"
	"cmtpd/internal/control"
	"cmtpd/internal/crypt"
	"cmtpd/internal/datadir"
	"cmtpd/internal/durable"
	"cmtpd/internal/keyfile"
)

// ErrPassword is for the person at the terminal.
var ErrPassword = errors.New("the password is wrong")

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
	lock, err := datadir.Lock(cfg)
	if errors.Is(err, datadir.ErrRunning) {
		key, err := keyfile.Load(cfg.KeyFile())
		if err != nil {
			return nil, err
		}
		defer key.Wipe()
		return &Users{Users: control.Dial(cfg.ControlSocket()), cfg: cfg, server: key.Public()}, nil
	}
	if err != nil {
		return nil, err
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
