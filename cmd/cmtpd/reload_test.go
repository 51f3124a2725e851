package main_test

import (
	"os"
	"strings"
	"syscall"
	"testing"

	"cmtpd/internal/cmtptest"
)

// TestServe_Reload: SIGHUP has a daemon read its file, and take of it what it can, or nothing.
func TestServe_Reload(t *testing.T) {
	t.Parallel()
	settings := cmtptest.Settings{"metrics.listen": `"127.0.0.1:0"`}
	site := cmtptest.NewSite(t, settings)
	site.AddUsers(t, "alice")
	d := site.Start(t)
	hangUp := func(text string) {
		t.Helper()
		if err := os.WriteFile(site.Config, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Kill(d.PID, syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
	}
	hangUp(settings.TOML() + "limits.max_messages = 5\nlimits.login_burst = 0\n")
	d.Line(t, "level=ERROR", "limits.max_messages: unknown key")
	d.Line(t, "level=ERROR", "limits.login_burst: 0 is not between")
	d.Line(t, "the configuration was not reloaded")
	if shown := get(t, "http://"+d.Metrics+"/metrics"); !strings.Contains(shown, "\ncmtpd_config_reload_failed 1\n") {
		t.Error("the metrics do not show that a reload has failed")
	}

	settings["limits.login_burst"], settings["limits.login_rate"], settings["log.level"] = "1", "1", `"debug"`
	settings["log.format"] = `"json"`
	hangUp(settings.TOML())
	d.Line(t, "level=INFO", "a setting has changed", "key=limits.login_burst old=20 new=1")
	d.Line(t, "level=WARN", "waits for a restart", "key=log.format old=text new=json")
	d.Line(t, "the configuration was reloaded", "changed=3 waiting_for_restart=1")
	c := greeted(t, d.Shared[0])
	c.send(t, "LOGIN\x00nobody\x00LOGIN\x00nobody\x00")
	c.failure(t)
	c.failure(t)
	d.Line(t, "level=DEBUG", "command failed", "too many")

	// A file that is cut off between two lines is a whole one: what it lacks is warned of, key by key.
	delete(settings, "limits.login_burst")
	delete(settings, "log.format")
	hangUp(settings.TOML())
	d.Line(t, "level=WARN", `msg="a setting has changed"`, "key=limits.login_burst old=1 new=20 default=true")
	d.Stop(t)
}
