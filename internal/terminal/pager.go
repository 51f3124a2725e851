package terminal

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"os/signal"
	"strings"

	"github.com/rivo/uniseg"
)

// pager returns the user's pager, for a terminal; nil where there is none. It shows what is fit to show already; it is told to
// keep no history, and to run nothing else by itself, for a letter's text may talk a person into pressing keys.
func pager(getenv func(string) string, out *os.File) func(text []byte) error {
	command := strings.TrimSpace(getenv("PAGER"))
	if command == "" {
		if _, err := exec.LookPath("less"); err != nil {
			return nil
		}
		command = "less -R"
	}
	return func(text []byte) error {
		c := exec.Command("/bin/sh", "-c", command)
		c.Stdin, c.Stdout, c.Stderr = bytes.NewReader(text), out, os.Stderr
		c.Env = pagerEnvironment(os.Environ())
		if err := c.Start(); err != nil {
			return err
		}
		// Ctrl-C is the pager's while it runs, which it gives another meaning; behind it, it ends this program.
		signal.Ignore(os.Interrupt)
		defer signal.Reset(os.Interrupt)
		return c.Wait()
	}
}

// pagerEnvironment is what a pager is told.
func pagerEnvironment(env []string) []string {
	told := []string{"LESSSECURE=1", "LESSHISTFILE=-"}
	plain := true // whether nothing says how less is to show colours
	for _, e := range env {
		switch name, _, _ := strings.Cut(e, "="); name {
		case "LESSSECURE", "LESSHISTFILE", "LESSOPEN", "LESSCLOSE":
		case "LESS":
			plain = false
			fallthrough
		default:
			told = append(told, e)
		}
	}
	if plain {
		told = append(told, "LESS=-R")
	}
	return told
}

// NeedsPager reports whether a text is longer than Out is high, and there is a pager to show it.
func (t *Terminal) NeedsPager(text []byte) bool {
	if t.Page == nil || !t.OutIsTerminal || t.Height == nil {
		return false
	}
	height := t.Height()
	return height > 0 && bytes.Count(text, []byte("\n")) >= height
}

// RunPager has the pager show a text. An error is that it could not be run: a person may end it as they like.
func (t *Terminal) RunPager(text []byte) error {
	var exit *exec.ExitError
	err := t.Page(text)
	if errors.As(err, &exit) && exit.ExitCode() != shellCannot && exit.ExitCode() != shellKnowsNot {
		return nil
	}
	return err
}

// What a shell ends with where it cannot run a command, or does not find it.
const (
	shellCannot   = 126
	shellKnowsNot = 127
)

// tabWidth is what terminals have.
const tabWidth = 8

// Fold returns a text that is fit to show with its lines broken that are longer than the terminal is wide, between
// words where there are some. Elsewhere it stays as it is.
func (t *Terminal) Fold(text string) string {
	width := t.Room() - 1 // never the last column, where some terminals wrap
	if width < 1 {
		return text
	}
	var b strings.Builder
	for line := range strings.Lines(text) {
		if len(line) <= width && !strings.Contains(line, "\t") {
			b.WriteString(line)
			continue
		}
		line, end := strings.CutSuffix(line, "\n")
		foldLine(&b, untabbed(line), width)
		if end {
			b.WriteByte('\n')
		}
	}
	return b.String()
}

// foldLine writes one line without a tab as lines of at most width columns.
func foldLine(b *strings.Builder, line string, width int) {
	at, space, used := 0, 0, 0 // in line: what is not written yet, behind the last blank in it; and its columns up to here
	for g := uniseg.NewGraphemes(line); g.Next(); {
		from, to := g.Positions()
		w := widest(g)
		if used+w > width && from > at {
			end := space
			if g.Str() == " " || strings.TrimSpace(line[at:max(at, space)]) == "" {
				end = from
			}
			b.WriteString(strings.TrimRight(line[at:end], " "))
			b.WriteByte('\n')
			at = end
			used = Columns(line[at:from])
		}
		if at == from && at > 0 && g.Str() == " " {
			at = to // a blank between two lines is their break
			continue
		}
		used += w
		if g.Str() == " " {
			space = to
		}
	}
	b.WriteString(line[at:])
}

// untabbed returns a line with blanks for tabs.
func untabbed(line string) string {
	var b strings.Builder
	column := 0
	for i, part := range strings.Split(line, "\t") {
		if i > 0 {
			blanks := tabWidth - column%tabWidth
			b.WriteString(strings.Repeat(" ", blanks))
			column += blanks
		}
		b.WriteString(part)
		column += Columns(part)
	}
	return b.String()
}
