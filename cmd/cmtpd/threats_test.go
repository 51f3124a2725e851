package main_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"cmtpd/internal/cmtptest"
)

// TestDocuments_Tests: the tests that the documents name are there, and each attack in docs/threat-model.md has one, or a
// section, that it leans on.
func TestDocuments_Tests(t *testing.T) {
	t.Parallel()
	there := make(map[string]bool)
	for _, dir := range []string{"cmd", "internal"} {
		err := filepath.WalkDir(filepath.Join(cmtptest.Root(t), dir), func(path string, _ fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, "_test.go") {
				return err
			}
			b, err := os.ReadFile(path)
			for _, m := range regexp.MustCompile(`(?m)^func (Test\w+)\(`).FindAllSubmatch(b, -1) {
				there[string(m[1])] = true
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	name := regexp.MustCompile(`^Test[A-Z]\w+$`)
	for _, d := range cmtptest.ReadDocuments(t) {
		backed := make(map[int]bool)
		for _, s := range d.Spans {
			if name.MatchString(s.Text) {
				backed[s.Line] = true
				if !there[s.Text] {
					t.Errorf("%s:%d: there is no %s", d.Path, s.Line, s.Text)
				}
			}
		}
		if filepath.Base(d.Path) != "threat-model.md" {
			continue
		}
		rows := 0
		for i, line := range d.Prose {
			if strings.Count(line, " | ") != 3 || strings.HasPrefix(line, "| wants") {
				continue
			}
			rows++
			if last := line[strings.LastIndex(line, " | "):]; !backed[i+1] && !linkPattern.MatchString(last) {
				t.Errorf("%s:%d: nothing shows that: %.80s", d.Path, i+1, line)
			}
		}
		if rows < 30 {
			t.Errorf("%s has only %d attacks", d.Path, rows)
		}
	}
}
