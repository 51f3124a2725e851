package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"cmtpd/internal/cmtptest"
)

// TestDesktop: in a session with a Secret Service the password is asked for once, even
// by scripts; where it is locked, and nobody there to open it, the file is as good.
func TestDesktop(t *testing.T) {
	cmtptest.Need(t, "dbus-run-session", "gnome-keyring-daemon")
	site := cmtptest.NewSite(t, nil)
	d := site.Start(t)
	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("code", site.Must(t, "", "user", "invite", atHome))
	write("password", "battery staple\n")
	write("config", "account = \""+atHome+"\"\nserver = \""+d.Shared[0]+"\"\n")
	program, err := exec.LookPath("shorebird")
	if err != nil {
		t.Fatal(err)
	}
	run := func(script string) string {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		cmd := exec.CommandContext(ctx, "dbus-run-session", "--", "sh", "-euc", script)
		cmd.Dir = dir
		cmd.Env = []string{"HOME=" + dir, "XDG_RUNTIME_DIR=" + dir, "PATH=" + filepath.Dir(program) + ":/usr/bin:/bin"}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return string(out)
	}
	out := run(`mkdir -p .config/shorebird && cp config .config/shorebird/config.toml
echo login | gnome-keyring-daemon --unlock --components=secrets >&2
SHOREBIRD_PASSWORD_FILE=password shorebird register ` + atHome + ` --code-stdin --no-recovery <code
echo text | shorebird send ` + atHome + `
SHOREBIRD_PASSWORD_FILE=password shorebird rotate
echo text | shorebird send ` + atHome + `
! echo text | shorebird send ` + atHome + ` --no-keyring`)
	for _, want := range []string{"and in the desktop keyring", "new key for", "no terminal to ask for the password"} {
		if !strings.Contains(out, want) {
			t.Errorf("it does not say %q:\n%s", want, out)
		}
	}
	if n := strings.Count(out, "sent to "+atHome); n != 2 {
		t.Errorf("%d letters were sent, want 2:\n%s", n, out)
	}

	out = run(`echo text | SHOREBIRD_PASSWORD_FILE=password shorebird send ` + atHome)
	if !strings.Contains(out, "sent to "+atHome) {
		t.Errorf("locked:\n%s", out)
	}
}
