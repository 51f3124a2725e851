package terminal

import (
	"bytes"
	"context"
	"io"
	"os"

	"golang.org/x/term"
)

// AskPassword reads a line from the terminal in without echo, which is on again when it
// returns, however it does, and while the process is stopped. It fails where in is no terminal, and with the
// context.
func AskPassword(ctx context.Context, in *os.File, out io.Writer, prompt string) ([]byte, error) {
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
	return Interruptible(ctx, func() ([]byte, error) { return term.ReadPassword(fd) })
}

// MaxLine bounds what AskLine takes, in bytes.
const MaxLine = 1024

// AskLine reads a line that may be seen from the terminal in, which gives out what was typed a line at a time. Of a
// line that is longer than MaxLine it returns one byte more.
func AskLine(ctx context.Context, in io.Reader, out io.Writer, prompt string) ([]byte, error) {
	if _, err := io.WriteString(out, prompt); err != nil {
		return nil, err
	}
	return Interruptible(ctx, func() ([]byte, error) {
		var line []byte
		b := make([]byte, 1)
		for len(line) <= MaxLine {
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

// Interruptible returns what work does, or the context's cause when that ends first: a read from a terminal or a pipe
// cannot be called back, only left behind.
func Interruptible[T any](ctx context.Context, work func() (T, error)) (T, error) {
	type result struct {
		v   T
		err error
	}
	done := make(chan result, 1)
	go func() {
		v, err := work()
		done <- result{v, err}
	}()
	select {
	case r := <-done:
		return r.v, r.err
	case <-ctx.Done():
		var none T
		return none, context.Cause(ctx)
	}
}
