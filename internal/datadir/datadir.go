// Package datadir says who may use a server's data directory: its owner, and of the owner's programs one at a time.
//
// It guarantees that nothing is left in there that the daemon's own user could not read, and that who has the
// lock has the directory for itself.
package datadir

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"

	"cmtpd/internal/config"
	"cmtpd/internal/durable"
)

// Errors for the person at the terminal.
var (
	ErrOwner = errors.New("the data directory belongs to another user")
	// ErrRunning is wrapped while a daemon, or another command, has the data directory.
	ErrRunning = errors.New("the data directory is in use")
)

// StopFirst is what to do about ErrRunning. Where systemd keeps the socket open, a daemon that is
// stopped alone comes back with the next client.
const StopFirst = "stop cmtpd first, under systemd together with its socket, or the next client starts it again (systemctl stop cmtpd.socket cmtpd); or wait for the command that is at work"

// Own makes the data directory, or refuses one of another user's (ErrOwner):
// files that root leaves there are files that the daemon's own user cannot read.
func Own(dir string) error {
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
		if name := NameOf(st.Uid); name != "" {
			as = As(name) + "cmtpd ..."
		}
		return fmt.Errorf("%w: run this as the owner of %s (uid %d), for instance with: %s", ErrOwner, dir, st.Uid, as)
	}
	return nil
}

// Lock keeps every daemon, and every other command, away from the data directory of its owner, who must call.
func Lock(cfg *config.Config) (io.Closer, error) {
	if err := Own(cfg.DataDir); err != nil {
		return nil, err
	}
	lock, err := durable.OS.Lock(cfg.LockFile())
	if errors.Is(err, durable.ErrLocked) {
		return nil, fmt.Errorf("%s: %w: %s", cfg.DataDir, ErrRunning, StopFirst)
	}
	if err != nil {
		return nil, fmt.Errorf("locking the data directory: %w", err)
	}
	return lock, nil
}
