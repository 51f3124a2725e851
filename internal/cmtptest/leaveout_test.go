package cmtptest_test

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"cmtpd/internal/cmtptest"
)

// A tried is a test whose end is looked at.
type tried struct {
	testing.TB
	failed, skipped string
}

func (t *tried) Fatalf(format string, a ...any) {
	t.failed = fmt.Sprintf(format, a...)
	runtime.Goexit()
}

func (t *tried) Skip(a ...any) {
	t.skipped = fmt.Sprint(a...)
	runtime.Goexit()
}

// try needs a program that nobody has.
func try(t *testing.T) *tried {
	inner := &tried{TB: t}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		cmtptest.Need(inner, "a-program-that-nobody-has")
	}()
	<-ended
	return inner
}

func TestLeaveOut(t *testing.T) {
	list := filepath.Join(t.TempDir(), "list")
	if err := os.WriteFile(list, []byte("LEFT OUT: TestEarlier: why\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("LEFT_OUT", list)
	t.Setenv("CI", "")
	const why = "a-program-that-nobody-has is not installed"
	line := "LEFT OUT: " + t.Name() + ": " + why
	if got := try(t); got.skipped != line || got.failed != "" {
		t.Errorf("skipped with %q, failed with %q; want to be skipped with %q", got.skipped, got.failed, line)
	}
	if b, err := os.ReadFile(list); err != nil || string(b) != "LEFT OUT: TestEarlier: why\n"+line+"\n" {
		t.Errorf("the list holds %q, %v", b, err)
	}

	t.Setenv("CI", "true")
	if got := try(t); got.skipped != "" || !strings.Contains(got.failed, why) {
		t.Errorf("with CI=true: skipped with %q, failed with %q", got.skipped, got.failed)
	}
}
