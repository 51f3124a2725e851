package main_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"cmtpd/internal/cmtptest"
	"cmtpd/internal/config"
)

const unitDir = "../../configs"

// unit returns the settings of a unit, each with its values in their order.
func unit(t *testing.T, name string) map[string][]string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(unitDir, name))
	if err != nil {
		t.Fatal(err)
	}
	settings := make(map[string][]string)
	for line := range strings.Lines(string(b)) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(key, "#") {
			settings[key] = append(settings[key], value)
		}
	}
	return settings
}

func analyze(t *testing.T, args ...string) string {
	t.Helper()
	tool := exec.CommandContext(t.Context(), "systemd-analyze", args...)
	tool.Env = append(os.Environ(), "SYSTEMD_PAGER=cat", "SYSTEMD_COLORS=0")
	out, err := tool.CombinedOutput()
	if err != nil {
		t.Errorf("systemd-analyze %q: %v\n%s", args, err, out)
	}
	return string(out)
}

// TestUnits_Exposure: systemd itself finds next to nothing that the service could do and need not.
func TestUnits_Exposure(t *testing.T) {
	t.Parallel()
	cmtptest.Need(t, "systemd-analyze")
	const threshold = 20 // tenths
	out := analyze(t, "security", "--offline=true", "--no-pager", "--threshold="+strconv.Itoa(threshold), filepath.Join(unitDir, "cmtpd.service"))
	if !strings.Contains(out, "Overall exposure level for cmtpd.service") {
		t.Errorf("it says\n%s", out)
	}
}

// TestUnits_Verify: systemd reads the units without a word, with a program that is there.
func TestUnits_Verify(t *testing.T) {
	t.Parallel()
	cmtptest.Need(t, "systemd-analyze")
	dir := t.TempDir()
	for _, name := range []string{"cmtpd.service", "cmtpd.socket"} {
		b, err := os.ReadFile(filepath.Join(unitDir, name))
		if err != nil {
			t.Fatal(err)
		}
		text := strings.ReplaceAll(string(b), "/usr/bin/cmtpd", cmtptest.Release(t))
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	out := analyze(t, "verify", "--man=no", filepath.Join(dir, "cmtpd.service"), filepath.Join(dir, "cmtpd.socket"))
	for line := range strings.Lines(out) {
		if strings.Contains(line, "cmtpd") {
			t.Errorf("systemd-analyze says: %s", line)
		}
	}
}

// TestUnits_Fit: the units and the program's own defaults do not contradict each other.
func TestUnits_Fit(t *testing.T) {
	service, socket, defaults := unit(t, "cmtpd.service"), unit(t, "cmtpd.socket"), config.Default()
	for key, want := range map[string]string{
		"Type": "notify", "RestartPreventExitStatus": "78", "StateDirectory": filepath.Base(defaults.DataDir), "User": "cmtpd",
		"ExecStart": "/usr/bin/cmtpd serve --config /etc/cmtpd/cmtpd.toml", "Requires": "cmtpd.socket", "AmbientCapabilities": "",
	} {
		if got := service[key]; len(got) != 1 || got[0] != want {
			t.Errorf("%s is %q, want %q", key, got, want)
		}
	}
	equal(t, "data_dir", defaults.DataDir, filepath.Join("/var/lib", service["StateDirectory"][0]))
	stop, err := time.ParseDuration(service["TimeoutStopSec"][0])
	if err != nil || stop < defaults.ShutdownGrace+15*time.Second {
		t.Errorf("TimeoutStopSec is %v (%v), and shutdown_grace %v", stop, err, defaults.ShutdownGrace)
	}
	files, err := strconv.Atoi(service["LimitNOFILE"][0])
	if err != nil || files < 2*defaults.Limits.MaxConnections+4096 {
		t.Errorf("LimitNOFILE is %d (%v), and max_connections %d", files, err, defaults.Limits.MaxConnections)
	}
	equal(t, "the port", ":"+socket["ListenStream"][0], defaults.Listen.Addresses[0])
	equal(t, "the socket's name", "listen."+socket["FileDescriptorName"][0], "listen.addresses")
}
