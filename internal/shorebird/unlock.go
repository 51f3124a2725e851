package shorebird

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"cmtpd/internal/address"
	"cmtpd/internal/kernelring"
	"cmtpd/internal/xzibit"
)

// A Kernel keeps secrets for the user until a time, as that of Linux does (package kernelring). Get and Delete wrap
// kernelring.ErrNotFound, and all may wrap kernelring.ErrUnavailable.
type Kernel interface {
	Get(name string) (secret []byte, until time.Time, err error)
	Set(name string, secret []byte, until time.Time) error
	Delete(name string) error
}

// How long an account can be unlocked for.
const (
	usualUnlock    = 8 * time.Hour
	shortestUnlock = time.Minute
	longestUnlock  = 24 * time.Hour
)

var errUnsettled = errors.New("an upload of its keys was cut short, and only a password opens both")

// UnlockReport is what unlock prints with --json.
type UnlockReport struct {
	Account string    `json:"account"`
	Until   time.Time `json:"until"`
}

// LockReport is what lock prints with --json.
type LockReport struct {
	Locked []string `json:"locked"` // accounts that were unlocked
}

func (r *run) unlockCommand() *cobra.Command {
	length := usualUnlock
	c := &cobra.Command{
		Use: "unlock [ADDRESS]", Short: "Give your account's password once for some hours",
		Long: "unlock asks for the password of ADDRESS, or of the configuration's account, and has the Linux\n" +
			"kernel keep the opened keys, in memory, so that other commands of yours on this machine do\n" +
			"not ask: where there is no desktop keyring, as in a session over ssh. After --for, at most\n" +
			"24h, the kernel forgets them by itself. Logging out does not lock: shorebird lock does.\n\n" +
			"Until then every program that runs as you can read the keys there, and root can. The\n" +
			"password is not kept: passwd and rotate ask for it. A new key by rotate, and another\n" +
			"password, leave the account unlocked until the same time; where another device made the\n" +
			"change, the password is asked for once.",
		Args: cobra.MaximumNArgs(1),
		RunE: r.action(func(ctx context.Context, args []string) error { return r.unlock(ctx, args, length) }),
	}
	c.Flags().DurationVar(&length, "for", length, "for how long")
	r.passwordFlag(c)
	return c
}

func (r *run) lockCommand() *cobra.Command {
	return &cobra.Command{
		Use: "lock [ADDRESS]", Short: "Have the kernel forget what unlock gave it",
		Long: "lock has the Linux kernel forget the keys of ADDRESS, or of all your accounts on this machine,\n" +
			"so that the password is asked for again. Where the account is not unlocked nothing happens.\n" +
			"A desktop keyring is locked with the desktop.",
		Args: cobra.MaximumNArgs(1),
		RunE: r.action(func(_ context.Context, args []string) error { return r.lock(args) }),
	}
}

func (r *run) unlock(ctx context.Context, args []string, length time.Duration) error {
	if length < shortestUnlock || length > longestUnlock {
		return hint(usage(fmt.Errorf("--for %v: an account is unlocked for a minute at least, and for a day at most", length)), "Without --for it is 8h.")
	}
	if r.noKeyring || r.Getenv(noKeyringVariable) != "" {
		return hint(usage(errors.New("no keyring is to be used")), "Leave out --no-keyring, or unset "+noKeyringVariable+".")
	}
	h, a, err := r.ownHome(args)
	if err != nil {
		return err
	}
	// Before a person is asked for a password in vain.
	if err := r.canUnlock(h, a); err != nil {
		return fmt.Errorf("unlocking %s: %w", a, err)
	}
	s, err := h.sealed(a)
	if err != nil {
		return err
	}
	if s.pending != nil {
		return hint(fmt.Errorf("unlocking %s: %w", a, errUnsettled), "shorebird sync asks the server which one it has. Then try again.")
	}
	if err := r.openSealed(ctx, h, s); err != nil {
		return err
	}
	defer s.ring.Wipe()
	v := UnlockReport{Account: a.String(), Until: r.Now().Add(length).Truncate(time.Second).UTC()}
	b, err := encodeEntry(s.ring, parseDigest(s.from))
	defer clear(b)
	if err == nil {
		err = r.Kernel.Set(h.kernelName(a), b, v.Until)
	}
	if err != nil {
		return fmt.Errorf("unlocking %s: %w", a, err)
	}
	return r.report(v, func(out *bytes.Buffer) { fmt.Fprintf(out, "%s is unlocked %s\n", a, until(v.Until)) })
}

