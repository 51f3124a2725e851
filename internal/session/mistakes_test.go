package session_test

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"cmtpd/internal/account"
	"cmtpd/internal/session"
)

// The mistakes of the implementation of 2017, each by its name
// (docs/protocol.md, section 13).

func TestMistake2017_UserNamesWalkOutOfTheMailFolder(t *testing.T) {
	s := serve(t, setup{})
	outside := filepath.Dir(s.dir)
	list := func() (names []string) {
		t.Helper()
		err := filepath.WalkDir(outside, func(path string, _ os.DirEntry, err error) error {
			names = append(names, path)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return names
	}
	before := list()
	for _, name := range []string{"../../etc", "../alice", "/etc/passwd", `..\..\etc`, "alice/../bob", "~/x", ".."} {
		c := s.dial(true)
		c.send(key(name, ""), login(name), login(name+"@cref.example"), "MAIL\x00"+message(t, to(name+"@cref.example"), sealed(name, 300<<10)))
		c.expect(strings.Repeat(failure(t), 4))
	}
	if after := list(); !slices.Equal(before, after) {
		t.Errorf("before:\n%s\nafter:\n%s", strings.Join(before, "\n"), strings.Join(after, "\n"))
	}

	// A name that is allowed and means something to a file system means nothing here.
	for _, name := range []string{"..", ".ssh", "-rf", "con", "a:b", "%2e%2e%2f", "$home", "*"} {
		addr := mustAddress(name + "@cref.example")
		if _, err := s.accounts.Add(account.NewRegistration(addr, vectorKey(t, "bob"), time.Now(), loadVectors().Xzibit.Good[0].Xzibit)); err != nil {
			t.Fatal(err)
		}
		for _, size := range []int{100, 300 << 10} {
			s.mail(message(t, to(addr.String()), sealed(name, size)), success(t))
		}
		if got := s.mailbox(addr.String()); len(got) != 2 {
			t.Errorf("%s has %d messages", addr, len(got))
		}
		for _, path := range list() {
			if strings.Contains(strings.TrimPrefix(path, outside), name) && name != "-rf" {
				t.Errorf("the name %q is part of the path %s", name, path)
			}
		}
	}
}

// Replies were as long as the buffer that they were made in. Here each has the
// length that its table says, and the end of the stream follows.
func TestMistake2017_RepliesLeakMemory(t *testing.T) {
	s := serve(t, setup{})
	const xzibit = 44 + 112
	for command, length := range map[string]int{
		"OHAI\x00":                   len("OHAI") + len(version) + 1,
		"NOOP\x00":                   len(version) + 1,
		"HELP\x00":                   len(help),
		key("", ""):                  keyReply,
		key("alice", "cref.example"): keyReply,
		key("nobody", ""):            wordReply,
		login("alice"):               xzibit + 64 + 1,
		login("nobody"):              wordReply,
		"MAIL\x00" + message(t, to("alice@cref.example"), sealed("x", 100)):  wordReply,
		"MAIL\x00" + message(t, to("nobody@cref.example"), sealed("x", 100)): wordReply,
		"OBAI\x00": 0,
	} {
		c := s.dial(true)
		c.send(command, "OBAI\x00")
		got, err := io.ReadAll(c)
		if err != nil || len(got) != length {
			t.Errorf("%.10q: a reply of %d bytes, %v; want %d", command, len(got), err, length)
		}
	}
}

// One reset connection killed the server, for everybody.
func TestMistake2017_ResetKillsTheServer(t *testing.T) {
	s := serve(t, setup{})
	large := "MAIL\x00" + message(t, to("alice@cref.example"), sealed("x", 300<<10))
	for _, sent := range []string{
		"", "N", "NOOP\x00", "KEYREQUEST\x00ali", "MAIL\x00", large[:30], large[:1000], large[:len(large)-1],
		strings.Repeat(key("alice", ""), 5000), // with the replies unread
		"MAIL\x00" + message(t, to("nobody@cref.example"), sealed("x", 2<<20))[:1<<20],
	} {
		for range 3 {
			c := s.dial(true)
			c.SetWriteDeadline(time.Now().Add(time.Second / 4)) // it need not take what it cannot answer
			io.WriteString(c, sent)
			if err := c.reset(); err != nil {
				t.Fatal(err)
			}
		}
	}
	c := s.dial(true)
	c.send(key("alice", ""))
	c.expect(vectorReply(t, "KEYREQUEST, alice"))
	if got := s.mailbox("alice@cref.example"); len(got) != 0 {
		t.Errorf("the mailbox has %d messages", len(got))
	}
}

// The server read a connection that had ended again and again. Here the clients
// of a whole crowd stop at every point that there is, and the server spends
// nothing on them until their time is over.
func TestMistake2017_VanishedClientSpinsACore(t *testing.T) {
	const wait = time.Second / 2
	s := serve(t, setup{edit: func(cfg *session.Config) { cfg.CommandTimeout, cfg.MessageGrace = wait, wait }})
	msg := "MAIL\x00" + message(t, to("alice@cref.example"), sealed("x", 5000))
	var silent []*peer
	for range 5 {
		for _, sent := range []string{"NOOP\x00", "NOOP\x00KEYREQUEST\x00ali", "NOOP\x00" + msg[:60], "NOOP\x00" + msg[:1000]} {
			c := s.dial(true)
			c.send(sent)
			c.expect(version + "\x00")
			silent = append(silent, c)
		}
	}
	begun, before := time.Now(), cpuTime(t)
	for _, c := range silent {
		c.expectEnd()
	}
	if spent := cpuTime(t) - before; spent > wait/2 {
		t.Errorf("%d silent clients cost %v of CPU in %v", len(silent), spent, time.Since(begun))
	}

	// One that has said that it will send no more is let go at once.
	c := s.dial(true)
	c.send("NOOP\x00KEYREQUEST\x00ali")
	c.CloseWrite()
	c.expect(version + "\x00")
	c.expectEnd()
}

// cpuTime returns what this process has spent.
func cpuTime(t *testing.T) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func TestMistake2017_ForeignMailForALocalNamesake(t *testing.T) {
	s := serve(t, setup{})
	before := s.files()
	for _, addr := range []string{"alice@other.example", "alice@cref.example.other.example", "alice@second.example", "carol@cref.example"} {
		s.mail(message(t, to(addr), sealed(addr, 100)), failure(t))
	}
	s.unchanged(before)
}

func TestMistake2017_MailForAnUnknownUserIsLost(t *testing.T) {
	s := serve(t, setup{})
	before := s.files()
	s.mail(message(t, to("nobody@cref.example"), sealed("x", 100)), failure(t))
	s.mail(message(t, to("nobody@cref.example"), sealed("x", 300<<10)), failure(t))
	if got := s.mailbox(""); len(got) > 0 {
		t.Errorf("the operator got %d messages", len(got))
	}
	s.unchanged(before)
}

// The buffer of a verb had eleven bytes, and the check for its end was behind it.
func TestMistake2017_ElevenBytesWithoutNUL(t *testing.T) {
	s := serve(t, setup{cmtpOnly: true})
	for _, n := range []int{10, 11, 12, 32} {
		c := s.dial(false)
		c.send(string(bytes.Repeat([]byte{'X'}, n)))
		c.send("\x00NOOP\x00")
		c.expect(failure(t) + version + "\x00")
	}
	c := s.dial(false)
	c.send(strings.Repeat("X", 11))
	c.CloseWrite()
	c.expectEnd()

	// On the shared port such a word is no protocol.
	shared := serve(t, setup{}).dial(true)
	shared.send("KEYREQUESTX\x00")
	shared.expect("500 5.5.2 ")
}
