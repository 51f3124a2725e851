package shorebird

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"cmtpd/internal/address"
	"cmtpd/internal/xzibit"
)

// passwordFileVariable names a file, or a descriptor by /dev/fd/N, whose first line
// is the password.
const passwordFileVariable = "SHOREBIRD_PASSWORD_FILE"

// maxPassword bounds a password, in bytes.
const maxPassword = 1024

// password returns the password of a: from standard input, the file that the
// environment names, or the person at the terminal. It is never empty.
func (r *run) password(ctx context.Context, a address.Address, stdin bool) ([]byte, error) {
	if stdin {
		return firstLine(ctx, r.In)
	}
	if path := r.Getenv(passwordFileVariable); path != "" {
		f, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("opening the file of %s: %w", passwordFileVariable, err)
		}
		defer f.Close()
		return firstLine(ctx, f)
	}
	if r.ReadPassword == nil {
		return nil, hint(errors.New("there is no terminal to ask for the password"),
			"Use --password-stdin, or name a file in "+passwordFileVariable+".")
	}
	p, err := r.ReadPassword(ctx, fmt.Sprintf("Password of %s: ", a))
	if err != nil {
		return nil, fmt.Errorf("reading the password: %w", err)
	}
	return cutPassword(p)
}

func firstLine(ctx context.Context, in io.Reader) ([]byte, error) {
	p, err := interruptible(ctx, func() ([]byte, error) { return io.ReadAll(io.LimitReader(in, maxPassword+2)) })
	if err != nil {
		return nil, fmt.Errorf("reading the password: %w", err)
	}
	return cutPassword(p)
}

// cutPassword returns the first line of what was read. An empty password is
// refused: it comes from a file that somebody forgot to fill.
func cutPassword(p []byte) ([]byte, error) {
	p, _, _ = bytes.Cut(p, []byte("\n"))
	p = bytes.TrimSuffix(p, []byte("\r"))
	switch {
	case len(p) == 0:
		return nil, errEmptyPassword
	case len(p) > maxPassword:
		return nil, fmt.Errorf("the password is longer than %d bytes", maxPassword)
	}
	return p, nil
}

// unlock asks for the password of a and opens its keys with it.
func (r *run) unlock(ctx context.Context, a address.Address, x []byte, stdin bool) (*xzibit.Keyring, error) {
	p, err := r.password(ctx, a, stdin)
	if err != nil {
		return nil, err
	}
	defer clear(p)
	ring, err := xzibit.Open(x, a.String(), p)
	if err != nil {
		return nil, fmt.Errorf("opening the keys of %s: %w", a, err)
	}
	return ring, nil
}
