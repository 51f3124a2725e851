package main_test

import (
	"encoding/json"
	"os"
	"testing"

	"cmtpd/internal/cmtptest"
)

func TestMain(m *testing.M) { os.Exit(cmtptest.Main(m)) }

// decode reads the output of a command with --json.
func decode[T any](t *testing.T, output string) (v T) {
	t.Helper()
	if err := json.Unmarshal([]byte(output), &v); err != nil {
		t.Fatalf("%v in\n%s", err, output)
	}
	return v
}

func equal[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}
