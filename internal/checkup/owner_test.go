package checkup_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"cmtpd/internal/checkup"
	"cmtpd/internal/cmtptest"
	"cmtpd/internal/datadir/datadirtest"
)

func TestCheck_Owner(t *testing.T) {
	if os.Geteuid() != 0 {
		cmtptest.LeaveOut(t, "only root can give a file to another user")
	}
	cfg := datadirtest.Filled(t)
	if err := os.Chown(cfg.SpoolDir(), 65534, 65534); err != nil {
		t.Fatal(err)
	}
	wrong, _ := checked(t, cfg, "")
	one(t, wrong, "data: ", "belongs to user 65534", "chown -R root: "+cfg.SpoolDir())

	// What is in a directory counts as well: root, who looks, can read it, and the daemon cannot.
	if err := os.Chown(cfg.SpoolDir(), 0, 0); err != nil {
		t.Fatal(err)
	}
	segment := filepath.Join(cfg.SpoolDir(), "log", "0000000000000001.seg")
	for _, path := range []string{segment, filepath.Join(cfg.SpoolDir(), "lock")} {
		if err := os.Chown(path, 65534, 65534); err != nil {
			t.Fatal(err)
		}
	}
	wrong, _ = checked(t, cfg, "")
	one(t, wrong, "data: ", "belongs to user 65534", "so it is with 1 more in "+cfg.SpoolDir(), "chown -R root: "+cfg.SpoolDir())
}

// Root can read a configuration that the daemon's user cannot, as an umask of 077 leaves it.
func TestCheck_Unreadable(t *testing.T) {
	if os.Geteuid() != 0 {
		cmtptest.LeaveOut(t, "only root can give a file to another user")
	}
	cfg := datadirtest.Filled(t)
	const nobody = 65534
	if err := filepath.WalkDir(cfg.DataDir, func(path string, _ fs.DirEntry, err error) error {
		return errors.Join(err, os.Chown(path, nobody, nobody))
	}); err != nil {
		t.Fatal(err)
	}
	found(t, cfg, "") // writes the configuration
	dir := filepath.Dir(cfg.DataDir)
	path := filepath.Join(dir, "cmtpd.toml")
	for _, mode := range []struct {
		dir, file fs.FileMode
		group     int
		says      string // of the remedy; empty where the daemon can read it
	}{
		{0o755, 0o644, 0, ""},
		{0o755, 0o640, nobody, ""},
		{0o711, 0o644, 0, ""},
		{0o755, 0o640, 0, "chmod a+r " + path},
		{0o755, 0o600, nobody, "chmod a+r " + path},
		{0o700, 0o644, 0, "chmod a+x " + dir},
	} {
		if err := errors.Join(os.Chown(path, 0, mode.group), os.Chmod(path, mode.file), os.Chmod(dir, mode.dir)); err != nil {
			t.Fatal(err)
		}
		var wrong []string
		for f := range checkup.Check(t.Context(), path) {
			if !f.Note {
				wrong = append(wrong, f.String())
			}
		}
		if mode.says == "" && len(wrong) > 0 {
			t.Errorf("%+v: %q", mode, wrong)
		} else if mode.says != "" {
			one(t, wrong, "config: ", "keeps user 65534", mode.says)
		}
	}
}
