package shorebird

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

// oneLine returns s fit for one line of a terminal: as letter.Line, but with one space for
// each row of blanks.
func oneLine(s string) string {
	return letter.Line(strings.Join(strings.FieldsFunc(s, blank), " "))
}

// maxMarks bounds how many characters are set upon one another.
const maxMarks = 8

// columns returns how many columns one line may take. Terminals differ in what they set as one character: some show the four people of
// a family, and the two letters of a flag, side by side. The widest counts, so that no line of a stranger's goes on in the next one.
func columns(s string) (n int) {
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

// clip returns as much of one line as takes no more than width columns, with … for what was left off.
func clip(s string, width int) string {
	var b strings.Builder
	used, full := 0, -1 // full: how long b is with room for the …
	for g := uniseg.NewGraphemes(oneLine(s)); g.Next(); {
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

// pad returns s clipped, and filled to width columns.
func pad(s string, width int) string {
	s = clip(s, width)
	return s + strings.Repeat(" ", max(0, width-columns(s)))
}

// Where a terminal has no width that it tells of, or the output is none.
const (
	defaultWidth = 80
	unlimited    = 1000 // columns of a field that goes to a file or a pipe
)

// width returns how many columns a line may have; 0 where nobody looks at them.
func (r *run) width() int {
	if !r.OutIsTerminal {
		return 0
	}
	if r.Width != nil {
		if w := r.Width(); w > 0 {
			return max(w, 40)
		}
	}
	return defaultWidth
}

// A colour is what stands beside a word, never instead of it.
type colour string

const (
	plain  colour = ""
	red    colour = "\x1b[1;31m"
	green  colour = "\x1b[32m"
	yellow colour = "\x1b[33m"
	dim    colour = "\x1b[2m"
	reset         = "\x1b[0m"
)

// paint colours a word of the program's own on a terminal that takes it, unless the user wants
// none (no-color.org).
func (r *run) paint(c colour, word string) string {
	if c == plain || !r.OutIsTerminal || r.Getenv("NO_COLOR") != "" || r.Getenv("TERM") == "dumb" {
		return word
	}
	return string(c) + word + reset
}

// maxRows bounds the lines of one field at a terminal.
const maxRows = 6

// fields writes rows of a name and a value, the values under one another. At a terminal a long value is broken into
// lines that begin under its first one; elsewhere it is one line.
func (r *run) fields(out *bytes.Buffer, rows [][2]string) {
	name := 0
	for _, row := range rows {
		name = max(name, len(row[0]))
	}
	room, lines := unlimited, 1
	if w := r.width(); w > 0 {
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
	s = oneLine(s)
	for len(all) < lines-1 && columns(s) > width {
		head := strings.TrimSuffix(clip(s, width), "…")
		if !strings.HasPrefix(s, head) || head == "" {
			break // too many marks upon one character
		}
		if i := strings.LastIndexByte(head, ' '); i > 0 {
			head = head[:i]
		}
		all, s = append(all, head), strings.TrimPrefix(s[len(head):], " ")
	}
	return append(all, clip(s, width))
}
