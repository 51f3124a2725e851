package shorebird

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"cmtpd/internal/address"
	"cmtpd/internal/terminal"
	"cmtpd/internal/xzibit"
)

// Where secrets come from when there is nobody to ask, or nobody is to be asked.
const (
	// passwordFileVariable names a file, or a descriptor by /dev/fd/N.
	passwordFileVariable = "SHOREBIRD_PASSWORD_FILE"
	// passwordFDVariable is the number of an open descriptor.
	passwordFDVariable = "SHOREBIRD_PASSWORD_FD"
	codeFileVariable   = "SHOREBIRD_CODE_FILE"
	wordsFileVariable  = "SHOREBIRD_WORDS_FILE"
)

// maxPassword bounds a password, in bytes.
const maxPassword = 1024

// secrets are what a run was told, so that nothing is read or asked for twice.
type secrets struct {
	lines   []byte // of passwords, from whatever file; nil when not read yet
	present []byte
	fresh   []byte
}

func (s *secrets) wipe() {
	clear(s.lines)
	clear(s.present)
	clear(s.fresh)
}

// password returns the present password of a: from standard input, the file that the
// environment names, or the person at the terminal. It is never empty. The run wipes
// it.
func (r *run) password(ctx context.Context, a address.Address) ([]byte, error) {
	if r.told.present != nil {
		return r.told.present, nil
	}
	p, err := r.givenPassword(ctx, 0)
	if p == nil && err == nil {
		p, err = r.askPassword(ctx, fmt.Sprintf("Password of %s: ", a))
	}
	if err != nil {
		return nil, err
	}
	r.told.present = p
	return p, nil
}

// anotherPassword asks a person for the present password, after one that was right
// before is not any more, or opens nothing.
func (r *run) anotherPassword(ctx context.Context, a address.Address) ([]byte, error) {
	if given, err := r.givenPassword(ctx, 0); err != nil || given != nil || r.ReadPassword == nil {
		return nil, errors.Join(err, xzibit.ErrPassword)
	}
	p, err := r.askPassword(ctx, fmt.Sprintf("Password of %s, as it is now: ", a))
	if err != nil {
		return nil, err
	}
	clear(r.told.present)
	r.told.present = p
	return p, nil
}

// newPassword returns the password that a shall have. Where passwords come from a file
// it is the line with this number, from 0; a person types it twice.
func (r *run) newPassword(ctx context.Context, a address.Address, line int) ([]byte, error) {
	p, err := r.givenPassword(ctx, line)
	if p == nil && err == nil {
		p, err = r.askTwice(ctx, a)
	}
	if err != nil {
		return nil, err
	}
	r.told.fresh = p
	return p, nil
}

// askTwice asks a person for a new password, until it was typed twice alike.
func (r *run) askTwice(ctx context.Context, a address.Address) ([]byte, error) {
	for tries := 1; ; tries++ {
		p, err := r.askPassword(ctx, fmt.Sprintf("New password for %s: ", a))
		if err != nil {
			return nil, err
		}
		again, err := r.askPassword(ctx, "Once more: ")
		if err != nil {
			clear(p)
			return nil, err
		}
		same := bytes.Equal(p, again)
		clear(again)
		if same {
			return p, nil
		}
		clear(p)
		if tries == maxConfirmations {
			return nil, hint(errPasswordsDiffer, "Nothing was changed. Try again.")
		}
		r.note("The two passwords differ; type it anew.")
	}
}

func (r *run) askPassword(ctx context.Context, prompt string) ([]byte, error) {
	if r.ReadPassword == nil {
		how := "Name a file in " + passwordFileVariable + " or an open descriptor in " + passwordFDVariable + "."
		if r.takesStdin {
			how = "Use --password-stdin, or name a file in " + passwordFileVariable + " or an open descriptor in " + passwordFDVariable + "."
		}
		return nil, hint(kind{"there is no terminal to ask for the password", errMissing}, how)
	}
	p, err := r.ReadPassword(ctx, prompt)
	if err != nil {
		return nil, fmt.Errorf("reading the password: %w", err)
	}
	return cutPassword(p, 0)
}

