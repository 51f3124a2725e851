package cmtptest

import (
	"fmt"
	"os"
	"os/exec"
	"testing"
)

// Need leaves the test out when one of the programs is missing.
func Need(t testing.TB, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			LeaveOut(t, p+" is not installed")
		}
	}
}

// leftOut names the file that "make test" shows at its end: go test says nothing
// of a test that was skipped.
const leftOut = "LEFT_OUT"

// LeaveOut skips a test for which this machine lacks something, and writes down
// which and why where LEFT_OUT names a file. With CI=true it fails the test
// instead.
func LeaveOut(t testing.TB, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("CI=true, but %s", why)
	}
	line := fmt.Sprintf("LEFT OUT: %s: %s", t.Name(), why)
	if path := os.Getenv(leftOut); path != "" {
		check(t, writeDown(path, line))
	}
	t.Skip(line)
}

// writeDown appends a line in one write, since packages are tested side by side.
func writeDown(path, line string) error {
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	if _, err := f.WriteString(line + "\n"); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}
