package datadir_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cmtpd/internal/cmtptest"
	"cmtpd/internal/config"
	"cmtpd/internal/datadir"
)

// The directory is made for its owner alone, and one has it at a time.
func TestLock(t *testing.T) {
	cfg := config.Default()
	cfg.DataDir = filepath.Join(t.TempDir(), "data")
	first, err := datadir.Lock(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(cfg.DataDir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the directory: %v, %v", info, err)
	}
	if _, err := datadir.Lock(cfg); !errors.Is(err, datadir.ErrRunning) || !strings.Contains(err.Error(), cfg.DataDir) || !strings.Contains(err.Error(), datadir.StopFirst) {
		t.Errorf("beside another: %v", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	second, err := datadir.Lock(cfg)
	if err != nil {
		t.Fatalf("after the other: %v", err)
	}
	second.Close()
}

// Nobody makes files in another user's directory, root not either.
func TestLock_AnothersData(t *testing.T) {
	if os.Geteuid() != 0 {
		cmtptest.LeaveOut(t, "only root can give a directory to another user")
	}
	cfg := config.Default()
	cfg.DataDir = t.TempDir()
	const nobody = 65534
	if err := os.Chown(cfg.DataDir, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	if _, err := datadir.Lock(cfg); !errors.Is(err, datadir.ErrOwner) || !strings.Contains(err.Error(), datadir.As(datadir.NameOf(nobody))) {
		t.Errorf("another's directory: %v", err)
	}
	if left, err := os.ReadDir(cfg.DataDir); err != nil || len(left) > 0 {
		t.Errorf("there is %v in it, %v", left, err)
	}
}
