//go:build !unix

package terminal

import (
	"io"

	"golang.org/x/term"
)

// suspendable has nothing to do where no key stops a process.
func suspendable(int, *term.State, io.Writer, string) (end func()) { return func() {} }
