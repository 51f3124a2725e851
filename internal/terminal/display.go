package terminal

import (
	"bytes"
	"fmt"
	"strings"
	"unicode"

	"github.com/rivo/uniseg"

	"cmtpd/internal/letter"
)

// What a stranger chose is shown in one line, or in the lines that the program gives it: it can
// neither steer the terminal (package letter) nor fill a line up to the next one, so that its own words begin where the
// program's do.

// blank reports whether r shows nothing, though it takes room.
func blank(r rune) bool {
	switch r {
	case '\u115f', '\u1160', '\u2800', '\u3164', '\uffa0': // fillers, and the empty pattern of Braille
		return true
	}
	return unicode.IsSpace(r)
}

// OneLine returns s fit for one line of a terminal: as letter.Line, but with one space for
// each row of blanks.
func OneLine(s string) string {
	return letter.Line(strings.Join(strings.FieldsFunc(s, blank), " "))
}

// maxMarks bounds how many characters are set upon one another.
const maxMarks = 8

// Columns returns how many columns one line may take. Terminals differ in what they set as one character: some show the four people of
// a family, and the two letters of a flag, side by side. The widest counts, so that no line of a stranger's goes on in the next one.
func Columns(s string) (n int) {
	for g := uniseg.NewGraphemes(s); g.Next(); {
		n += widest(g)
	}
	return n
}

// widest is how many columns a character takes at most.
func widest(g *uniseg.Graphemes) int {
	apart := 0
	for _, r := range g.Runes() {
		apart += uniseg.StringWidth(string(r))
		switch {
		case r == asEmoji:
			apart = max(apart, 2)
		case firstTone <= r && r <= lastTone:
			apart += 2
		}
	}
	return max(g.Width(), apart)
}

const (
	// asEmoji asks for the character before it as a picture, which some terminals make wide.
	asEmoji = '\ufe0f'
	// Tones of skin change the picture before them, or are one of their own.
	firstTone, lastTone = '\U0001f3fb', '\U0001f3ff'
)

// Clip returns as much of one line as takes no more than width columns, with … for what was left off.
func Clip(s string, width int) string {
	var b strings.Builder
	used, full := 0, -1 // full: how long b is with room for the …
	for g := uniseg.NewGraphemes(OneLine(s)); g.Next(); {
		w := widest(g)
		if used+w > width {
			return b.String()[:max(full, 0)] + "…"
		}
		used += w
		runes := g.Runes()
		b.WriteString(string(runes[:min(len(runes), maxMarks)]))
		if used < width {
			full = b.Len()
		}
	}
	return b.String()
}

// Pad returns s clipped, and filled to width columns.
func Pad(s string, width int) string {
	s = Clip(s, width)
	return s + strings.Repeat(" ", max(0, width-Columns(s)))
}

// Where a terminal has no width that it tells of, or the output is none.
const (
	defaultWidth = 80
	Unlimited    = 1000 // columns of a field that goes to a file or a pipe
)

// Room returns how many columns a line of Out may have; 0 where nobody looks at them.
func (t *Terminal) Room() int {
	if !t.OutIsTerminal {
		return 0
	}
	if t.Width != nil {
		if w := t.Width(); w > 0 {
			return max(w, 40)
		}
	}
	return defaultWidth
}

// A Colour is what stands beside a word, never instead of it.
type Colour string

// Those that every terminal has; the zero Colour is none.
const (
	Red    Colour = "\x1b[1;31m"
	Green  Colour = "\x1b[32m"
	Yellow Colour = "\x1b[33m"
	Dim    Colour = "\x1b[2m"
	reset         = "\x1b[0m"
)

// Paint colours a word of the program's own where Out is a terminal that takes it, unless the user wants
// none (no-color.org).
func (t *Terminal) Paint(getenv func(string) string, c Colour, word string) string {
	if c == "" || !t.OutIsTerminal || getenv("NO_COLOR") != "" || getenv("TERM") == "dumb" {
		return word
	}
	return string(c) + word + reset
}

// maxRows bounds the lines of one field at a terminal.
const maxRows = 6

// Fields writes rows of a name and a value, the values under one another. At a terminal a long value is broken into
// lines that begin under its first one; elsewhere it is one line.
func (t *Terminal) Fields(out *bytes.Buffer, rows [][2]string) {
	name := 0
	for _, row := range rows {
		name = max(name, len(row[0]))
	}
	room, lines := Unlimited, 1
	if w := t.Room(); w > 0 {
		room, lines = max(w-name-3, 20), maxRows // never the last column, where some terminals wrap
	}
	for _, row := range rows {
		for i, line := range wrap(row[1], room, lines) {
			label := row[0]
			if i > 0 {
				label = ""
			}
			fmt.Fprintf(out, "%-*s  %s\n", name, label, line)
		}
	}
}

// wrap breaks one line into some of at most width columns, at most so many; what is left is clipped.
func wrap(s string, width, lines int) (all []string) {
	s = OneLine(s)
	for len(all) < lines-1 && Columns(s) > width {
		head := strings.TrimSuffix(Clip(s, width), "…")
		if !strings.HasPrefix(s, head) || head == "" {
			break // too many marks upon one character
		}
		if i := strings.LastIndexByte(head, ' '); i > 0 {
			head = head[:i]
		}
		all, s = append(all, head), strings.TrimPrefix(s[len(head):], " ")
	}
	return append(all, Clip(s, width))
}
