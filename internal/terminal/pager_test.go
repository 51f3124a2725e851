package terminal_test

import (
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/rivo/uniseg"
	"pgregory.net/rapid"

	"cmtpd/internal/letter"
	"cmtpd/internal/terminal"
)

// folded is how a text is shown at a terminal of so many columns.
func folded(text string, width int) string {
	t := terminal.Terminal{OutIsTerminal: true, Width: func() int { return width }}
	return t.Fold(text)
}

func TestTerminal_Fold(t *testing.T) {
	word := strings.Repeat("x", 30)
	for text, want := range map[string]string{
		"":                             "",
		"short\n\nlines":               "short\n\nlines",
		word + " " + word + "\n":       word + "\n" + word + "\n",
		word + "   " + word:            word + "\n" + word,
		"   " + word + word + word:     "   " + word + "xxxxxx\n" + strings.Repeat("x", 39) + "\n" + strings.Repeat("x", 15),
		"    " + word + " and " + word: "    " + word + " and\n" + word,
		strings.Repeat("x", 39) + " y": strings.Repeat("x", 39) + "\ny",
		strings.Repeat("漢", 20):        strings.Repeat("漢", 19) + "\n漢",
		"a\tb\n\tc":                    "a       b\n        c",
		word + "\t" + word:             word + "\n" + word,
		word + " " + word + "\nnext\n": word + "\n" + word + "\nnext\n",
	} {
		if got := folded(text, 40); got != want {
			t.Errorf("%q is\n%q, want\n%q", text, got, want)
		}
	}
}

// No line is too long, and nothing but blanks is lost.
func TestTerminal_Fold_Anything(t *testing.T) {
	bare := func(s string) string {
		return strings.Map(func(r rune) rune {
			if unicode.IsSpace(r) {
				return -1
			}
			return r
		}, s)
	}
	piece := rapid.OneOf(rapid.SampledFrom([]string{" ", "   ", "\t", "\n", "word", strings.Repeat("long", 20), "漢字", "e\u0301", "👨‍👩‍👧‍👦", "🇩🇪", "\u202e", "\x1b[1m"}), rapid.String())
	rapid.Check(t, func(t *rapid.T) {
		text := letter.Text([]byte(strings.Join(rapid.SliceOfN(piece, 0, 40).Draw(t, "pieces"), "")))
		width := rapid.IntRange(40, 100).Draw(t, "width")
		got := folded(text, width)
		if bare(got) != bare(text) {
			t.Fatalf("%q is %q", text, got)
		}
		for line := range strings.Lines(got) {
			if n := uniseg.StringWidth(strings.TrimSuffix(line, "\n")); n >= width {
				t.Fatalf("%d columns of %d: %q", n, width, line)
			}
		}
	})
}

// A pager keeps nothing, runs nothing, and reads what the user has not chosen for letters.
func TestPagerEnvironment(t *testing.T) {
	got := terminal.Told([]string{"HOME=/x", "LESSSECURE=0", "LESSOPEN=|evil %s", "LESSHISTFILE=/x"})
	if !slices.Equal(got, []string{"LESSSECURE=1", "LESSHISTFILE=-", "HOME=/x", "LESS=-R"}) {
		t.Errorf("told %q", got)
	}
	if got = terminal.Told([]string{"LESS=-X"}); !slices.Equal(got[2:], []string{"LESS=-X"}) {
		t.Errorf("told %q", got)
	}
}
