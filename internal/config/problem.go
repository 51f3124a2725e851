package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"unicode"
)

// maxProblems bounds what is collected from one file, so that a file that is
// something else altogether does not fill a screen for ever.
const maxProblems = 100

// A Problem is one thing that is wrong with a configuration.
type Problem struct {
	File string // as it was named to Parse; empty from Validate
	Line int    // from 1; 0 where no line is to blame
	Key  string // dotted, as TOML writes it; empty where no key is to blame
	Text string // what is wrong, and what would be right
}

// String returns the problem on one line, safe to show on a terminal:
// file:line: key: text.
func (p Problem) String() string {
	var b strings.Builder
	if p.File != "" {
		b.WriteString(p.File)
		if p.Line > 0 {
			fmt.Fprintf(&b, ":%d", p.Line)
		}
		b.WriteString(": ")
	}
	if p.Key != "" {
		b.WriteString(p.Key + ": ")
	}
	b.WriteString(p.Text)
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, b.String())
}

// An Error is everything that is wrong with a configuration, in the order of
// the file. It is what Load, Parse and Validate return for a bad one.
type Error struct {
	Problems []Problem
}

// Error returns one line for each problem.
func (e *Error) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

// newError returns the problems as an error, or nil when there are none.
func newError(problems []Problem) error {
	if len(problems) == 0 {
		return nil
	}
	slices.SortStableFunc(problems, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Key, b.Key))
	})
	return &Error{problems}
}
