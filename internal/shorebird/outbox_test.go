package shorebird_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"cmtpd/internal/client/clienttest"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/durable"
	"cmtpd/internal/shorebird"
)

// outbox returns the letters in the outbox.
func (p *person) outbox() []shorebird.OutboxLetter {
	p.t.Helper()
	p.want(ok, "", []string{"outbox", "list", "--json"})
	var v shorebird.OutboxReport
	p.json(&v)
	return v.Letters
}

// states returns the states of a letter's copies.
func states(l shorebird.OutboxLetter) (s string) {
	for _, c := range l.Copies {
		s += c.Address + " " + c.State + "\n"
	}
	return s
}

// swallow reads a whole message, as a server that stores it would, and says nothing.
func swallow(c *clienttest.Conn) ([]byte, error) {
	var t tee
	t.Reader = c.In
	m, err := cmtp.NewMessageReader(&t, 1<<30)
	if err == nil {
		_, err = io.Copy(io.Discard, m)
	}
	return t.got.Bytes(), err
}

// A tee keeps what is read through it.
type tee struct {
	*bufio.Reader
	got bytes.Buffer
}

func (t *tee) Read(b []byte) (int, error) {
	n, err := t.Reader.Read(b)
	t.got.Write(b[:n])
	return n, err
}

func (t *tee) ReadByte() (byte, error) {
	b, err := t.Reader.ReadByte()
	if err == nil {
		t.got.WriteByte(b)
	}
	return b, err
}

// A lost reply: the copy stays, and comes again with the same core digest.
func TestOutbox_LostReply(t *testing.T) {
	h := privateHouse(t, alice, bob, carol)
	var lose atomic.Bool
	var lost []byte
	h.Answer = func(c *clienttest.Conn, cmd cmtp.Command) (bool, error) {
		if cmd.Verb != cmtp.Mail || !lose.Load() {
			return false, nil
		}
		lost, _ = swallow(c)
		return true, io.EOF
	}
	p := h.recovered(t, h.Start(t))
	file := p.write(filepath.Join(p.dir, "plan"), strings.Repeat("plan", 1<<18))
	lose.Store(true)
	p.want(temporary, "x", []string{"send", bob, "-s", "once", "-a", file}, "in the outbox, with number 1")
	all := p.outbox()
	if len(all) != 1 || states(all[0]) != bob+" sealed\n" || all[0].Copies[0].Reason == "" || all[0].Subject != "once" {
		t.Fatalf("the outbox has %+v", all)
	}
	lose.Store(false)
	if err := os.Remove(file); err != nil { // it is not needed any more
		t.Fatal(err)
	}
	p.want(ok, "", []string{"outbox", "send"}, "sent to "+bob)
	first, _ := coreDigest(t, lost)
	again, _ := coreDigest(t, h.Messages()[0])
	if len(h.Messages()) != 1 || first != again || len(p.outbox()) != 0 {
		t.Errorf("%d messages came; as the one before: %v; %d wait", len(h.Messages()), first == again, len(p.outbox()))
	}
	p.want(ok, "", []string{"outbox", "send"}, "nothing waits")
}

// Without a network letters wait, and the next send takes them with it.
func TestOutbox_Offline(t *testing.T) {
	h := privateHouse(t, alice, bob, carol)
	where := h.Start(t)
	p := h.recovered(t, where)
	p.configure(fmt.Sprintf("account = %q\nserver = \"127.0.0.1:1\"\n", alice))
	p.want(temporary, "first", []string{"send", bob, carol}, "nothing was sent", "number 1")
	p.want(temporary, "second", []string{"send", bob, "--json"})
	var v shorebird.SendReport
	p.json(&v)
	if v.Outbox != 2 || len(v.Failed) != 1 || !v.Failed[0].Kept || v.Failed[0].Code != temporary {
		t.Errorf("got %+v", v)
	}
	p.want(temporary, "third", []string{"send", bob, "--no-outbox"})
	p.want(temporary, "", []string{"outbox", "send", "2"})
	if all := p.outbox(); len(all) != 2 || states(all[0]) != bob+" waiting\n"+carol+" waiting\n" {
		t.Fatalf("the outbox has %+v", all)
	}
	p.configure(fmt.Sprintf("account = %q\nserver = %q\n", alice, where))
	p.want(ok, "", []string{"outbox", "drop", "2"}, "removed: 1")
	p.want(failure, "", []string{"outbox", "drop", "2"}, "outbox list")
	p.want(ok, "fourth", []string{"send", carol}, "sent to "+carol, "2 copies were sent")
	var texts []string
	for _, m := range h.Messages() {
		texts = append(texts, h.open(t, m))
	}
	if got := strings.Join(texts, " "); got != carol+":fourth "+bob+":first "+carol+":first" || len(p.outbox()) != 0 {
		t.Errorf("came %q; %d wait", got, len(p.outbox()))
	}
	p.configure(fmt.Sprintf("account = %q\nserver = \"127.0.0.1:1\"\n", alice))
	p.want(temporary, "fifth", []string{"send", bob})
	p.configure(fmt.Sprintf("account = %q\nserver = %q\n", alice, where))
	p.want(ok, "sixth", []string{"send", carol}, "1 copy was sent")
}

