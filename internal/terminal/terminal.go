// Package terminal is what a program and a person see of one another: questions and answers, and text that fits the
// screen.
//
// It guarantees that what a stranger chose neither steers the terminal nor goes on in a line of the program's own
// (package letter says which characters are just shown); that a line counts as wide as the terminal that makes it widest; and that
// a password is never shown, and the terminal shows again what is typed when the question ends, however it does, and
// while the process is stopped.
package terminal

import (
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

// Is reports whether f is a terminal.
func Is(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }

// System returns the process's own.
func System() Terminal {
	size := func() (width, height int) {
		width, height, err := term.GetSize(int(os.Stdout.Fd()))
		if err != nil {
			return 0, 0
		}
		return width, height
	}
	t := Terminal{
		In: os.Stdin, Out: os.Stdout, Err: os.Stderr,
		InIsTerminal:  Is(os.Stdin),
		ErrIsTerminal: Is(os.Stderr),
		OutIsTerminal: Is(os.Stdout),
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
	t.ReadPassword = func(ctx context.Context, prompt string) ([]byte, error) { return AskPassword(ctx, in, out, prompt) }
	t.ReadLine = func(ctx context.Context, prompt string) ([]byte, error) { return AskLine(ctx, in, out, prompt) }
}
