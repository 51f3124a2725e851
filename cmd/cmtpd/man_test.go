package main_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"cmtpd/internal/cmtptest"
	"cmtpd/internal/config"
)

// The manual has a page for each command and one for the configuration, which shows every key.
func TestMan(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "man")
	c := exec.Command(cmtptest.Release(t), "man", dir, "../../configs/cmtpd.toml")
	c.Env = append(os.Environ(), "SOURCE_DATE_EPOCH=1700000000")
	if out, err := c.CombinedOutput(); err != nil || len(out) > 0 {
		t.Fatalf("cmtpd man: %v\n%s", err, out)
	}
	for name, words := range map[string][]string{
		"man8/cmtpd.8":            {`.TH "CMTPD" 8 "2023-11-14"`, ".BR cmtpd\\-user (8),\n", ".SH FILES", ".SH EXIT STATUS", "78   the configuration is wrong"},
		"man8/cmtpd-user-add.8":   {".B cmtpd user add ADDRESS [flags]\n", ".B \\-\\-password\\-stdin\nread the password", ".BR cmtpd\\-user (8),\n.BR cmtpd.toml (5)\n"},
		"man5/cmtpd.toml.5":       {"\\- configuration of cmtpd\n", ".SS [limits]\nNone of these", ".B #level = \\(dqinfo\\(dq\nThe least", ".BR cmtpd (8),\n"},
		"man8/cmtpd-completion.8": {"completion"},
	} {
		page, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range words {
			if !strings.Contains(string(page), w) {
				t.Errorf("%s does not say %q:\n%s", name, w, page)
			}
		}
	}
	page, err := os.ReadFile(filepath.Join(dir, "man5", "cmtpd.toml.5"))
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range config.Keys() {
		name := key[strings.LastIndex(key, ".")+1:]
		if key != "aliases" && !strings.Contains(string(page), ".B #"+name+" = ") && !strings.Contains(string(page), ".B "+name+" = ") {
			t.Errorf("the manual does not show %s", key)
		}
	}
	cmtptest.Mandoc(t, dir)
}