// One of three keys is not to be had: nothing is sent, and nothing is kept.
func TestOutbox_FailedLookup(t *testing.T) {
	h := privateHouse(t, alice, bob, carol)
	p := h.recovered(t, h.Start(t))
	p.want(refused, "x", []string{"send", bob, nobody, carol}, "nothing was sent")
	if h.sent(cmtp.Mail) > 0 || len(p.outbox()) > 0 {
		t.Errorf("%d were sent, %d wait", h.sent(cmtp.Mail), len(p.outbox()))
	}
}

// What a server has refused stays, is not sent again by itself, and is sealed anew when asked for.
func TestOutbox_Refused(t *testing.T) {
	h := privateHouse(t, alice, bob, carol)
	var refuse atomic.Bool
	refuse.Store(true)
	h.Answer = func(c *clienttest.Conn, cmd cmtp.Command) (bool, error) {
		if cmd.Verb != cmtp.Mail || !refuse.Load() {
			return false, nil
		}
		b, err := swallow(c)
		if err != nil || !bytes.Contains(b[:100], []byte("bob")) {
			return true, c.Fail(cmtp.StatusTrouble, "later")
		}
		return true, c.Fail(cmtp.StatusNoAccount, "gone")
	}
	p := h.recovered(t, h.Start(t))
	p.want(refused, "x", []string{"send", bob, carol}, "2 of 2 copies were not sent")
	if all := p.outbox(); len(all) != 1 || states(all[0]) != bob+" refused\n"+carol+" sealed\n" {
		t.Fatalf("the outbox has %+v", all)
	}
	refuse.Store(false)
	p.want(ok, "", []string{"outbox", "send"}, "sent to "+carol)
	if all := p.outbox(); len(all) != 1 || states(all[0]) != bob+" refused\n"+carol+" sent\n" {
		t.Fatalf("the outbox has %+v", all)
	}
	p.want(ok, "", []string{"outbox", "send", "1", "--again"}, "sent to "+bob)
	if got := h.opened(t); len(got) != 2 || len(p.outbox()) != 0 {
		t.Errorf("%d came, %d wait", len(got), len(p.outbox()))
	}
}

// The longest letter that is kept, and one that is a byte longer.
func TestOutbox_TooLong(t *testing.T) {
	h := privateHouse(t, alice, bob, carol)
	h.Answer = func(_ *clienttest.Conn, cmd cmtp.Command) (bool, error) {
		if cmd.Verb != cmtp.Mail {
			return false, nil
		}
		return true, io.EOF
	}
	p := h.recovered(t, h.Start(t))
	file := p.write(filepath.Join(p.dir, "file"), strings.Repeat("x", 999))
	p.app.Kept = 2000
	p.want(temporary, "xy", []string{"send", bob, carol, "-a", file}, "nothing of it is kept")
	if all := p.outbox(); len(all) != 0 {
		t.Errorf("kept %+v", all)
	}
	p.want(temporary, "x", []string{"send", bob, carol, "-a", file}, "number 1")
}

// A file that is another one by the time that it is sealed goes to nobody.
func TestOutbox_OtherFile(t *testing.T) {
	h := privateHouse(t, alice, bob)
	where := h.Start(t)
	p := h.recovered(t, where)
	file := p.write(filepath.Join(p.dir, "file"), "as it was")
	p.configure(fmt.Sprintf("account = %q\nserver = \"127.0.0.1:1\"\n", alice))
	p.want(temporary, "x", []string{"send", bob, "-a", file})
	p.write(file, "not so")
	p.configure(fmt.Sprintf("account = %q\nserver = %q\n", alice, where))
	p.want(failure, "", []string{"outbox", "send"}, "was changed since it was attached")
	if all := p.outbox(); len(all) != 1 || states(all[0]) != bob+" waiting\n" || h.sent(cmtp.Mail) > 0 {
		t.Errorf("the outbox has %+v", all)
	}
}

const childVariable = "SHOREBIRD_TEST_CHILD"