// givenPassword returns a line, counted from 0, of the file that passwords come from;
// nil when they come from a person.
func (r *run) givenPassword(ctx context.Context, line int) ([]byte, error) {
	if r.told.lines == nil {
		in, err := r.passwordSource()
		if in == nil || err != nil {
			return nil, err
		}
		defer in.Close()
		if r.told.lines, err = readSecret(ctx, in, 2*(maxPassword+2)); err != nil {
			return nil, fmt.Errorf("reading the password: %w", err)
		}
	}
	return cutPassword(r.told.lines, line)
}

// passwordSource opens what passwords are read from; nil is a person.
func (r *run) passwordSource() (io.ReadCloser, error) {
	file, fd := r.Getenv(passwordFileVariable), r.Getenv(passwordFDVariable)
	switch {
	case r.stdin:
		return io.NopCloser(r.In), nil
	case file != "" && fd != "":
		return nil, usage(errors.New(passwordFileVariable + " and " + passwordFDVariable + " are both set"))
	case file != "":
		f, err := os.Open(file)
		if err != nil {
			return nil, unopened(passwordFileVariable, err)
		}
		return f, nil
	case fd != "":
		n, err := strconv.ParseUint(fd, 10, 16)
		if err != nil || n < 3 {
			return nil, usage(fmt.Errorf("%s: not the number of a descriptor behind the standard streams", passwordFDVariable))
		}
		return os.NewFile(uintptr(n), passwordFDVariable), nil
	}
	return nil, nil
}

// unopened says that the file is missing that a secret was to come from.
func unopened(variable string, err error) error {
	return hint(kind{fmt.Sprintf("opening the file of %s: %v", variable, err), errMissing}, "Let "+variable+" name a file that you may read.")
}

// readSecret reads all of in, or one byte more than most. Not a nil slice.
func readSecret(ctx context.Context, in io.Reader, most int64) ([]byte, error) {
	b, err := terminal.Interruptible(ctx, func() ([]byte, error) { return io.ReadAll(io.LimitReader(in, most+1)) })
	if b == nil {
		b = []byte{}
	}
	return b, err
}

// cutPassword returns a copy of a line of what was read. An empty password is refused:
// it comes from a file that somebody forgot to fill.
func cutPassword(p []byte, line int) ([]byte, error) {
	for range line {
		_, p, _ = bytes.Cut(p, []byte("\n"))
	}
	p, _, _ = bytes.Cut(p, []byte("\n"))
	p = bytes.TrimSuffix(p, []byte("\r"))
	switch {
	case len(p) == 0 && line > 0:
		return nil, hint(errEmptyPassword, "The new password stands on the second line, behind the present one.")
	case len(p) == 0:
		return nil, errEmptyPassword
	case len(p) > maxPassword:
		return nil, hint(usage(fmt.Errorf("the password is longer than %d bytes", maxPassword)), "Check the file or the program that it comes from, or choose a shorter one.")
	}
	return bytes.Clone(p), nil
}

// A question is a secret of another kind, which a person may see being typed.
type question struct {
	what, prompt string
	stdin        bool
	flag         string
	variable     string
}

// maxAnswer bounds the answer to a question, in bytes.
const maxAnswer = terminal.MaxLine

// answer returns the answer to a question: all that is in the file that it comes from,
// or a line from a person.
func (r *run) answer(ctx context.Context, q question) (string, error) {
	b, err := r.readAnswer(ctx, q)
	defer clear(b)
	switch {
	case err != nil:
		return "", fmt.Errorf("reading %s: %w", q.what, err)
	case len(b) > maxAnswer:
		return "", usage(fmt.Errorf("reading %s: it has more than %d bytes", q.what, maxAnswer))
	}
	return string(bytes.TrimSpace(b)), nil
}

func (r *run) readAnswer(ctx context.Context, q question) ([]byte, error) {
	if q.stdin && r.stdin {
		return nil, usage(errors.New("standard input cannot be the password too"))
	}
	if q.stdin {
		return readSecret(ctx, r.In, maxAnswer)
	}
	if path := r.Getenv(q.variable); path != "" {
		f, err := os.Open(path)
		if err != nil {
			return nil, unopened(q.variable, err)
		}
		defer f.Close()
		return readSecret(ctx, f, maxAnswer)
	}
	if r.ReadLine == nil {
		return nil, hint(kind{"there is no terminal to ask for it", errMissing}, fmt.Sprintf("Use --%s, or name a file in %s.", q.flag, q.variable))
	}
	return r.ReadLine(ctx, q.prompt)
}
