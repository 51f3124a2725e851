package main_test

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"cmtpd/internal/cmtptest"
)

const (
	addPrompt   = "New password for alice@" + cmtptest.Domain + ": "
	againPrompt = "Once more: "
)

// atTerminal runs cmtpd on a site in a terminal.
func atTerminal(t *testing.T, site *cmtptest.Site, out *bytes.Buffer, args ...string) *cmtptest.Terminal {
	t.Helper()
	return cmtptest.RunInTerminal(t, out, site.Command, append(args, "--config", site.Config)...)
}

// TestUserAdd_Terminal: a password is asked for twice and never shown.
func TestUserAdd_Terminal(t *testing.T) {
	t.Parallel()
	site := cmtptest.NewSite(t, nil)
	var out bytes.Buffer
	term := atTerminal(t, site, &out, "user", "add", "alice@"+cmtptest.Domain)
	term.Answer(t, addPrompt, cmtptest.Password)
	term.Answer(t, againPrompt, cmtptest.Password)
	status, shown := term.Ends(t)
	equal(t, "exit status", status, 0)
	if all := shown + out.String(); strings.Contains(all, cmtptest.Password) {
		t.Errorf("the password was shown: %q", all)
	}
	if !strings.Contains(out.String(), "alice@"+cmtptest.Domain) {
		t.Errorf("it printed %q", out.String())
	}

	// It is the password that was typed, in two tries: who stops the program meanwhile has a terminal that shows what is
	// typed, and is asked anew.
	term = atTerminal(t, site, &out, "user", "passwd", "alice@"+cmtptest.Domain)
	term.Asked(t, "Present password of alice@"+cmtptest.Domain+": ")
	term.Type(t, "half\x1a") // Ctrl-Z
	term.Stopped(t)
	if !term.Echoes(t) {
		t.Error("a stopped program leaves a terminal that does not show what is typed")
	}
	term.Continue(t)
	term.Shows(t, regexp.MustCompile("(?s)Present password of .*Present password of .*: $"))
	term.Answer(t, "Present password of alice@"+cmtptest.Domain+": ", cmtptest.Password)
	term.Answer(t, addPrompt, "another one")
	term.Answer(t, againPrompt, "another one")
	if status, shown = term.Ends(t); status != 0 || strings.Contains(shown, "another one") {
		t.Errorf("passwd ended with %d and showed %q", status, shown)
	}
}

// TestUserAdd_TerminalRefuses: two passwords that differ, none at all, and a person
// who thinks better of it, add nobody, and leave the terminal as it was.
func TestUserAdd_TerminalRefuses(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		do   func(*testing.T, *cmtptest.Terminal)
		want string
	}{
		{"differ", func(t *testing.T, term *cmtptest.Terminal) {
			term.Answer(t, addPrompt, "one")
			term.Answer(t, againPrompt, "other")
		}, "the two passwords differ"},
		{"empty", func(t *testing.T, term *cmtptest.Terminal) { term.Answer(t, addPrompt, "") }, "the password is empty"},
		{"interrupt", func(t *testing.T, term *cmtptest.Terminal) {
			term.Asked(t, addPrompt)
			term.Type(t, "half\x03")
		}, "interrupted"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			site := cmtptest.NewSite(t, nil)
			var out bytes.Buffer
			term := atTerminal(t, site, &out, "user", "add", "alice@"+cmtptest.Domain)
			tt.do(t, term)
			status, shown := term.Ends(t)
			equal(t, "exit status", status, 1)
			if !strings.Contains(shown, tt.want) {
				t.Errorf("it showed %q, want %q", shown, tt.want)
			}
			if !term.Echoes(t) {
				t.Error("the terminal shows nothing any more")
			}
			equal(t, "users", strings.TrimSpace(site.Must(t, "", "user", "list", "--json")), "[]")
		})
	}
}

// TestUserRemove_Terminal: a person is told what is lost before being asked, with a daemon and
// without one.
func TestUserRemove_Terminal(t *testing.T) {
	t.Parallel()
	site := cmtptest.NewSite(t, nil)
	site.AddUsers(t, "alice", "bob")
	remove := func(name, answer, says string, want int) {
		t.Helper()
		var out bytes.Buffer
		term := atTerminal(t, site, &out, "user", "remove", name+"@"+cmtptest.Domain)
		term.Type(t, answer+"\n")
		status, shown := term.Ends(t)
		if status != want || !strings.Contains(shown, says) || strings.Index(shown, says) > strings.Index(shown, "Forget it? [y/N] ") {
			t.Errorf("it ended with %d, and showed %q", status, shown)
		}
	}
	remove("alice", "no", "The mailbox is empty.", 1) // there is no spool
	d := site.Start(t)
	for seed := range uint64(2) {
		if err := cmtptest.Deliver(t.Context(), d.Shared[0], &cmtptest.Letter{To: "alice", Parts: []cmtptest.Noise{{Seed: seed, Length: 500}}}); err != nil {
			t.Fatal(err)
		}
	}
	remove("bob", "no", "The mailbox is empty.", 1)
	remove("alice", "no", "The mailbox holds 2 messages, ", 1)
	d.Stop(t)
	remove("alice", "y", "The mailbox holds 2 messages, ", 0)
	if out := site.Must(t, "", "user", "list"); strings.Contains(out, "alice@") {
		t.Errorf("alice is still there: %s", out)
	}
}

// TestSpoolRepair_Terminal: a person is asked, and "no" and silence change nothing.
func TestSpoolRepair_Terminal(t *testing.T) {
	t.Parallel()
	site := cmtptest.NewSite(t, nil)
	site.AddUsers(t, "alice")
	d := site.Start(t)
	if err := cmtptest.Deliver(t.Context(), d.Shared[0], &cmtptest.Letter{To: "alice", Parts: []cmtptest.Noise{{Seed: 1, Length: 500}}}); err != nil {
		t.Fatal(err)
	}
	d.Stop(t)
	segment := filepath.Join(site.Data, "spool", "log", "0000000000000001.seg")
	b, err := os.ReadFile(segment)
	if err != nil {
		t.Fatal(err)
	}
	b[200] ^= 1 // in the record of the keys
	if err := os.WriteFile(segment, b, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		answer string
		status int
	}{{"", 1}, {"no", 1}, {"y", 0}} {
		var out bytes.Buffer
		term := atTerminal(t, site, &out, "spool", "repair")
		term.Type(t, tt.answer+"\n") // the terminal keeps it until it is read
		status, shown := term.Ends(t)
		equal(t, "exit status of "+tt.answer, status, tt.status)
		if !strings.Contains(shown, "Repair it? [y/N] ") {
			t.Errorf("it asked %q", shown)
		}
		after, err := os.ReadFile(segment)
		if err != nil || bytes.Equal(after, b) != (tt.status != 0) {
			t.Errorf("%q: %v, changed: %v\n%s%s", tt.answer, err, !bytes.Equal(after, b), out.String(), shown)
		}
	}
	site.Must(t, "", "spool", "verify")
	site.Start(t).Stop(t)
}
