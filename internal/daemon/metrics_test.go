package daemon_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Every metric has its row in docs/operations.md, and no row is of one that is gone.
func TestMetrics_Documented(t *testing.T) {
	source := names(t, regexp.MustCompile(`"(cmtpd_[a-z_]+)"`), all(t, "../metrics/*.go")...)
	text := names(t, regexp.MustCompile("`(cmtpd_[a-z_]+)[`{]"), "../../docs/operations.md")
	if len(source) < 20 {
		t.Fatalf("only %d metrics were found in the source", len(source))
	}
	for name := range source {
		if !text[name] {
			t.Errorf("docs/operations.md has no %s", name)
		}
	}
	for name := range text {
		if !source[name] {
			t.Errorf("docs/operations.md has %s, which there is not", name)
		}
	}
}

// all returns the files that match, without tests.
func all(t *testing.T, pattern string) (files []string) {
	t.Helper()
	found, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range found {
		if !strings.HasSuffix(file, "_test.go") {
			files = append(files, file)
		}
	}
	return files
}

func names(t *testing.T, pattern *regexp.Regexp, files ...string) map[string]bool {
	t.Helper()
	found := make(map[string]bool)
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range pattern.FindAllSubmatch(b, -1) {
			found[string(m[1])] = true
		}
	}
	return found
}
