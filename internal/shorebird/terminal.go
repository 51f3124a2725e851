package shorebird

import (
	"bytes"
	"context"
	"io"
	"os"

	"golang.org/x/term"
)

// A Terminal is what the program reads from and writes to.
type Terminal struct {
	In           io.Reader
	Out, Err     io.Writer
	InIsTerminal bool
	// ErrIsTerminal says that Err is a terminal, where progress is shown.
	ErrIsTerminal bool
	// OutIsTerminal says that Out is a terminal, and Width how many columns it has: 0, or nil,
	// where it does not say.
	OutIsTerminal bool
	Width         func() int
	// Height is how many lines Out has, and Page shows what is longer; nil where there is no pager.
	Height func() int
	Page   func(text []byte) error
	// ReadPassword asks for a password without showing it. It is nil where there is
	// nobody to ask.
	ReadPassword func(ctx context.Context, prompt string) ([]byte, error)
	// ReadLine asks for a line that may be seen. It is nil where there is nobody to ask.
	ReadLine func(ctx context.Context, prompt string) ([]byte, error)
	// Edit lets a person change the file at path. It is nil where there is no editor, or nobody to use it.
	Edit func(path string) error
}

// systemTerminal returns the process's own.
func systemTerminal() Terminal {
	size := func() (width, height int) {
		width, height, err := term.GetSize(int(os.Stdout.Fd()))
		if err != nil {
			return 0, 0
		}
		return width, height
	}
	t := Terminal{
		In: os.Stdin, Out: os.Stdout, Err: os.Stderr,
		InIsTerminal:  term.IsTerminal(int(os.Stdin.Fd())),
		ErrIsTerminal: term.IsTerminal(int(os.Stderr.Fd())),
		OutIsTerminal: term.IsTerminal(int(os.Stdout.Fd())),
		Width:         func() int { w, _ := size(); return w },
		Height:        func() int { _, h := size(); return h },
	}
	if t.OutIsTerminal {
		t.Page = pager(os.Getenv, os.Stdout)
	}
	// Standard input may be a letter; the person is still at the terminal.
	if tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0); err == nil {
		t.asks(tty, tty)
	} else if t.InIsTerminal {
		t.asks(os.Stdin, os.Stderr)
	}
	if t.InIsTerminal {
		t.Edit = editor(os.Getenv, os.Stdin, os.Stderr)
	}
	return t
}

func (t *Terminal) asks(in *os.File, out io.Writer) {
	t.ReadPassword = func(ctx context.Context, prompt string) ([]byte, error) { return ask(ctx, in, out, prompt) }
	t.ReadLine = func(ctx context.Context, prompt string) ([]byte, error) { return askLine(ctx, in, out, prompt) }
}

// ask reads a line from the terminal in without echo, which is on again when it
// returns, however it does, and while the process is stopped.
func ask(ctx context.Context, in *os.File, out io.Writer, prompt string) ([]byte, error) {
	fd := int(in.Fd())
	state, err := term.GetState(fd)
	if err != nil {
		return nil, err
	}
	defer term.Restore(fd, state)
	if _, err := io.WriteString(out, prompt); err != nil {
		return nil, err
	}
	defer io.WriteString(out, "\n")
	defer suspendable(fd, state, out, prompt)()
	return interruptible(ctx, func() ([]byte, error) { return term.ReadPassword(fd) })
}

// askLine reads a line of at most maxAnswer bytes from the terminal in, which gives out
// what was typed a line at a time.
func askLine(ctx context.Context, in io.Reader, out io.Writer, prompt string) ([]byte, error) {
	if _, err := io.WriteString(out, prompt); err != nil {
		return nil, err
	}
	return interruptible(ctx, func() ([]byte, error) {
		var line []byte
		b := make([]byte, 1)
		for len(line) <= maxAnswer {
			n, err := in.Read(b)
			if n > 0 && b[0] == '\n' {
				break
			}
			line = append(line, b[:n]...)
			if err != nil {
				return line, err
			}
		}
		return bytes.TrimSuffix(line, []byte("\r")), nil
	})
}

// interruptible returns what read does, or the context's error when that ends
// first: a read from a terminal or a pipe cannot be called back, only left behind.
func interruptible(ctx context.Context, read func() ([]byte, error)) ([]byte, error) {
	type result struct {
		b   []byte
		err error
	}
	done := make(chan result, 1)
	go func() {
		b, err := read()
		done <- result{b, err}
	}()
	select {
	case r := <-done:
		return r.b, r.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}
