//go:build unix && !solaris && !aix

package durable

import (
	"os"

	"golang.org/x/sys/unix"
)

// lock takes flock(2)'s exclusive lock. It belongs to the open file, so a second
// opener in the same process is refused too.
func lock(f *os.File) error {
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch err {
		case unix.EINTR:
		case unix.EWOULDBLOCK:
			return ErrLocked
		default:
			return err
		}
	}
}
