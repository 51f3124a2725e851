package shorebird_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The manual has a page for each command, and says what the help says.
func TestMan(t *testing.T) {
	p := newPerson(t)
	dir := filepath.Join(p.dir, "man")
	p.want(ok, "", []string{"man", dir})
	for name, words := range map[string][]string{
		"shorebird":             {".TH \"SHOREBIRD\" 1", "config.toml", ".SH EXIT STATUS", "   75  failed for now", ".BR shorebird\\-send (1)", `\-\-timeout`},
		"shorebird-send":        {`  \-a, \-\-attach FILE `, `\-\-json `, ".BR shorebird (1)", "send seals a letter to each ADDRESS"},
		"shorebird-outbox-send": {".B shorebird outbox send [N]", ".BR shorebird\\-outbox (1)"},
		"shorebird-completion":  {"completion"},
	} {
		b, err := os.ReadFile(filepath.Join(dir, name+".1"))
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range words {
			if !strings.Contains(string(b), w) {
				t.Errorf("%s does not say %q:\n%s", name, w, b)
			}
		}
	}
	pages, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range pages {
		b, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(b)) {
			macro, _, _ := strings.Cut(strings.TrimRight(line, "\n"), " ")
			known := strings.Contains(" .TH .SH .B .BR .nf .fi ", " "+macro+" ")
			if (line[0] == '.' || line[0] == '\'') && !known {
				t.Errorf("%s: %q is no macro", page, line)
			}
		}
		if strings.Contains(page, "shorebird-man") || strings.Contains(page, "help") {
			t.Errorf("there is a page %s", page)
		}
	}
	if groff, err := exec.LookPath("groff"); err == nil {
		if out, err := exec.Command(groff, append([]string{"-ww", "-z", "-man", "-Tutf8"}, pages...)...).CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("groff: %v\n%s", err, out)
		}
	}
}

// Shells are told of commands and flags.
func TestCompletion(t *testing.T) {
	p := newPerson(t)
	p.want(ok, "", []string{"completion", "bash"}, "__start_shorebird")
	p.want(ok, "", []string{"__complete", "s"}, "send\t", "sync\t", "search\t")
	p.want(ok, "", []string{"__complete", "send", "--no"}, "--no-outbox\t")
	p.want(ok, "", []string{"__complete", "drafts", ""}, "edit\t", "send\t")
}
