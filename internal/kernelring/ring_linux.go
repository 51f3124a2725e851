package kernelring

import (
	"errors"
	"fmt"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

const keyType = "user"

// Permissions of a key (keyrings(7)): who possesses it, and the user's processes, which may not possess what is in the user's
// keyring where a session has no link to it, can find and read it. Nobody can write it or lengthen its time; groups and
// others can do nothing.
const (
	canView, canRead, canSearch, canLink = 0x01, 0x02, 0x08, 0x10

	possessor, user = 24, 16 // bits to the left

	permissions = (canView|canRead|canSearch|canLink)<<possessor | (canView|canRead|canSearch)<<user
)

// Get returns a secret, and until when it is kept. The caller wipes it.
func (Ring) Get(name string) (secret []byte, until time.Time, err error) {
	id, err := unix.KeyctlSearch(unix.KEY_SPEC_USER_KEYRING, keyType, name, 0)
	if err != nil {
		return nil, time.Time{}, failed("looking for a secret in the kernel", err)
	}
	b := make([]byte, maxPayload)
	n, err := unix.KeyctlBuffer(unix.KEYCTL_READ, id, b, 0)
	if err != nil {
		return nil, time.Time{}, failed("reading a secret from the kernel", err)
	}
	if secret, until, err = decode(b[:min(n, len(b))], time.Now()); err != nil {
		clear(b)
	}
	return secret, until, err
}

// Set has the kernel keep a secret, in place of one of the same name, until a time, which counts in whole seconds.
//
//	the key is made where this thread alone finds it; it gets its end and its permissions; only then it is linked
//	into the user's keyring, in one step with the one before going out of it
func (Ring) Set(name string, secret []byte, until time.Time) error {
	left := time.Until(until)
	switch {
	case left <= 0:
		return errors.New("keeping a secret in the kernel: its time is over")
	case len(secret) > MaxSecret:
		return fmt.Errorf("keeping a secret in the kernel: it has more than %d bytes", MaxSecret)
	}
	b := encode(secret, until)
	defer clear(b)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	id, err := unix.AddKey(keyType, name, b, unix.KEY_SPEC_THREAD_KEYRING)
	if err != nil {
		return failed("keeping a secret in the kernel", err)
	}
	seconds := int((left + time.Second - 1) / time.Second)
	if _, err = unix.KeyctlInt(unix.KEYCTL_SET_TIMEOUT, id, seconds, 0, 0); err == nil {
		err = unix.KeyctlSetperm(id, permissions)
	}
	if err == nil {
		_, err = unix.KeyctlInt(unix.KEYCTL_LINK, id, unix.KEY_SPEC_USER_KEYRING, 0, 0)
	}
	_, uerr := unix.KeyctlInt(unix.KEYCTL_UNLINK, id, unix.KEY_SPEC_THREAD_KEYRING, 0, 0)
	return failed("keeping a secret in the kernel", errors.Join(err, uerr))
}

// Delete has the kernel forget a secret at once.
func (Ring) Delete(name string) error {
	id, err := unix.KeyctlSearch(unix.KEY_SPEC_USER_KEYRING, keyType, name, 0)
	if err == nil {
		_, err = unix.KeyctlInt(unix.KEYCTL_UNLINK, id, unix.KEY_SPEC_USER_KEYRING, 0, 0)
	}
	return failed("forgetting a secret in the kernel", err)
}

// failed says what an error of the kernel's means.
func failed(doing string, err error) error {
	for _, none := range []error{unix.ENOKEY, unix.EKEYEXPIRED, unix.EKEYREVOKED, unix.ENOENT} {
		if errors.Is(err, none) {
			return fmt.Errorf("%s: %w", doing, ErrNotFound)
		}
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EPERM):
		return fmt.Errorf("%s: %w (%w)", doing, ErrUnavailable, err)
	case errors.Is(err, unix.EDQUOT):
		return fmt.Errorf("%s: %w; see /proc/sys/kernel/keys", doing, err)
	}
	return fmt.Errorf("%s: %w", doing, err)
}
