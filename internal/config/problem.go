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

// nearest returns the known key that key most likely means, or "" when none is
// near. A name that stands in the wrong table is as good as one slip more.
func nearest(key string, known []string) string {
	table, name := split(key)
	best, least := "", 1+len(name)/4
	for _, k := range known {
		t, n := split(k)
		d := distance(strings.ToLower(name), n)
		if t != table {
			d++
		}
		if d < least || d == least && best == "" {
			best, least = k, d
		}
	}
	return best
}

// split cuts a dotted key before its last name.
func split(key string) (table, name string) {
	i := strings.LastIndexByte(key, '.')
	return key[:max(i, 0)], key[i+1:]
}

// distance counts the insertions, deletions, substitutions and swaps of
// neighbours that lead from a to b (optimal string alignment). What is longer
// than any key is not looked at, only counted.
func distance(a, b string) int {
	const longest = 64
	if len(a) > longest {
		return len(a)
	}
	var before, last, row [longest + 1]int
	for j := range len(b) + 1 {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last = last, row
	}
	return last[len(b)]
}
