package shorebird

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/zalando/go-keyring"

	"cmtpd/internal/address"
	"cmtpd/internal/terminal"
	"cmtpd/internal/xzibit"
)

// A Desktop keeps secrets for the person who is logged in, as the keyring of a desktop
// does. Get wraps keyring.ErrNotFound.
type Desktop interface {
	Get(service, user string) (string, error)
	Set(service, user, secret string) error
	Delete(service, user string) error
}

const (
	// service is the name that our entries have in the desktop keyring.
	service = "shorebird"

	// noKeyringVariable keeps the desktop keyring and the kernel out when it is not empty.
	noKeyringVariable = "SHOREBIRD_NO_KEYRING"
)

// How long the desktop keyring may take: it may have to ask a person for its own
// password, but where none is at the terminal nobody waits for it.
const (
	desktopWait      = time.Minute
	desktopWaitAlone = 3 * time.Second
)

var errDesktopSilent = errors.New("it does not answer")

// systemDesktop returns that of the session; nil where there is none. On systems with
// D-Bus, whose client would else start a session of its own, there has to be one.
func systemDesktop() Desktop {
	switch runtime.GOOS {
	case "darwin", "windows":
		return system{}
	}
	if os.Getenv("DBUS_SESSION_BUS_ADDRESS") != "" {
		return system{}
	}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
		if _, err := os.Stat(filepath.Join(dir, "bus")); err == nil {
			return system{}
		}
	}
	return nil
}

type system struct{}

func (system) Get(service, user string) (string, error) { return keyring.Get(service, user) }

func (system) Set(service, user, secret string) error { return keyring.Set(service, user, secret) }

func (system) Delete(service, user string) error { return keyring.Delete(service, user) }

// entry returns what the desktop keyring has of a: the keyring, and the digest of the
// server's xzibit that it came from. It is nil where there is none, for whatever reason.
func (r *run) entry(ctx context.Context, a address.Address) (*xzibit.Keyring, digest) {
	secret, err := r.desktop(ctx, func(d Desktop) (string, error) { return d.Get(service, a.String()) })
	if err != nil || secret == "" {
		return nil, digest{}
	}
	b, err := base64.StdEncoding.DecodeString(secret)
	defer clear(b)
	if err != nil {
		return nil, digest{}
	}
	return decodeEntry(b)
}

// encodeEntry returns what a desktop keyring, or the kernel, has of an account's keys.
func encodeEntry(ring *xzibit.Keyring, from digest) ([]byte, error) {
	plain, err := ring.Encode()
	if err != nil {
		return nil, err
	}
	defer clear(plain)
	return append(append(make([]byte, 0, len(from)+len(plain)), from[:]...), plain...), nil
}

// decodeEntry returns what encodeEntry was given; a nil keyring where it has not made b.
func decodeEntry(b []byte) (*xzibit.Keyring, digest) {
	if len(b) < len(digest{}) {
		return nil, digest{}
	}
	ring, err := xzibit.DecodeKeyring(b[len(digest{}):])
	if err != nil {
		return nil, digest{}
	}
	return ring, digest(b)
}

// setEntry keeps an account's keys in the desktop keyring, and reports whether they are there. An account that is unlocked stays so.
func (r *run) setEntry(ctx context.Context, h home, a address.Address, ring *xzibit.Keyring, from digest) bool {
	b, err := encodeEntry(ring, from)
	if err != nil {
		return false
	}
	defer clear(b)
	r.stayUnlocked(h, a, b)
	if r.noDesktop() {
		return false
	}
	secret := base64.StdEncoding.EncodeToString(b)
	_, err = r.desktop(ctx, func(d Desktop) (string, error) { return "", d.Set(service, a.String(), secret) })
	return err == nil
}

// dropEntry forgets what the desktop keyring and the kernel have of a.
func (r *run) dropEntry(ctx context.Context, h home, a address.Address) {
	_ = r.relock(h, a) // what stays is old, and not used
	r.desktop(ctx, func(d Desktop) (string, error) { return "", d.Delete(service, a.String()) })
}

func (r *run) noDesktop() bool {
	return r.Desktop == nil || r.desktopFails || r.noKeyring || r.Getenv(noKeyringVariable) != ""
}

// desktop asks the desktop keyring. After the first trouble it is left alone: the file
// has all that it has.
func (r *run) desktop(ctx context.Context, do func(Desktop) (string, error)) (string, error) {
	if r.noDesktop() {
		return "", keyring.ErrNotFound
	}
	wait := r.DesktopWait
	if wait == 0 && r.ReadPassword != nil {
		wait = desktopWait
	} else if wait == 0 {
		wait = desktopWaitAlone
	}
	ctx, cancel := context.WithTimeoutCause(ctx, wait, errDesktopSilent)
	defer cancel()
	d := r.Desktop
	secret, err := terminal.Interruptible(ctx, func() (string, error) { return do(d) })
	if err != nil && !errors.Is(err, keyring.ErrNotFound) {
		r.desktopFails = true
		if errors.Is(err, errDesktopSilent) { // all else is said by the question for a password
			r.note("The desktop keyring is not used: %v", err)
		}
		return "", fmt.Errorf("asking the desktop keyring: %w", err)
	}
	return secret, err
}