// until says when something ends.
func until(t time.Time) string { return "until " + t.Local().Format("2 Jan 2006, 15:04") }

// ownHome returns where the user's files are, and the account that a command is about.
func (r *run) ownHome(args []string) (home, address.Address, error) {
	h, s, err := r.home()
	if err != nil {
		return h, address.Address{}, err
	}
	a, err := r.ownAccount(args, s)
	return h, a, err
}

// canUnlock says why the kernel keeps nothing here; nil if it does.
func (r *run) canUnlock(h home, a address.Address) error {
	if r.Kernel == nil {
		return kernelring.ErrUnavailable
	}
	b, _, err := r.Kernel.Get(h.kernelName(a))
	clear(b)
	if errors.Is(err, kernelring.ErrNotFound) {
		return nil
	}
	return err
}

func (r *run) lock(args []string) error {
	h, s, err := r.home()
	if err != nil {
		return err
	}
	names, err := h.accountNames(s)
	if err != nil {
		return err
	}
	if len(args) > 0 {
		a, err := r.ownAccount(args, s)
		if err != nil {
			return err
		}
		names = []string{a.String()}
	}
	v := LockReport{Locked: []string{}}
	for _, name := range names {
		a, err := address.Parse(name)
		if err != nil {
			return err
		}
		if err := r.relock(h, a); err == nil {
			v.Locked = append(v.Locked, name)
		} else if !errors.Is(err, kernelring.ErrNotFound) {
			return fmt.Errorf("locking %s: %w", a, err)
		}
	}
	return r.report(v, func(out *bytes.Buffer) {
		for _, name := range v.Locked {
			fmt.Fprintf(out, "%s is locked\n", name)
		}
		if len(v.Locked) == 0 {
			out.WriteString("nothing was unlocked\n")
		}
	})
}

// kernelName is what the kernel knows the keys of a by. Another directory has other keys.
func (h home) kernelName(a address.Address) string {
	return service + " " + fileName(a.String()) + " " + fileName(h.data)
}

// relock has the kernel forget the keys of a.
func (r *run) relock(h home, a address.Address) error {
	if r.Kernel == nil {
		return kernelring.ErrUnavailable
	}
	return r.Kernel.Delete(h.kernelName(a))
}

// unlocked returns the keys of a that the kernel keeps, the digest of the server's xzibit that they came from, and until when
// it does. The keyring is nil where there is none, for whatever reason.
func (r *run) unlocked(h home, a address.Address) (*xzibit.Keyring, digest, time.Time) {
	if r.Kernel == nil || r.noKeyring || r.Getenv(noKeyringVariable) != "" {
		return nil, digest{}, time.Time{}
	}
	b, until, err := r.Kernel.Get(h.kernelName(a))
	defer clear(b)
	if err != nil {
		return nil, digest{}, time.Time{}
	}
	ring, from := decodeEntry(b)
	return ring, from, until.UTC()
}

// unlockedUntil returns until when commands open the keys of a without a password, since the kernel has them; the zero time if
// it has not, or has those from another xzibit than the file.
func (r *run) unlockedUntil(h home, a address.Address, from string) time.Time {
	ring, had, until := r.unlocked(h, a)
	if ring == nil {
		return time.Time{}
	}
	ring.Wipe()
	if had.String() != from {
		return time.Time{}
	}
	return until
}

// stayUnlocked gives the kernel an account's keys after they were changed, where it has had those before, until the same time. What
// it then has may be old, and is not used.
func (r *run) stayUnlocked(h home, a address.Address, entry []byte) {
	ring, _, until := r.unlocked(h, a)
	if ring == nil {
		return
	}
	ring.Wipe()
	if r.Kernel.Set(h.kernelName(a), entry, until) != nil {
		_ = r.relock(h, a)
	}
}
