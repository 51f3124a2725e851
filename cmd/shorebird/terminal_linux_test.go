package main

import (
	"bytes"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"cmtpd/internal/cmtptest"
)

const atHome = "alice@" + cmtptest.Domain

// TestRegister_Terminal: a person is asked for the code, which may be seen, for a
// password, which may not, and for two of the words that are shown once.
func TestRegister_Terminal(t *testing.T) {
	site := cmtptest.NewSite(t, nil)
	d := site.Start(t)
	code := strings.TrimSpace(site.Must(t, "", "user", "invite", atHome))
	home := t.TempDir()
	shorebird := func(out *bytes.Buffer, args ...string) *cmtptest.Terminal {
		program, err := exec.LookPath("shorebird")
		if err != nil {
			t.Fatal(err)
		}
		env := []string{"-i", "HOME=" + home, "PATH=/usr/bin:/bin", program}
		return cmtptest.RunInTerminal(t, out, "env", append(append(env, args...), "--server", d.Shared[0])...)
	}
	var out bytes.Buffer
	term := shorebird(&out, "register", atHome)
	term.Shows(t, regexp.MustCompile("The code of your invitation: $"))
	term.Type(t, strings.ToLower(code)+"\n")
	term.Answer(t, "New password for "+atHome+": ", "battery staple")
	term.Answer(t, "Once more: ", "battery staple")
	word := func(asked string) {
		m := term.Shows(t, regexp.MustCompile(`(?s)on paper(.*)`+asked+`Word (\d+): $`))
		_, rest, _ := strings.Cut(m[1], " "+m[2]+" ")
		term.Type(t, strings.Fields(rest)[0]+"\n")
	}
	word("")
	word(`Word \d+: [a-z]+\s+`)
	status, shown := term.Ends(t)
	if status != 0 || !strings.Contains(out.String(), "registered") || strings.Contains(shown, "battery") || !term.Echoes(t) {
		t.Fatalf("it ended with %d and shows %q\n%s", status, shown, out.String())
	}

	// It is asked for where it is needed, and not shown.
	out.Reset()
	term = shorebird(&out, "rotate", atHome)
	term.Asked(t, "Password of "+atHome+": ")
	term.Type(t, "half\x1a") // Ctrl-Z
	term.Stopped(t)
	if !term.Echoes(t) {
		t.Error("a stopped program leaves a terminal that does not show what is typed")
	}
	term.Continue(t)
	term.Shows(t, regexp.MustCompile("(?s)Password of .*Password of "+atHome+": $"))
	term.Answer(t, "Password of "+atHome+": ", "battery staple")
	if status, shown = term.Ends(t); status != 0 || strings.Contains(shown, "battery") {
		t.Fatalf("it ended with %d and shows %q", status, shown)
	}

	// Who thinks better of it has done nothing.
	term = shorebird(&out, "passwd", atHome)
	term.Answer(t, "Password of "+atHome+": ", "battery staple")
	term.Asked(t, "New password for "+atHome+": ")
	term.Type(t, "half\x03")
	if status, shown = term.Ends(t); status != 130 || !term.Echoes(t) {
		t.Fatalf("it ended with %d and shows %q", status, shown)
	}
	if left, _ := filepath.Glob(filepath.Join(home, ".local/share/shorebird/*pending*")); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}
