package shorebird_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"cmtpd/internal/client/clienttest"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/shorebird"
)

// edits makes the person's editor one that does these things, one after the other, with what it is shown.
func (p *person) edits(steps ...func(text string) (string, error)) {
	runtime := filepath.Join(p.dir, "run")
	os.MkdirAll(runtime, 0o700)
	p.env["XDG_RUNTIME_DIR"] = runtime
	p.app.InIsTerminal = true
	p.app.Edit = func(path string) error {
		if len(steps) == 0 {
			p.t.Error("the editor is opened once more")
			return errors.New("no more")
		}
		step := steps[0]
		steps = steps[1:]
		for name, want := range map[string]os.FileMode{path: 0o600, filepath.Dir(path): 0o700} {
			if info, err := os.Stat(name); err != nil || info.Mode().Perm() != want || filepath.Dir(filepath.Dir(path)) != runtime {
				p.t.Errorf("%s: %v, %v", name, info.Mode(), err)
			}
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		text, err := step(string(b))
		return errors.Join(os.WriteFile(path, []byte(text), 0o600), err)
	}
	p.t.Cleanup(func() {
		if left, _ := os.ReadDir(runtime); len(left) > 0 && p.env["LEFT"] == "" {
			p.t.Errorf("%d files are left behind", len(left))
		}
		if len(steps) > 0 {
			p.t.Errorf("the editor was not opened %d times", len(steps))
		}
	})
}

func replace(pairs ...string) func(string) (string, error) {
	return func(text string) (string, error) {
		for i := 0; i < len(pairs); i += 2 {
			if !strings.Contains(text, pairs[i]) {
				return text, fmt.Errorf("there is no %q in %q", pairs[i], text)
			}
		}
		return strings.NewReplacer(pairs...).Replace(text), nil
	}
}

func (p *person) drafts() []shorebird.DraftReport {
	p.t.Helper()
	p.want(ok, "", []string{"drafts", "list", "--json"})
	var v shorebird.DraftsReport
	p.json(&v)
	return v.Drafts
}

// What was typed at the terminal, without an editor, is nowhere else: it is kept when it cannot be sent.
func TestSend_TypedIsKept(t *testing.T) {
	h := privateHouse(t, alice, bob)
	p := h.recovered(t, h.Start(t))
	p.app.InIsTerminal = true
	p.want(refused, "Dear nobody", []string{"send", nobody}, "kept as draft")
	if d := p.drafts(); len(d) != 1 || d[0].To[0] != nobody {
		t.Errorf("kept %+v", d)
	}
	p.want(ok, "Dear Bob", []string{"send", bob}, "sent to "+bob)
	p.want(refused, "", []string{"send", nobody})
	if d := p.drafts(); len(d) != 1 {
		t.Errorf("kept %+v", d)
	}
	p.app.InIsTerminal = false
	p.want(refused, "Dear nobody", []string{"send", nobody})
	if d := p.drafts(); len(d) != 1 {
		t.Errorf("a script's letter is kept: %+v", d)
	}
}

// A letter is composed, with what is wrong said in the file, and sent.
func TestSend_Composed(t *testing.T) {
	h := privateHouse(t, alice, bob, carol)
	p := h.recovered(t, h.Start(t))
	plan := p.write(filepath.Join(p.dir, "plan.txt"), "the plan")
	p.edits(
		replace("To: \n", "To: bob, "+carol+"\n", "Subject: \n", "Subject: Hello\nAttach: "+plan+"\nAttach: "+p.dir+"/none\nColour: red\n\nDear Bob\n"),
		replace("To: bob,", "To: "+bob+",", "Attach: "+p.dir+"/none\n", "", "Colour: red\n", "", "# NOT SENT: To: ", "#", "# NOT SENT: Attach: ", "#", "# NOT SENT: line 10", "#"),
		replace("Dear Bob", "Dear both"),
	)
	p.app.ErrIsTerminal = true
	asked := 0
	p.app.ReadLine = func(context.Context, string) ([]byte, error) {
		asked++
		return []byte([]string{"x", "e", "y"}[asked-1]), nil
	}
	p.want(ok, "", []string{"send"}, "To: "+bob+", "+carol, "Subject: Hello", "Attachment: plan.txt, 8 bytes, text/plain", "sent to "+bob)
	for to, l := range h.opened(t) {
		if l.Subject != "Hello" || string(l.Text) != "Dear both\n\n" && strings.TrimSpace(string(l.Text)) != "Dear both" || len(l.Attachments) != 1 {
			t.Errorf("%s got %+v with %q", to, l, l.Text)
		}
	}
	p.app.InIsTerminal = false
	if n := len(p.drafts()) + len(p.outbox()); n > 0 || h.sent(cmtp.Mail) != 3 { // and one is the copy
		t.Errorf("%d are left, %d were sent", n, h.sent(cmtp.Mail))
	}
}

// What is not sent is kept.
func TestSend_KeptAsDraft(t *testing.T) {
	h := privateHouse(t, alice, bob)
	p := h.recovered(t, h.Start(t))
	same := func(text string) (string, error) { return text, nil }
	fails := func(text string) (string, error) { return text + "half a text", errors.New("crashed") }
	for i, tt := range []struct {
		step func(string) (string, error)
		word string
	}{{same, "nothing was changed"}, {fails, "the editor failed: crashed"}, {replace("Subject: ", "Subject: no text"), "has no text"},
		{replace("To: ", "To: nonsense "), "has no text"}} {
		p.edits(tt.step)
		p.want(failure, "", []string{"send", bob, "-s", ""}, tt.word, fmt.Sprintf("draft %d", i+1))
	}
	p.edits(replace("\n\n", "\n\ntext"))
	p.app.ReadLine = func(context.Context, string) ([]byte, error) { return []byte("d"), nil }
	p.want(failure, "", []string{"send", bob}, "the letter is not sent", "draft 5")
	p.edits(same)
	p.want(failure, "", []string{"send"}, "nothing was changed")
	all := p.drafts()
	if len(all) != 5 || all[0].Number != 5 || all[0].To[0] != bob || all[2].Subject != "no text" || h.sent(cmtp.Mail) > 0 {
		t.Fatalf("kept %+v", all)
	}
	p.want(ok, "", []string{"drafts", "delete", "1", "3", "4"}, "removed: 3")
	p.want(failure, "", []string{"drafts", "delete", "1"}, "drafts list")
	p.want(failure, "", []string{"drafts", "send", "9"}, "drafts list")
	p.want(ok, "", []string{"drafts", "send", "5"}, "sent to "+bob)
	p.app.ReadLine = nil
	p.edits(replace("half a text", "a whole text"))
	p.want(ok, "", []string{"drafts", "edit", "2"}, "sent to "+bob)
	var texts []string
	for _, m := range h.Messages() {
		texts = append(texts, h.open(t, m))
	}
	if got := strings.Join(texts, " "); got != bob+":text "+bob+":a whole text" || len(p.drafts()) > 0 {
		t.Errorf("came %q; %d drafts are left", got, len(p.drafts()))
	}
}

// A draft of which nothing can be sent stays one; without a network it waits in the outbox instead.
func TestDrafts_Unsent(t *testing.T) {
	h := privateHouse(t, alice, bob)
	p := h.recovered(t, h.Start(t))
	p.edits(replace("\n\n", "\n\ntext"))
	p.want(refused, "", []string{"send", nobody}, "nothing was sent", "draft 1")
	if n := len(p.drafts()); n != 1 {
		t.Fatalf("%d drafts", n)
	}
	p.configure(fmt.Sprintf("account = %q\nserver = \"127.0.0.1:1\"\n", alice))
	p.want(temporary, "", []string{"drafts", "send", "1"}, "number 1")
	if n, m := len(p.drafts()), len(p.outbox()); n != 0 || m != 1 {
		t.Fatalf("%d drafts, %d letters in the outbox", n, m)
	}
}

// Where there is no account to keep it, what was written stays in its file.
func TestSend_ComposedWithoutAccount(t *testing.T) {
	h := newHouse(t, bob)
	where := h.Start(t)
	p := newPerson(t)
	p.edits(replace("\n\n", "\n\ntext"), replace("\n\n", "\n\ntext"))
	p.want(ok, "", []string{"send", bob, "--from", alice, "--server", where}, "sent to "+bob)
	p.env["LEFT"] = "1"
	p.want(refused, "", []string{"send", nobody, "--from", alice, "--server", where}, "What you wrote is in ")
	_, path, _ := strings.Cut(p.err.String(), "What you wrote is in ")
	path, _, _ = strings.Cut(path, "\n")
	if b, err := os.ReadFile(path); err != nil || !strings.HasSuffix(string(b), "\n\ntext") {
		t.Errorf("it has %q, %v", b, err)
	}
}

// A letter that turns out not to be fit for sealing is not left in the outbox; one that was composed is a draft again.
func TestSend_Unqueued(t *testing.T) {
	h := privateHouse(t, alice, bob)
	var file string
	var p *person
	var writing atomic.Bool // the two above are there
	h.Answer = func(_ *clienttest.Conn, cmd cmtp.Command) (bool, error) {
		if writing.Load() && cmd.Verb == cmtp.KeyRequest && string(cmd.User()) == "bob" {
			p.write(file, "another one")
		}
		return false, nil
	}
	p = h.recovered(t, h.Start(t))
	file = p.write(filepath.Join(p.dir, "plan"), "plan")
	writing.Store(true)
	p.want(failure, "x", []string{"send", bob, "-a", file}, "was changed since it was attached")
	if n, m := len(p.outbox()), len(p.drafts()); n+m > 0 {
		t.Errorf("%d letters and %d drafts are kept", n, m)
	}
	p.write(file, "plan")
	p.edits(replace("\n\n", "\n\ntext"))
	p.want(failure, "", []string{"send", bob, "-a", file}, "was changed since it was attached", "draft 3")
	if n, all := len(p.outbox()), p.drafts(); n > 0 || len(all) != 1 || all[0].Files[0] != "plan" || h.sent(cmtp.Mail) > 0 {
		t.Errorf("%d letters and %+v are kept", n, all)
	}
}
