package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"cmtpd/internal/cmtp"
	"cmtpd/internal/cmtptest"
)

// prompt is the shell's, when nothing else runs: the last line on the screen.
const prompt = `(?s)(?:^|\n)\$$`

// In a real terminal a person becomes a user, and neither what is hidden is seen nor what is shown once is lost; a program that is
// stopped while it asks gives back the terminal.
func TestTmux_Register(t *testing.T) {
	site := cmtptest.NewSite(t, nil)
	d := site.Start(t)
	code := strings.TrimSpace(site.Must(t, "", "user", "invite", atHome))
	s := cmtptest.RunInTmux(t, 100, 40, []string{"HOME=" + t.TempDir(), "PATH=" + os.Getenv("PATH")})
	s.Shows(t, prompt)
	s.Enter(t, "set -m; shorebird register "+atHome+" --server "+d.Shared[0])
	s.Shows(t, `The code of your invitation:$`)
	s.Enter(t, code)
	s.Shows(t, `New password for `+regexp.QuoteMeta(atHome)+`:$`)
	s.Type(t, "battery staple")
	s.Press(t, "C-z")
	s.Shows(t, prompt)
	s.Enter(t, "echo seen")
	s.Shows(t, `\$ echo seen\nseen\n\$$`)
	s.Enter(t, "fg")
	s.Shows(t, `fg\n[^\n]*\n(?s:.*)New password for [^\n]*:$`)
	s.Enter(t, "battery staple")
	s.Shows(t, `Once more:$`)
	s.Enter(t, "battery staple")
	first := s.Shows(t, `(?s)on paper(.*)Word (\d+):$`)
	s.Enter(t, word(first[1], first[2]))
	second := s.Shows(t, `(?s)on paper(.*)Word \d+: [a-z]+\nWord (\d+):$`)
	s.Enter(t, word(second[1], second[2]))
	s.Shows(t, `(?s)registered.*\n\$$`)
	if shown := s.Shown(t); strings.Contains(shown, "battery") || !strings.Contains(shown, "\n$") {
		t.Errorf("the screen:\n%s", shown)
	}
	d.Stop(t)
}

// word returns the word with a number among numbered words.
func word(shown, number string) string {
	_, rest, _ := strings.Cut(shown, " "+number+" ")
	return strings.Fields(rest)[0]
}

// A letter that would steer a terminal leaves it as it is, a long one is read with a pager, and lists fit on a screen that
// becomes narrow.
func TestTmux_Read(t *testing.T) {
	r, d := newReader(t, cmtptest.NewSite(t, nil))
	r.gets(&cmtp.Body{Time: 1, Subject: "long", Text: []byte("at the beginning " + strings.Repeat("the same words again and ", 170) + "\nthe end\n")})
	valid := strings.ToValidUTF8(hostile, "?")
	r.gets(&cmtp.Body{Time: 1, Subject: valid, Text: []byte(valid + "\nthe text\n")}, "plan"+valid)
	s := cmtptest.RunInTmux(t, 80, 30, append([]string{"SHELL=/bin/sh", "PAGER=more"}, r.env...))
	title := s.Title(t)
	s.Shows(t, prompt)
	s.Enter(t, "alias shorebird="+r.program+"; echo before")
	s.Shows(t, `\nbefore\n\$$`)
	for _, columns := range []int{80, 40} {
		s.Resize(t, columns, 30)
		s.Enter(t, "clear; echo before; shorebird list; echo after")
		s.Shows(t, `^before\n2  N [^\n]*unproven[^\n]*\n1  N [^\n]* long\nafter\n\$$`)
	}
	s.Resize(t, 80, 40)
	s.Enter(t, "clear; echo before; shorebird read 2; echo after")
	s.Shows(t, `(?s)^before\n.*From  .*mallory@other\.example.*\nthe text\n-- end of message 2 --\nafter\n\$$`)
	if got := s.Title(t); got != title {
		t.Errorf("the terminal's title was %q and is %q", title, got)
	}
	s.Enter(t, "clear; shorebird read 1; echo after")
	if page := s.Shows(t, `(?s)at the beginning.*--More--$`); strings.Contains(page[0], "the end\n") {
		t.Errorf("the first page:\n%s", page[0])
	}
	s.Press(t, "Space")
	s.Shows(t, `(?s)\nthe end\n.*\(END\)$`)
	s.Press(t, "q")
	s.Shows(t, `(?s)after\n\$$`)
	d.Stop(t)
}

// While a letter is sent a person sees one bar for the whole, and nothing of it is left when it is done; who watches sees the
// letter come, and leaves with a key.
func TestTmux_Send(t *testing.T) {
	r, d := newReader(t, cmtptest.NewSite(t, nil))
	file := filepath.Join(t.TempDir(), "large")
	if err := os.WriteFile(file, make([]byte, 8<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	env := append([]string{}, r.env...)
	watching := cmtptest.RunInTmux(t, 90, 20, env)
	watching.Shows(t, prompt)
	watching.Enter(t, r.program+" watch; echo ended $?")
	watching.Shows(t, `\nWatching the mailbox of `+regexp.QuoteMeta(atHome)+`; Ctrl-C ends it\.$`)
	s := cmtptest.RunInTmux(t, 50, 20, env)
	s.Shows(t, prompt)
	s.Enter(t, "clear; echo text | "+r.program+" send "+atHome+" -s 'With a file' -a "+file+"; echo ended $?")
	shown := s.Shows(t, `(?s)ended \d+\n\$$`)
	if all := s.Shown(t); !strings.Contains(shown[0], "ended 0") || strings.Count(all, "sent to "+atHome) != 1 || strings.ContainsAny(all, "%█") {
		t.Errorf("the screen:\n%s", all)
	}
	watching.Shows(t, `With a file`)
	watching.Press(t, "C-c")
	watching.Shows(t, `ended (0|130)\n\$$`)
	d.Stop(t)
}
