package terminal_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/rivo/uniseg"

	"cmtpd/internal/terminal"
)

func TestOneLine(t *testing.T) {
	for in, want := range map[string]string{
		"plain":                                  "plain",
		"  a \t\r\n b\u00a0\u3000\u2800\u3164c ": "a b c",
		"a\x1b[31mb":                             "a\ufffd[31mb",
		"\u202eabc\u2066\u200e":                  "\ufffdabc\ufffd\ufffd",
		"\xff\xfe":                               "\ufffd\ufffd",
		"\U000e0041\ue000\ufeff":                 "\ufffd\ufffd\ufffd",
		"👩\u200d🔬":                               "👩\u200d🔬",
	} {
		if got := terminal.OneLine(in); got != want {
			t.Errorf("%q is shown as %q, want %q", in, got, want)
		}
	}
}

func TestClip(t *testing.T) {
	for _, tt := range []struct {
		in    string
		width int
		want  string
	}{
		{"short", 5, "short"}, {"shorter", 5, "shor…"}, {"x", 0, "…"}, {"", 3, ""},
		{"漢字漢字", 8, "漢字漢字"}, {"漢字漢字", 7, "漢字漢…"}, {"漢字漢字", 6, "漢字…"}, {"👩\u200d🔬ab", 5, "👩\u200d🔬…"},
		// As wide as the terminal that shows its parts side by side makes it.
		{"👩\u200d🔬ab", 3, "…"}, {"👨\u200d👩\u200d👧\u200d👦x", 9, "👨\u200d👩\u200d👧\u200d👦x"}, {"👨\u200d👩\u200d👧\u200d👦x", 8, "…"},
		{"🇩🇪🇩🇪", 8, "🇩🇪🇩🇪"}, {"🇩🇪🇩🇪", 7, "🇩🇪…"}, {"👍🏿", 4, "👍🏿"}, {"👍🏿", 3, "…"}, {"1\ufe0f\u20e3", 2, "1\ufe0f\u20e3"}, {"1\ufe0f\u20e3", 1, "…"},
	} {
		if got := terminal.Clip(tt.in, tt.width); got != tt.want {
			t.Errorf("%q in %d columns is %q, want %q", tt.in, tt.width, got, tt.want)
		}
	}
	if got := terminal.Clip("a"+strings.Repeat("\u0301", 1000), 5); len(got) > 20 {
		t.Errorf("a letter with a thousand marks is shown with %d bytes", len(got))
	}
}

func TestWrap(t *testing.T) {
	long := strings.Repeat("word 漢字 ", 50) + strings.Repeat("x", 500)
	lines := terminal.Wrap(long, 30, 6)
	if len(lines) != 6 || !strings.HasSuffix(lines[5], "…") {
		t.Errorf("%q", lines)
	}
	for _, l := range lines {
		if uniseg.StringWidth(l) > 30 {
			t.Errorf("%d columns: %q", uniseg.StringWidth(l), l)
		}
	}
	for _, l := range terminal.Wrap(strings.Repeat("🇩🇪", 20), 30, 6) {
		if n := strings.Count(l, "🇩🇪"); n > 7 {
			t.Errorf("%d flags, which may take 4 columns each: %q", n, l)
		}
	}
	if got := terminal.Wrap("one two", 5, 3); !slices.Equal(got, []string{"one", "two"}) {
		t.Errorf("%q", got)
	}
	if got := terminal.Wrap("", 5, 3); !slices.Equal(got, []string{""}) {
		t.Errorf("%q", got)
	}
}
