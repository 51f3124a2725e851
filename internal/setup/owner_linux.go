package setup

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"strconv"
	"syscall"
)

// act does what makes files as their owner, so that none is ever another's. Root becomes the
// owner for that long, in all threads of the process: nothing else may run in it.
func (o Owner) act(do func() error) (err error) {
	if os.Geteuid() != 0 || o.UID == 0 {
		return do()
	}
	groups, err := syscall.Getgroups()
	if err == nil {
		err = syscall.Setgroups(o.groups())
	}
	if err != nil {
		return fmt.Errorf("leaving root's groups: %w", err)
	}
	defer func() { err = errors.Join(err, syscall.Setgroups(groups)) }()
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

// groups are those that the owner is in, as a service manager would have it: what only root's own may read is not for
// the daemon.
func (o Owner) groups() (all []int) {
	if u, err := user.LookupId(strconv.Itoa(o.UID)); err == nil {
		ids, _ := u.GroupIds()
		for _, id := range ids {
			if n, err := strconv.Atoi(id); err == nil {
				all = append(all, n)
			}
		}
	}
	if all == nil {
		return []int{o.GID}
	}
	return all
}

// withUmask does what makes files for everybody to read, whatever the shell was told.
func withUmask(mask int, do func() error) error {
	defer syscall.Umask(syscall.Umask(mask))
	return do()
}
