// Package cmtptest runs the real cmtpd for tests: a process of its own on free
// ports of loopback, with a data directory that outlives it.
//
// It guarantees that a daemon that a test has started is gone when the test is
// over, that one which raced or panicked fails its test, and that nothing waits
// by sleeping: a daemon is ready when its log says so.
package cmtptest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// buildDir is where Main has programs built.
var buildDir string

// Main runs a package's tests and removes what Program and Release have built.
// TestMain hands its result to os.Exit.
func Main(m *testing.M) int {
	dir, err := os.MkdirTemp("", "cmtptest-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "cmtptest:", err)
		return 1
	}
	defer os.RemoveAll(dir)
	buildDir = dir
	return m.Run()
}

var (
	release = sync.OnceValues(func() (string, error) {
		return build("release", "CGO_ENABLED=0", "-trimpath", "-ldflags=-s -w")
	})
	raced = sync.OnceValues(func() (string, error) { return build("race", "CGO_ENABLED=1", "-race") })
)

// Release returns the path of cmtpd, built once as "make build" does it.
func Release(t testing.TB) string { return built(t, release) }

// Program is Release, but with the race detector where the test has it.
func Program(t testing.TB) string {
	if raceEnabled {
		return built(t, raced)
	}
	return built(t, release)
}

func built(t testing.TB, build func() (string, error)) string {
	t.Helper()
	path, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// build makes cmtpd. With GOCOVERDIR in the environment it counts what the
// daemon executes too.
func build(name, env string, flags ...string) (string, error) {
	if buildDir == "" {
		return "", fmt.Errorf("building cmtpd: TestMain does not call cmtptest.Main")
	}
	if err := lookAtSources(); err != nil {
		return "", fmt.Errorf("building cmtpd: %w", err)
	}
	path := filepath.Join(buildDir, name, "cmtpd")
	args := append([]string{"build", "-o", path}, flags...)
	if os.Getenv("GOCOVERDIR") != "" {
		args = append(args, "-cover", "-coverpkg=cmtpd/...")
	}
	cmd := exec.Command("go", append(args, "cmtpd/cmd/cmtpd")...)
	cmd.Env = append(os.Environ(), env)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building cmtpd: %w\n%s", err, out)
	}
	return path, nil
}

// lookAtSources looks at every file that cmtpd may be made of. The go command
// takes a test's result from its cache unless a file has changed that the test
// itself has looked at; it does not see what the build looks at.
func lookAtSources() error {
	mod, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		return err
	}
	root := filepath.Dir(strings.TrimSpace(string(mod)))
	for _, dir := range []string{"internal", "cmd"} {
		err := filepath.Walk(filepath.Join(root, dir), func(_ string, _ os.FileInfo, err error) error { return err })
		if err != nil {
			return err
		}
	}
	return nil
}
