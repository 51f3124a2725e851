package letter_test

import (
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"cmtpd/internal/cmtp"
	"cmtpd/internal/letter"
)

// seeded fails when the committed seeds are missing: a fuzz target without them
// tests nothing in an ordinary run.
func seeded(f *testing.F) {
	f.Helper()
	seeds, err := filepath.Glob(filepath.Join("testdata", "fuzz", f.Name(), "*"))
	if err != nil || len(seeds) == 0 {
		f.Fatalf("no seeds for %s: %v", f.Name(), err)
	}
}

// What is shown is only what shows, and is the same when it is shown again.
func FuzzText(f *testing.F) {
	seeded(f)
	f.Fuzz(func(t *testing.T, s string) {
		line, text := letter.Line(s), letter.Text([]byte(s))
		for _, r := range line {
			if !letter.Visible(r) || r == '\n' || r == '\t' {
				t.Fatalf("Line(%q) holds %U", s, r)
			}
		}
		for _, r := range text {
			if !letter.Visible(r) && r != '\n' && r != '\t' {
				t.Fatalf("Text(%q) holds %U", s, r)
			}
		}
		if letter.Line(line) != line || letter.Text([]byte(text)) != text {
			t.Fatalf("%q is changed twice", s)
		}
	})
}

// A name to save under is good on every file system, and is its own.
func FuzzFileName(f *testing.F) {
	seeded(f)
	f.Fuzz(func(t *testing.T, s string) {
		name := letter.FileName(s)
		switch {
		case name == "" || len(name) > 200 || !utf8.ValidString(name),
			strings.ContainsAny(name, "/\\:\x00"),
			name[0] == '.' || name[0] == '-' || name[0] == ' ',
			letter.Line(name) != name,
			!filepath.IsLocal(name):
			t.Fatalf("FileName(%q) = %q", s, name)
		}
		if again := letter.FileName(name); again != name {
			t.Fatalf("FileName(%q) = %q, and of that %q", s, name, again)
		}
	})
}

// Whatever opens is no larger than what it came from, and reads back whole.
func FuzzOpen(f *testing.F) {
	seeded(f)
	k := key(f, 1)
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := open(b, k)
		if err != nil {
			if l != nil {
				t.Fatal("a letter came with an error")
			}
			return
		}
		if l.Sealed != (l.Header.System == cmtp.SystemSealed) {
			t.Fatalf("system %d, sealed: %v", l.Header.System, l.Sealed)
		}
		total := len(l.Text) + len(l.Subject)
		for _, a := range l.Attachments {
			total += len(read(t, a)) + len(a.Name)
		}
		if total > len(b) {
			t.Fatalf("%d bytes came out of %d", total, len(b))
		}
	})
}
