package cmtptest

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// A CommandLine is a program's commands, to hold documents against. It runs none of them.
type CommandLine struct {
	New func() *cobra.Command // makes them anew, since flags keep what they were set to
}

// program is its name.
func (p CommandLine) program() string { return p.New().Name() }

// Problems returns what is wrong with the program's commands in a document: a command, flag or argument that it does not
// have, or the lack of one; with the place. Checked is how many it has looked at.
func (p CommandLine) Problems(d *Document) (found []string, checked int) {
	told := func(line int, err error) {
		checked++
		if err != nil {
			found = append(found, fmt.Sprintf("%s:%d: %v", d.Path, line, err))
		}
	}
	for _, b := range d.Blocks {
		if b.Language != "" {
			continue
		}
		for i, text := range b.Lines {
			l, err := ParseLine(text)
			if err != nil || len(l.Words) > 0 && l.Words[0] == p.program() {
				told(b.Line+i, firstError(err, func() error { return p.checkLine(l) }))
			}
		}
	}
	first := make(map[string]bool)
	for _, s := range d.Spans {
		first[s.Text] = first[s.Text] || s.First
	}
	for _, s := range d.Spans {
		if words := p.commandOf(s.Text); words != nil && (words[0] == "" || !first[s.Text]) {
			told(s.Line, p.checkSpan(words))
		}
	}
	return found, checked
}

func firstError(err error, next func() error) error {
	if err != nil {
		return err
	}
	return next()
}

// checkLine holds every variant of a block's line, and the flags that its comment names, to the program.
func (p CommandLine) checkLine(l Line) error {
	variants, err := p.Variants(l.Words)
	if err != nil {
		return err
	}
	for _, words := range variants {
		if err := p.parse(words[1:], true); err != nil {
			return fmt.Errorf("%s: %w", strings.Join(words, " "), err)
		}
	}
	return p.checkComment(variants[0], l.Comment)
}

var flagPattern = regexp.MustCompile(`(\S+ )?(--[a-z][a-z0-9-]*)`)

// checkComment looks up the flags that a comment names: of the line's own command, or of the one before the flag.
func (p CommandLine) checkComment(words []string, comment string) error {
	for _, m := range flagPattern.FindAllStringSubmatch(comment, -1) {
		c, _, err := p.New().Find(words[1:])
		if err != nil {
			return err
		}
		for at := c.Parent(); at != nil; at = at.Parent() {
			for _, other := range at.Commands() {
				if other.Name() == strings.TrimSpace(m[1]) {
					c = other
				}
			}
		}
		if flagOf(c, m[2][2:]) == nil {
			return fmt.Errorf("%s has no flag %s", c.CommandPath(), m[2])
		}
	}
	return nil
}

func flagOf(c *cobra.Command, name string) *pflag.Flag {
	if f := c.Flags().Lookup(name); f != nil {
		return f
	}
	return c.InheritedFlags().Lookup(name)
}

// parse does all that running a command begins with: it finds it, reads its flags, and counts its arguments.
func (p CommandLine) parse(args []string, whole bool) error {
	root := p.New()
	c, rest, err := root.Find(args)
	if err != nil {
		return err
	}
	if err := c.ParseFlags(rest); err != nil {
		return err
	}
	left := c.Flags().Args()
	switch {
	case len(left) > 0 && c.HasSubCommands():
		return fmt.Errorf("%s has no command %q", c.CommandPath(), left[0])
	case len(left) == 0 && !whole:
		return nil
	}
	if err := c.ValidateArgs(left); err != nil {
		return err
	}
	return c.ValidateRequiredFlags()
}

// commandOf returns the words of a span that is a command of the program: with its name, or, where a group of commands
// begins it ("spool verify"), without. A log line that begins like that is told by the caller; words[0] is "" where
// there can be no doubt.
func (p CommandLine) commandOf(text string) []string {
	words := strings.Fields(text)
	if len(words) < 2 {
		return nil
	}
	if words[0] == p.program() {
		words[0] = ""
		return words
	}
	c, rest, err := p.New().Find(words)
	if err != nil || !c.HasParent() || c.Hidden || p.program() != "cmtpd" {
		return nil
	}
	if len(rest) == 0 || !c.HasSubCommands() {
		return append([]string{""}, words...)
	}
	return append([]string{p.program()}, words...)
}

// checkSpan is checkLine for a command in a sentence, which may leave out arguments that do not matter there.
func (p CommandLine) checkSpan(words []string) error {
	words = slices.Clone(words)
	words[0] = p.program()
	last := words[len(words)-1]
	if c, _, err := p.New().Find(words[1:]); err == nil && strings.HasPrefix(last, "--") {
		if f := flagOf(c, last[2:]); f != nil && f.NoOptDefVal == "" {
			words = append(words, exampleOf(f))
		}
	}
	variants, err := p.Variants(words)
	if err != nil {
		return err
	}
	for _, v := range variants {
		if err := p.parse(v[1:], false); err != nil {
			return fmt.Errorf("%s: %w", strings.Join(v, " "), err)
		}
	}
	return nil
}

// exampleOf returns a value that a flag takes.
func exampleOf(f *pflag.Flag) string {
	switch f.Value.Type() {
	case "duration":
		return "1h"
	case "int":
		return "1"
	}
	return "VALUE"
}

// Variants returns the command lines that one of a document stands for. [WORD] may be left out, WORD... is one or more,
// and behind | stands another command of the same group, or what can stand in the place of the arguments.
func (p CommandLine) Variants(words []string) ([][]string, error) {
	parts := split(words)
	all := optional(parts[0])
	c, rest, err := p.New().Find(all[0][1:])
	if err != nil {
		return nil, err
	}
	path := strings.Fields(c.CommandPath())
	for _, part := range parts[1:] {
		switch {
		case len(part) == 0:
			return nil, fmt.Errorf("nothing stands behind |")
		case strings.HasPrefix(part[0], "-"):
			all = append(all, optional(slices.Concat(path, part))...)
		default:
			all = append(all, optional(slices.Concat(path[:len(path)-1], part))...)
		}
	}
	// "disable | enable ADDRESS": the arguments stand once, behind the last.
	if len(parts) > 1 && len(rest) == 0 && p.parse(all[0][1:], true) != nil {
		all[0] = append(all[0], all[len(all)-1][len(path):]...)
	}
	return all, nil
}

func split(words []string) (parts [][]string) {
	begin := 0
	for i, w := range words {
		if w == "|" {
			parts = append(parts, words[begin:i])
			begin = i + 1
		}
	}
	return append(parts, words[begin:])
}

// optional returns a command line without what is in brackets, and with it.
func optional(words []string) [][]string {
	var short, long []string
	for _, w := range words {
		w = strings.TrimSuffix(w, "...")
		bare, isOptional := strings.CutPrefix(w, "[")
		if !isOptional {
			short = append(short, w)
		}
		long = append(long, strings.TrimSuffix(bare, "]"))
	}
	if len(short) == len(long) {
		return [][]string{long}
	}
	return [][]string{short, long}
}
