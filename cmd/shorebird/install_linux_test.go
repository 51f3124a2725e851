package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cmtpd/internal/cmtptest"
)

// make install copies what was built, with the modes that it needs, to where programs look for it.
func TestInstall(t *testing.T) {
	cmtptest.Need(t, "make", "install")
	makefile, err := filepath.Abs("../../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	built := []string{"bin/cmtpd", "bin/shorebird", "dist/man/man1/shorebird.1", "dist/man/man1/shorebird-send.1", "dist/man/man5/cmtpd.toml.5", "dist/man/man8/cmtpd.8"}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		built = append(built, "dist/completions/shorebird."+shell, "dist/completions/cmtpd."+shell)
	}
	for _, name := range built {
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	to := filepath.Join(dir, "to")
	cmd := exec.CommandContext(t.Context(), "make", "-f", makefile, "install", "DESTDIR="+to, "PREFIX=/opt/mail", "GO=false")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var got []string
	err = filepath.WalkDir(to, func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		info, err := e.Info()
		if err == nil {
			got = append(got, info.Mode().String()+" "+strings.TrimPrefix(path, to+"/opt/mail/"))
		}
		return err
	})
	want := []string{
		"-rwxr-xr-x bin/cmtpd", "-rwxr-xr-x bin/shorebird",
		"-rw-r--r-- share/bash-completion/completions/cmtpd", "-rw-r--r-- share/bash-completion/completions/shorebird",
		"-rw-r--r-- share/fish/vendor_completions.d/cmtpd.fish", "-rw-r--r-- share/fish/vendor_completions.d/shorebird.fish",
		"-rw-r--r-- share/man/man1/shorebird-send.1", "-rw-r--r-- share/man/man1/shorebird.1", "-rw-r--r-- share/man/man5/cmtpd.toml.5",
		"-rw-r--r-- share/man/man8/cmtpd.8", "-rw-r--r-- share/zsh/site-functions/_cmtpd", "-rw-r--r-- share/zsh/site-functions/_shorebird",
	}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("installed %q, %v", got, err)
	}
}
