package durable

import (
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// datasync is fdatasync(2): it flushes the bytes and the length, and spares the
// journal the times of a file that did not grow.
func datasync(f *os.File) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	ctlErr := raw.Control(func(fd uintptr) {
		for err = unix.EINTR; err == unix.EINTR; {
			err = unix.Fdatasync(int(fd))
		}
	})
	if ctlErr != nil {
		return ctlErr
	}
	if err != nil {
		return &fs.PathError{Op: "fdatasync", Path: f.Name(), Err: err}
	}
	return nil
}
