package main

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"cmtpd/internal/cmtp"
	"cmtpd/internal/cmtptest"
)

// TestSend_Editor: a letter is written in an editor at a terminal, after a first try that is wrong, and sent when
// a person has said so; nothing of it is left on the machine but what is encrypted.
func TestSend_Editor(t *testing.T) {
	r, _ := newReader(t, cmtptest.NewSite(t, nil))
	runtime := t.TempDir()
	script := filepath.Join(t.TempDir(), "editor")
	text := `#!/bin/sh
[ -t 0 ] && [ -t 2 ] || exit 3
[ "$1" = -w ] || exit 4
case $(stat -c %a "$2") in 600) ;; *) exit 5 ;; esac
if grep -q 'NOT SENT' "$2"; then
	sed -i 's/^To: alice/To: ` + atHome + `/' "$2"
else
	sed -i 's/^To: .*/To: alice/; s/^Subject: .*/Subject: By hand/' "$2"
	echo 'The secret text' >>"$2"
fi
`
	if err := os.WriteFile(script, []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	at := func(args ...string) *cmtptest.Terminal {
		out.Reset()
		env := append([]string{"-i", "XDG_RUNTIME_DIR=" + runtime, "VISUAL=" + script + " -w"}, r.env...)
		return cmtptest.RunInTerminal(t, &out, "env", append(append(env, r.program), args...)...)
	}
	question := regexp.MustCompile(`Send it\? y \(yes\), e \(edit\), d \(keep as a draft\): $`)
	term := at("send", "-a", script)
	if shown := term.Shows(t, regexp.MustCompile(`(?s)To: (.*)Send it\?.*: $`)); !strings.Contains(shown[0], "Attachment: editor, ") || !strings.Contains(shown[0], "By hand") {
		t.Errorf("it shows %q", shown)
	}
	term.Type(t, "d\n")
	status, shown := term.Ends(t)
	if status != 1 || !strings.Contains(shown, "kept as draft 1") {
		t.Fatalf("it ended with %d and shows %q", status, shown)
	}
	term = at("drafts", "send", "1")
	if status, shown = term.Ends(t); status != 0 || !strings.Contains(out.String(), "sent to "+atHome) {
		t.Fatalf("it ended with %d and shows %q\n%s", status, shown, out.String())
	}
	term = at("send")
	term.Shows(t, question)
	term.Type(t, "y\n")
	if status, shown = term.Ends(t); status != 0 || !strings.Contains(out.String(), "sent to "+atHome) {
		t.Fatalf("it ended with %d and shows %q\n%s", status, shown, out.String())
	}
	if got := r.must("list"); strings.Count(got, "By hand") != 2 {
		t.Errorf("the mailbox has\n%s", got)
	}
	if got := r.must("read", "1"); !strings.Contains(got, "\nThe secret text\n") {
		t.Errorf("it reads\n%s", got)
	}
	if left, err := os.ReadDir(runtime); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// TestReply_Unproven: who answers a letter that a stranger handed in is warned, in one line that the stranger has not
// written; and its fields, whatever they hold, make a letter that can be sent.
func TestReply_Unproven(t *testing.T) {
	r, _ := newReader(t, cmtptest.NewSite(t, nil))
	valid := strings.ToValidUTF8(hostile, "?")
	r.gets(&cmtp.Body{Time: 1_800_000_000, Subject: "rE: " + valid, ReplyTo: atHome, Text: []byte(valid + "\nthe text\n")}, "a"+valid)
	r.must("list")
	run := func(args ...string) (int, string) {
		cmd := r.command(args...)
		cmd.Stdin = strings.NewReader("answer")
		var b bytes.Buffer
		cmd.Stdout, cmd.Stderr = &b, &b
		err := cmd.Run()
		if cmd.ProcessState == nil {
			t.Fatal(err)
		}
		harmless(t, b.String(), "\n", 10000)
		return cmd.ProcessState.ExitCode(), b.String()
	}
	code, shown := run("reply", "1", "--to-reply-to")
	first, _, _ := strings.Cut(shown, "\n")
	if code != 0 || !strings.HasPrefix(first, "WARNING: nothing proves that the letter is from mallory@other.example") || !strings.HasSuffix(first, "whoever wrote it") {
		t.Fatalf("it ended with %d and shows %q", code, shown)
	}
	if code, shown = run("forward", "1", atHome); code != 0 {
		t.Fatalf("it ended with %d and shows %q", code, shown)
	}
	r.must("list")
	if got := r.must("read", "2", "--json"); !strings.Contains(got, `"subject": "rE: `) {
		t.Errorf("it reads %s", got)
	}
	if got := r.must("read", "3"); !strings.Contains(got, "Fwd: rE:") || !strings.Contains(got, "Attachment  1. ") {
		t.Errorf("it reads %s", got)
	}
}
