package cmtptest

import (
	"os/exec"
	"path/filepath"
	"testing"
)

// Mandoc lets mandoc(1) judge all manual pages below dir. It is asked for warnings: the level below, of style, minds how long
// the lines of the source are, which is as the help has them, and no reader sees.
func Mandoc(t testing.TB, dir string) {
	t.Helper()
	Need(t, "mandoc")
	pages, err := filepath.Glob(filepath.Join(dir, "man[1-8]", "*"))
	check(t, err)
	if len(pages) < 10 {
		t.Fatalf("only %d manual pages are in %s", len(pages), dir)
	}
	if out, err := exec.Command("mandoc", append([]string{"-T", "lint", "-W", "warning"}, pages...)...).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("mandoc: %v\n%s", err, out)
	}
}