// TestOutbox_Killed: the process is killed when the server has a message, and before it has said
// so: the first one, or the copy that the sender keeps. The next process sends the same bytes, and nothing but them.
func TestOutbox_Killed(t *testing.T) {
	if os.Getenv(childVariable) != "" {
		app := shorebird.System()
		app.Least, app.Params = cheap, cheap
		os.Exit(app.Run(t.Context(), []string{"send", bob, carol}))
	}
	outboxKilled(t, "bob", bob+" sealed\n"+carol+" sealed\n", 3)
	outboxKilled(t, "alice", bob+" sent\n"+carol+" sent\n", 1)
}

// outboxKilled kills a process with the message to this user on its way, after which the outbox has this and the same bytes come first
// of so many messages.
func outboxKilled(t *testing.T, to, left string, more int) {
	h := privateHouse(t, alice, bob, carol)
	var armed atomic.Bool
	came := make(chan []byte, 2)
	h.Answer = func(c *clienttest.Conn, cmd cmtp.Command) (bool, error) {
		if cmd.Verb != cmtp.Mail || !armed.Load() {
			return false, nil
		}
		if head, _ := c.In.Peek(24 + len(to)); !bytes.HasSuffix(head, []byte(to)) {
			return false, nil
		}
		b, _ := swallow(c)
		came <- b
		c.In.Peek(1) // the end
		return true, io.EOF
	}
	p := h.recovered(t, h.Start(t))
	armed.Store(true)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	child := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestOutbox_Killed$")
	child.Stdin = strings.NewReader("text")
	child.Env = append(os.Environ(), childVariable+"=1")
	for name, value := range p.env {
		child.Env = append(child.Env, name+"="+value)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	var first []byte
	select {
	case first = <-came:
	case <-ctx.Done():
		t.Fatal("nothing came")
	}
	child.Process.Kill()
	child.Wait()
	armed.Store(false)
	if all := p.outbox(); len(all) != 1 || states(all[0]) != left || all[0].Own.State != "sealed" {
		t.Fatalf("the outbox has %+v", all)
	}
	before := len(h.Server.Messages())
	p.want(ok, "", []string{"outbox", "send"})
	all := h.Server.Messages()[before:]
	if len(all) != more || !bytes.Equal(all[0], first) || len(p.outbox()) != 0 {
		t.Errorf("%d messages came, the first as before: %v", len(all), len(all) > 0 && bytes.Equal(all[0], first))
	}
	if len(h.Messages()) != 2 || len(h.copies()) != 1 {
		t.Errorf("in all %d letters and %d copies came", len(h.Messages()), len(h.copies()))
	}
}

// open returns whom a message is for, and its text.
func (h *house) open(t *testing.T, m []byte) string {
	t.Helper()
	to, l := h.letter(t, m)
	return to + ":" + string(l.Text)
}

// A letter that was to go directly does so later, too: the user's own server is not told of it.
func TestOutbox_Direct(t *testing.T) {
	own, theirs := privateHouse(t, alice), privateHouse(t, dora)
	where := own.Start(t)
	p := own.recovered(t, where)
	config := fmt.Sprintf("account = %q\nserver = %q\n", alice, where)
	p.want(temporary, "x", []string{"send", dora, "--direct", "--server", "127.0.0.1:1"}, "number 1")
	p.configure(config + fmt.Sprintf("[accounts.%q]\nserver = %q\n", "me@example.net", theirs.Start(t)))
	own.Wait()
	before := len(own.Verbs())
	p.want(ok, "", []string{"outbox", "send"}, "sent to "+dora)
	if own.Wait(); len(theirs.Messages()) != 1 || len(own.Verbs()) != before {
		t.Errorf("%d came, and her own server was asked %d times", len(theirs.Messages()), len(own.Verbs())-before)
	}
}

// Another process works with the keys while a letter is sent: the letter waits in the outbox.
func TestOutbox_KeysClaimed(t *testing.T) {
	h := privateHouse(t, alice)
	f := h.abroad(t)
	abroad := h.Answer
	var lock io.Closer
	var p *person
	h.Answer = func(c *clienttest.Conn, cmd cmtp.Command) (bool, error) {
		f.mu.Lock()
		proven := f.proven[c]
		f.mu.Unlock()
		if lock == nil && proven && cmd.Verb == cmtp.KeyRequest && string(cmd.Domain()) == "example.net" {
			lock, _ = durable.OS.Lock(p.data(alice + ".lock"))
		}
		return abroad(c, cmd)
	}
	p = h.recovered(t, h.Start(t))
	p.want(temporary, "x", []string{"send", dora, "--timeout", "300ms"}, "has locked", "number 1")
	if lock == nil {
		t.Fatal("nobody had the keys")
	}
	lock.Close()
	p.want(ok, "", []string{"outbox", "send"}, "queued for "+dora)
}
