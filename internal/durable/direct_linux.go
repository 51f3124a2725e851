package durable

import (
	"errors"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// direct sets or clears O_DIRECT: fcntl(F_SETFL).
func direct(f *os.File, on bool) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	ctlErr := raw.Control(func(fd uintptr) {
		var flags int
		if flags, err = unix.FcntlInt(fd, unix.F_GETFL, 0); err != nil {
			return
		}
		flags &^= unix.O_DIRECT
		if on {
			flags |= unix.O_DIRECT
		}
		_, err = unix.FcntlInt(fd, unix.F_SETFL, flags)
	})
	if err != nil {
		err = &fs.PathError{Op: "fcntl", Path: f.Name(), Err: err}
	}
	return errors.Join(ctlErr, err)
}

// isUnaligned says whether a direct write was refused for what it is.
func isUnaligned(err error) bool { return errors.Is(err, unix.EINVAL) }
