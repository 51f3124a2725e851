package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"cmtpd/internal/cmtptest"
	"cmtpd/internal/kernelring"
)

// TestUnlock: without a desktop a person gives the password once, at the terminal, and other commands find the keys in the
// kernel, until they are locked.
func TestUnlock(t *testing.T) {
	if _, _, err := (kernelring.Ring{}).Get("cmtpd test"); errors.Is(err, kernelring.ErrUnavailable) {
		cmtptest.LeaveOut(t, "this machine refuses the kernel's keyring: "+err.Error())
	}
	site := cmtptest.NewSite(t, nil)
	d := site.Start(t)
	dir := t.TempDir()
	program, err := exec.LookPath("shorebird")
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"code": site.Must(t, "", "user", "invite", atHome), "password": "battery staple\n",
		".config/shorebird/config.toml": "account = \"" + atHome + "\"\nserver = \"" + d.Shared[0] + "\"\n",
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	env := []string{"HOME=" + dir, "PATH=/usr/bin:/bin"}
	run := func(ctx context.Context, more []string, args ...string) (string, error) {
		cmd := exec.CommandContext(ctx, program, args...)
		cmd.Env = append(more, env...)
		cmd.Stdin = strings.NewReader("text")
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // there is no terminal to ask at
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	succeeds := func(more []string, args ...string) string {
		t.Helper()
		out, err := run(t.Context(), more, args...)
		if err != nil {
			t.Fatalf("%q: %v\n%s", args, err, out)
		}
		return out
	}
	locked := func() {
		t.Helper()
		if out, err := run(t.Context(), nil, "send", atHome); err == nil || !strings.Contains(out, "no terminal to ask for the password") {
			t.Errorf("no password is needed: %v\n%s", err, out)
		}
	}
	secret := []string{"SHOREBIRD_PASSWORD_FILE=" + filepath.Join(dir, "password"), "SHOREBIRD_CODE_FILE=" + filepath.Join(dir, "code")}
	succeeds(secret, "register", atHome, "--no-recovery")
	t.Cleanup(func() {
		if out, err := run(context.Background(), nil, "lock"); err != nil {
			t.Errorf("the kernel still has the keys of the test: %v\n%s", err, out)
		}
	})
	locked()
	var out bytes.Buffer
	term := cmtptest.RunInTerminal(t, &out, "env", append(append([]string{"-i"}, env...), program, "unlock", "--for", "1h")...)
	term.Answer(t, "Password of "+atHome+": ", "battery staple")
	if status, shown := term.Ends(t); status != 0 || !strings.Contains(out.String(), "is unlocked until") || strings.Contains(shown, "battery") {
		t.Fatalf("it ended with %d, shows %q, and says %s", status, shown, out.String())
	}
	if said := succeeds(nil, "send", atHome); !strings.Contains(said, "sent to "+atHome) {
		t.Errorf("send says %s", said)
	}
	if said := succeeds(nil, "devices"); !strings.Contains(said, strings.TrimSpace(out.String()[strings.Index(out.String(), "until"):])) {
		t.Errorf("devices says %s", said)
	}
	succeeds(secret, "rotate")
	succeeds(nil, "list")
	if said := succeeds(nil, "lock"); !strings.Contains(said, atHome+" is locked") {
		t.Errorf("lock says %s", said)
	}
	locked()
}
