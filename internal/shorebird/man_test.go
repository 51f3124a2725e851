package shorebird_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cmtpd/internal/cmtptest"
	"cmtpd/internal/shorebird"
)

// The manual has a page for each command, and says what the help says.
func TestMan(t *testing.T) {
	p := newPerson(t)
	dir := filepath.Join(p.dir, "man")
	p.env["SOURCE_DATE_EPOCH"] = "1700000000"
	p.want(ok, "", []string{"man", dir})
	for name, words := range map[string][]string{
		"shorebird":             {".TH \"SHOREBIRD\" 1 \"2023-11-14\"", "config.toml", ".SH EXIT STATUS", "   75  failed for now", ".BR shorebird\\-send (1)", `\-\-timeout`},
		"shorebird-send":        {".TP\n.B \\-a, \\-\\-attach FILE\n", ".TP\n.B \\-\\-json\n", ".BR shorebird (1)", "send seals a letter to each ADDRESS"},
		"shorebird-outbox-send": {".B shorebird outbox send [N]", ".BR shorebird\\-outbox (1)"},
		"shorebird-completion":  {"completion"},
	} {
		b, err := os.ReadFile(filepath.Join(dir, "man1", name+".1"))
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range words {
			if !strings.Contains(string(b), w) {
				t.Errorf("%s does not say %q:\n%s", name, w, b)
			}
		}
	}
	for _, none := range []string{"shorebird-man.1", "shorebird-help.1"} {
		if _, err := os.Stat(filepath.Join(dir, "man1", none)); err == nil {
			t.Errorf("there is a page %s", none)
		}
	}
	cmtptest.Mandoc(t, dir)
}

// Shells are told of commands and flags.
func TestCompletion(t *testing.T) {
	p := newPerson(t)
	p.want(ok, "", []string{"completion", "bash"}, "__start_shorebird")
	p.want(ok, "", []string{"__complete", "s"}, "send\t", "sync\t", "search\t")
	p.want(ok, "", []string{"__complete", "send", "--no"}, "--no-outbox\t")
	p.want(ok, "", []string{"__complete", "drafts", ""}, "edit\t", "send\t")
}

// What a shell would take for more than a word is not offered to it, whatever a stranger's address is: bash puts what several words begin with
// into the line unquoted.
func TestCompletion_Words(t *testing.T) {
	evil := []string{"$(id)a@" + strings.SplitAfter(bob, "@")[1], "--from=x@" + strings.SplitAfter(bob, "@")[1], "*@" + strings.SplitAfter(bob, "@")[1]}
	h := privateHouse(t, append(evil, alice, bob)...)
	p := h.device(t, h.Start(t))
	for _, a := range append(evil, bob) {
		p.want(ok, "", []string{"keys", "--", a})
	}
	p.mute()
	if p.want(ok, "", []string{"__complete", "send", ""}); p.out.String() != bob+"\tfirst contact\n:4\n" {
		t.Errorf("offered %q", p.out.String())
	}
	for word, want := range map[string]bool{"": true, "ann+x_y.z-1@example.org": true, "änne@example.org": true, "17": true, "-x@example.org": false, "=x": false, "~x": false,
		"a;b": false, "a`b": false, "a$b": false, "a'b": false, "a b": false, "a&b": false, "a|b": false, "a>b": false, "a{b": false, "a?b": false, "a!b": false, "a#b": false, "a\"b": false} {
		if shorebird.IsMereWord(word) != want {
			t.Errorf("%q is a mere word: %v", word, !want)
		}
	}
}

// A shell is told of contacts and accounts, with no server there and no password to be had; and of what is in the copy of
// the mailbox where a desktop has the keys.
func TestCompletion_Known(t *testing.T) {
	h := privateHouse(t, alice, bob, carol)
	where := h.Start(t)
	p := h.device(t, where)
	d := newDesktop()
	p.app.Desktop = d
	p.want(ok, "", []string{"recover", alice})
	p.want(ok, "", []string{"keys", bob})
	p.want(ok, "", []string{"keys", carol})
	p.configure(fmt.Sprintf("account = %q\nserver = \"127.0.0.1:1\"\n[accounts.\"me@example.net\"]\nserver = \"127.0.0.1:1\"\n", alice))
	p.want(temporary, "x", []string{"send", bob, "-s", "Waits"})
	p.edits(func(string) (string, error) {
		return "From: " + alice + "\nTo: " + bob + "\nSubject: Begun\n\ntext", errors.New("thinks better of it")
	})
	p.app.InIsTerminal = true
	p.want(failure, "", []string{"send"}, "draft")
	p.app.InIsTerminal = false
	p.mute()
	asked := len(h.Verbs())
	contacts := bob + "\tfirst contact\n" + carol + "\tfirst contact\n"
	own := alice + "\nme@example.net\n"
	for line, want := range map[string]string{
		"send": contacts, "keys": contacts, "trust show": contacts, "trust accept": contacts, "forward 1": contacts, "send --cc": contacts, "send --reply-to": contacts,
		"send " + bob: carol + "\tfirst contact\n", "keys " + bob: "", "send --from": own, "list --account": own, "passwd": own, "rotate": own, "recover": own, "unlock": own, "lock": own,
		"outbox send": "1\tWaits\n", "outbox drop": "1\tWaits\n", "outbox drop 1": "", "drafts edit": "2\tBegun\n", "drafts send": "2\tBegun\n", "drafts delete": "2\tBegun\n",
		"drafts edit 2": "",
	} {
		if p.want(ok, "", append(append([]string{"__complete"}, strings.Fields(line)...), "")); p.out.String() != want+":4\n" {
			t.Errorf("%s is offered %q", line, p.out.String())
		}
	}
	p.app.Desktop = nil
	p.atConsole()
	p.passwordFile(secret)
	p.want(ok, "", []string{"unlock"})
	p.mute()
	if p.want(ok, "", []string{"__complete", "outbox", "send", ""}); p.out.String() != "1\tWaits\n:4\n" {
		t.Errorf("unlocked, outbox send is offered %q", p.out.String())
	}
	p.want(ok, "", []string{"lock"})
	for line, want := range map[string]string{"send": contacts, "list --account": own, "outbox send": "", "drafts edit": "", "read": ""} {
		if p.want(ok, "", append(append([]string{"__complete"}, strings.Fields(line)...), "")); p.out.String() != want+":4\n" {
			t.Errorf("without a desktop %s is offered %q", line, p.out.String())
		}
	}
	if n := len(h.Verbs()) - asked; n > 0 {
		t.Errorf("the server was asked %d times", n)
	}
}
