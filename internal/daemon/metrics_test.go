package daemon_test

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
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

// Every limit of which is counted how often it was met is named in that metric's row, and no other.
func TestMetrics_Documented_Limits(t *testing.T) {
	w := watch(t, nil)
	defer w.stop()
	_, shown, _ := w.ask(t, "GET", "/metrics", "")
	counted := matches(regexp.MustCompile(`cmtpd_limits_hit_total\{limit="([a-z_]+)"\}`), []byte(shown))
	text, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	row := regexp.MustCompile("(?m)^\\| `cmtpd_limits_hit_total.*$").Find(text)
	_, list, _ := strings.Cut(string(row), "under `[limits]`:")
	named := matches(regexp.MustCompile("`([a-z_]+)`"), []byte(list))
	if len(counted) < 10 || !maps.Equal(counted, named) {
		t.Errorf("counted are %v; docs/operations.md has %v", slices.Sorted(maps.Keys(counted)), slices.Sorted(maps.Keys(named)))
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
		maps.Copy(found, matches(pattern, b))
	}
	return found
}

// matches returns what the pattern's group matches in a text.
func matches(pattern *regexp.Regexp, text []byte) map[string]bool {
	found := make(map[string]bool)
	for _, m := range pattern.FindAllSubmatch(text, -1) {
		found[string(m[1])] = true
	}
	return found
}
