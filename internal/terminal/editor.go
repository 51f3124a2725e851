package terminal

import (
	"os"
	"os/exec"
	"strings"
)

// editor returns the user's editor, for a terminal; nil where none is named.
func editor(getenv func(string) string, in, out *os.File) func(path string) error {
	command := getenv("VISUAL")
	if command == "" {
		command = getenv("EDITOR")
	}
	if strings.TrimSpace(command) == "" {
		return nil
	}
	return func(path string) error {
		// The user's command may have arguments. It is not ended with this program: an editor asks what
		// is to become of a text.
		c := exec.Command("/bin/sh", "-c", command+` "$1"`, "shorebird", path)
		c.Stdin, c.Stdout, c.Stderr = in, out, out
		return c.Run()
	}
}
