package shorebird_test

import (
	"bytes"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/rivo/uniseg"
	"pgregory.net/rapid"

	"cmtpd/internal/letter"
	"cmtpd/internal/shorebird"
)

func TestFolded(t *testing.T) {
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
		if got := shorebird.Folded(text, 40); got != want {
			t.Errorf("%q is\n%q, want\n%q", text, got, want)
		}
	}
}

// No line is too long, and nothing but blanks is lost.
func TestFolded_Anything(t *testing.T) {
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
		got := shorebird.Folded(text, width)
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
	got := shorebird.Told([]string{"HOME=/x", "LESSSECURE=0", "LESSOPEN=|evil %s", "LESSHISTFILE=/x"})
	if !slices.Equal(got, []string{"LESSSECURE=1", "LESSHISTFILE=-", "HOME=/x", "LESS=-R"}) {
		t.Errorf("told %q", got)
	}
	if got = shorebird.Told([]string{"LESS=-X"}); !slices.Equal(got[2:], []string{"LESS=-X"}) {
		t.Errorf("told %q", got)
	}
}

// A letter that is longer than the screen is shown by the pager; nothing else is, and where there is none, or it cannot be run, all
// of it is shown at once.
func TestOpen_Pager(t *testing.T) {
	h := newHouse(t, bob)
	p := h.reader(t, bob)
	var paged [][]byte
	var broken error
	p.app.Page = func(text []byte) error {
		paged = append(paged, bytes.Clone(text))
		return broken
	}
	text := strings.Repeat("line\n", 20)
	path := p.write(p.dir+"/letter", string(written(t, &letter.Draft{Time: time.Unix(1e9, 0), Text: []byte(text)}, bob, h.keys[bob].Public())))
	p.app.OutIsTerminal = true
	lines := 0
	p.app.Height = func() int { return lines }
	p.want(ok, "", []string{"open", path}, text)
	height := strings.Count(p.out.String(), "\n")
	for name, tt := range map[string]struct {
		height int
		args   []string
		broken error
		pages  bool
		prints bool
	}{
		"Longer": {height, nil, nil, true, false}, "AsLong": {height + 1, nil, nil, false, true}, "NoPager": {height, []string{"--no-pager"}, nil, false, true},
		"JSON": {height, []string{"--json"}, nil, false, true}, "Ended": {height, nil, exits(t, 1), true, false}, "NotFound": {height, nil, exits(t, 127), true, true},
		"NoShell": {height, nil, errors.New("no shell"), true, true},
	} {
		paged, broken, lines = nil, tt.broken, tt.height
		p.want(ok, "", append([]string{"open", path}, tt.args...))
		if len(paged) > 0 != tt.pages || (p.out.Len() > 0) != tt.prints || tt.pages && !strings.Contains(string(paged[0]), text) {
			t.Errorf("%s: %d paged, and %q", name, len(paged), p.out.String())
		}
	}
	p.app.OutIsTerminal, paged, lines = false, nil, 1
	p.want(ok, "", []string{"open", path}, text)
	if len(paged) > 0 {
		t.Error("a file was paged")
	}
}

// exits is how a program ends with a status.
func exits(t *testing.T, status int) error {
	err := exec.Command("/bin/sh", "-c", fmt.Sprintf("exit %d", status)).Run()
	if err == nil {
		t.Fatal("it ended well")
	}
	return err
}
