package shorebird

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"cmtpd/internal/address"
	"cmtpd/internal/letter"
	"cmtpd/internal/xzibit"
)

// asideTime is how the time of moving stands behind the name of keys that were moved aside.
const asideTime = "20060102T150405Z"

// maxAside bounds how many such files a letter is tried on, since each costs what sealing
// under a password does. The newest are.
const maxAside = 16

// aside returns the name that a file of keys has from now on that is not the account's.
func aside(path string, now time.Time) string { return path + "." + now.UTC().Format(asideTime) }

// setAside returns the files of keys of a that were moved aside, the newest first, at most
// maxAside.
func (h home) setAside(a address.Address) ([]string, error) {
	all, err := os.ReadDir(h.data)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("looking for older keys of %s: %w", a, err)
	}
	moved := func(path string) string {
		s := strings.TrimPrefix(path, h.xzibit(a)+".")
		return strings.TrimPrefix(s, "pending.")
	}
	var paths []string
	for _, e := range all {
		path := filepath.Join(h.data, e.Name())
		if _, err := time.Parse(asideTime, moved(path)); err == nil {
			paths = append(paths, path)
		}
	}
	slices.SortFunc(paths, func(x, y string) int { return strings.Compare(moved(y), moved(x)) })
	return paths[:min(len(paths), maxAside)], nil
}

// openAside opens a letter that the account's keys do not, with those that were moved aside
// when others took their place. It takes them into the ring. Where the password does not
// open such a file, a person is asked for the one of that time.
func (r *run) openAside(ctx context.Context, h home, held *holding, open func() (*letter.Letter, error)) (*letter.Letter, error) {
	l, err := open()
	if !errors.Is(err, letter.ErrKeys) {
		return l, err
	}
	paths, aerr := h.setAside(held.address)
	if aerr != nil || len(paths) == 0 {
		return nil, errors.Join(err, aerr)
	}
	present := held.password
	if present == nil { // the desktop keyring has opened the others
		if present, aerr = r.password(ctx, held.address); aerr != nil {
			return nil, errors.Join(err, aerr)
		}
	}
	var locked []string
	for _, path := range paths {
		if aerr = held.takeAside(h, path, present); errors.Is(aerr, xzibit.ErrPassword) {
			locked = append(locked, path)
		} else if l, oerr := r.afresh(path, aerr, open); !errors.Is(oerr, letter.ErrKeys) {
			return l, oerr
		}
	}
	for _, path := range locked {
		password, perr := r.formerPassword(ctx, held.address, path)
		if password == nil || perr != nil {
			err = hint(err, fmt.Sprintf("Older keys of %s, in %s, are sealed under another password, which a person at a terminal is asked for.", held.address, path))
			return nil, errors.Join(err, perr)
		}
		aerr = held.takeAside(h, path, password)
		clear(password)
		if l, oerr := r.afresh(path, aerr, open); !errors.Is(oerr, letter.ErrKeys) {
			return l, oerr
		}
	}
	return nil, err
}

// afresh opens a letter once more, after the keys in a file were taken, or says why they
// were not.
func (r *run) afresh(path string, taken error, open func() (*letter.Letter, error)) (*letter.Letter, error) {
	if taken != nil {
		r.note("The older keys in %s do not open: %v.", path, taken)
		return nil, letter.ErrKeys
	}
	l, err := open()
	if err == nil {
		r.note("It was sealed to older keys, which are in %s.", path)
	}
	return l, err
}

// takeAside adds to the ring the keys in a file that was moved aside.
func (held *holding) takeAside(h home, path string, password []byte) error {
	x, err := h.loadXzibit(held.address, path)
	if err != nil {
		return err
	}
	ring, err := xzibit.Open(x, held.address.String(), password)
	if err != nil {
		return err
	}
	held.ring.Keys = append(held.ring.Keys, ring.Keys...)
	return nil
}

// formerPassword asks a person for the password under which keys were moved aside; nil
// without an error where there is nobody to ask.
func (r *run) formerPassword(ctx context.Context, a address.Address, path string) ([]byte, error) {
	if given, err := r.givenPassword(ctx, 0); err != nil || given != nil || r.ReadPassword == nil {
		clear(given)
		return nil, err
	}
	return r.askPassword(ctx, fmt.Sprintf("Password of %s, as it was for %s: ", a, filepath.Base(path)))
}
