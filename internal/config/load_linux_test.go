package config_test

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"cmtpd/internal/config"
)

// A file of somebody else's, which root's tests would read all the same: they open it as nobody.
func TestLoad_NotAllowed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cmtpd.toml")
	if err := os.WriteFile(path, []byte(minimal), 0); err != nil {
		t.Fatal(err)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if was, err := unix.SetfsuidRetUid(65534); err == nil {
		defer unix.SetfsuidRetUid(was)
	}
	if _, err := config.Load(path); !errors.Is(err, config.ErrRead) || !errors.Is(err, os.ErrPermission) {
		t.Errorf("got %v", err)
	}
}
