package setup

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// act does what makes files as their owner, so that none is ever another's. Root becomes the
// owner for that long, in all threads of the process: nothing else may run in it.
func (o Owner) act(do func() error) (err error) {
	if os.Geteuid() != 0 || o.UID == 0 {
		return do()
	}
	if err := syscall.Setresgid(-1, o.GID, -1); err != nil {
		return fmt.Errorf("becoming the group of %s: %w", o.Name, err)
	}
	defer func() { err = errors.Join(err, syscall.Setresgid(-1, 0, -1)) }()
	if err := syscall.Setresuid(-1, o.UID, -1); err != nil {
		return fmt.Errorf("becoming %s: %w", o.Name, err)
	}
	defer func() { err = errors.Join(err, syscall.Setresuid(-1, 0, -1)) }()
	return do()
}

// withUmask does what makes files for everybody to read, whatever the shell was told.
func withUmask(mask int, do func() error) error {
	defer syscall.Umask(syscall.Umask(mask))
	return do()
}
