//go:build unix && !solaris && !aix

package durable

import (
	"os"

	"golang.org/x/sys/unix"
)

// lock takes flock(2)'s exclusive lock. It belongs to the open file, so a second
// opener in the same process is refused too.
func lock(f *os.File) error { return flock(f, unix.LOCK_EX|unix.LOCK_NB) }

// lockShared takes flock(2)'s shared lock, and waits for it.
func lockShared(f *os.File) error { return flock(f, unix.LOCK_SH) }

func flock(f *os.File, how int) error {
	for {
		err := unix.Flock(int(f.Fd()), how)
		switch err {
		case unix.EINTR:
		case unix.EWOULDBLOCK:
			return ErrLocked
		default:
			return err
		}
	}
}
