package shorebird_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"cmtpd/internal/client/clienttest"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/crypt"
	"cmtpd/internal/letter"
	"cmtpd/internal/shorebird"
)

// opened returns the letters that came, opened by whom they were for.
func (h *house) opened(t *testing.T) map[string]*letter.Letter {
	t.Helper()
	all := map[string]*letter.Letter{}
	for _, m := range h.Messages() {
		to, l := h.letter(t, m)
		if all[to] != nil {
			t.Errorf("%s got two copies", to)
		}
		all[to] = l
	}
	return all
}

// letter returns a message, opened by whom it was for.
func (h *house) letter(t *testing.T, m []byte) (string, *letter.Letter) {
	t.Helper()
	layout, err := cmtp.ParseLayout(bytes.NewReader(m), int64(len(m)))
	if err != nil {
		t.Fatal(err)
	}
	to := layout.Header.DestinationAccount + "@" + layout.Header.DestinationDomain
	l, err := letter.Open(bytes.NewReader(m), int64(len(m)), []*crypt.PrivateKey{h.keys[to]})
	if err != nil {
		t.Fatalf("%s cannot open the letter: %v", to, err)
	}
	return to, l
}

func TestSend(t *testing.T) {
	h := newHouse(t, bob)
	p := newPerson(t)
	file := p.write(filepath.Join(p.dir, "plan.txt"), "the plan")
	empty := p.write(filepath.Join(p.dir, "empty"), "")
	p.want(ok, "Hello Bob,\n", []string{"send", bob, "--from", alice, "-s", "A plan", "-a", file, "-a", empty,
		"--reply-to", carol, "--cc", "dave@example.net", "--cc", carol, "--server", h.Start(t)},
		"sent to "+bob, h.keys[bob].Public().String(), "first contact")
	l := h.opened(t)[bob]
	if l == nil || len(l.Attachments) != 2 {
		t.Fatalf("got %+v", l)
	}
	data, err := io.ReadAll(io.NewSectionReader(l.Attachments[0].Data, 0, l.Attachments[0].Size))
	switch {
	case err != nil || l.Attachments[0].Name != "plan.txt" || string(data) != "the plan",
		l.Attachments[1].Name != "empty" || l.Attachments[1].Size != 0,
		l.Header.SourceAccount != "alice" || l.Subject != "A plan" || string(l.Text) != "Hello Bob,\n",
		l.ReplyTo != carol || strings.Join(l.CC, " ") != "dave@example.net "+carol || !l.Time.Equal(p.app.Now()):
		t.Errorf("got %+v, %q, %v", l, data, err)
	}
	if strings.Contains(p.err.String(), "Ctrl-D") || p.err.Len() > 0 {
		t.Errorf("talked although nobody listens: %q", p.err.String())
	}
}

func TestSend_JSON(t *testing.T) {
	h := newHouse(t, bob, carol)
	p := newPerson(t)
	p.configure("account = \"" + alice + "\"\n[servers]\n\"example.org\" = \"" + h.Start(t) + "\"")
	p.want(ok, "x", []string{"send", bob, carol, "Bob@Example.Org", "--json"})
	var got shorebird.SendReport
	p.json(&got)
	if got.From != alice || len(got.Sent) != 2 || len(got.Failed) != 0 {
		t.Fatalf("got %+v", got)
	}
	for i, to := range []string{bob, carol} {
		s := got.Sent[i]
		if s.Address != to || s.Key != b64(h.keys[to].Public()) || s.Bytes != int64(len(h.Messages()[i])) {
			t.Errorf("got %+v", s)
		}
	}
	if len(h.opened(t)) != 2 {
		t.Errorf("%d copies came", len(h.Messages()))
	}
	if n := h.sent(cmtp.KeyRequest); n != 3 {
		t.Errorf("%d keys were asked for, want the server's and two", n)
	}
}

// The 2017 client sent a letter sealed to the previous recipient's key after a
// look-up had failed.
func TestSend_NothingAfterAFailedLookup(t *testing.T) {
	mallory := clienttest.Key(t)
	unsigned := func(c *clienttest.Conn, cmd cmtp.Command) (bool, error) {
		if string(cmd.User()) != "nobody" {
			return false, nil
		}
		k := mallory.Public()
		return true, c.Reply(cmtp.AppendKey(nil, k, mallory.Sign(k[:])))
	}
	vanishes := func(_ *clienttest.Conn, cmd cmtp.Command) (bool, error) {
		if string(cmd.User()) != "nobody" {
			return false, nil
		}
		return true, io.EOF
	}
	tests := map[string]struct {
		answer func(*clienttest.Conn, cmtp.Command) (bool, error)
		code   int
	}{
		"Refused": {nil, refused}, "WrongSignature": {unsigned, trust}, "Vanishes": {vanishes, temporary},
	}
	for name, tt := range tests {
		for _, to := range [][]string{{bob, nobody}, {nobody, bob}, {bob, nobody, carol}, {nobody}} {
			t.Run(name, func(t *testing.T) {
				h := newHouse(t, bob, carol)
				h.Answer = tt.answer
				p := newPerson(t)
				p.want(tt.code, "secret", append([]string{"send", "--from", alice, "--server", h.Start(t)}, to...), "nothing was sent")
				if n := h.sent(cmtp.Mail); n > 0 {
					t.Errorf("%d letters were sent to %q", n, to)
				}
			})
		}
	}
}

// One copy is refused: the others go out, and it is said which one did not.
func TestSend_OneRefused(t *testing.T) {
	h := newHouse(t, bob, carol)
	var first atomic.Bool
	first.Store(true)
	h.Answer = func(c *clienttest.Conn, cmd cmtp.Command) (bool, error) {
		if cmd.Verb != cmtp.Mail || !first.Swap(false) {
			return false, nil
		}
		r, err := cmtp.NewMessageReader(c.In, 1<<20)
		if err == nil {
			_, err = io.Copy(io.Discard, r)
		}
		return true, errors.Join(err, c.Word(cmtp.Failure))
	}
	p := newPerson(t)
	where := h.Start(t)
	p.want(refused, "x", []string{"send", bob, carol, "--from", alice, "--server", where},
		"sent to "+carol, "not sent to "+bob, "1 of 2 copies were not sent", "the server refused")
	if got := h.opened(t); got[carol] == nil || got[bob] != nil {
		t.Errorf("%d copies came", len(got))
	}
	first.Store(true)
	p.want(refused, "x", []string{"send", bob, carol, "--from", alice, "--server", where, "--json"})
	var report shorebird.SendReport
	p.json(&report)
	if len(report.Sent) != 1 || len(report.Failed) != 1 || report.Failed[0].Address != bob {
		t.Errorf("got %+v", report)
	}
}

// A server that refuses a large letter early is heard while it is being sent.
func TestSend_RefusedEarly(t *testing.T) {
	h := newHouse(t, bob)
	h.Answer = func(c *clienttest.Conn, cmd cmtp.Command) (bool, error) {
		if cmd.Verb != cmtp.Mail {
			return false, nil
		}
		if err := c.Word(cmtp.Failure); err != nil {
			return true, err
		}
		<-t.Context().Done() // and reads nothing more
		return true, io.EOF
	}
	p := newPerson(t)
	file := p.write(filepath.Join(p.dir, "large"), "")
	if err := os.Truncate(file, 64<<20); err != nil {
		t.Fatal(err)
	}
	p.want(refused, "x", []string{"send", bob, "--from", alice, "-a", file, "--server", h.Start(t)}, "the server refused", "too large")
}

// The server that is called anew after a pause has to be the same one.
func TestSend_ServerChangesBetween(t *testing.T) {
	h := newHouse(t, bob)
	other := clienttest.Key(t)
	p := newPerson(t)
	now := p.app.Now()
	p.app.Now = func() time.Time { now = now.Add(time.Hour); return now } // a long pause before everything
	asked := 0
	h.Answer = func(c *clienttest.Conn, cmd cmtp.Command) (bool, error) {
		if cmd.Verb != cmtp.KeyRequest || len(cmd.User()) > 0 {
			return false, nil
		}
		if asked++; asked == 1 {
			return false, nil
		}
		k := other.Public()
		return true, c.Reply(cmtp.AppendKey(nil, k, other.Sign(k[:])))
	}
	p.want(trust, "x", []string{"send", bob, "--from", alice, "--server", h.Start(t)}, "the server's key has changed", "while this was running")
	if n := h.sent(cmtp.Mail); n > 0 {
		t.Errorf("%d letters were sent", n)
	}
}

func TestSend_Attachments(t *testing.T) {
	h := newHouse(t, bob)
	where := h.Start(t)
	p := newPerson(t)
	for path, word := range map[string]string{
		p.dir: "directory", "/dev/null": "device", filepath.Join(p.dir, "not here"): "no such file",
	} {
		p.want(failure, "x", []string{"send", bob, "--from", alice, "-a", path, "--server", where}, word)
	}
	if n := len(h.Verbs()); n > 0 {
		t.Errorf("%d commands were sent for a letter that could not be written", n)
	}
}

func TestSend_Text(t *testing.T) {
	h := newHouse(t, bob)
	where := h.Start(t)
	p := newPerson(t)
	args := []string{"send", bob, "--from", alice, "--server", where}
	p.want(failure, strings.Repeat("x", 16<<20+1), args, "the text is too long", "-a FILE")
	p.want(failure, "\xff", args, "not UTF-8")
	if n := h.sent(cmtp.Mail); n > 0 {
		t.Fatalf("%d letters were sent", n)
	}
	p.want(ok, strings.Repeat("x", 16<<20), args)
	if l := h.opened(t)[bob]; l == nil || len(l.Text) != 16<<20 {
		t.Error("the longest text did not come")
	}
}

// At a terminal there is a word on how to end, and a bar for long work; else
// neither.
func TestSend_Terminal(t *testing.T) {
	h := newHouse(t, bob)
	where := h.Start(t)
	p := newPerson(t)
	file := p.write(filepath.Join(p.dir, "large"), "")
	if err := os.Truncate(file, 8<<20); err != nil {
		t.Fatal(err)
	}
	args := []string{"send", bob, "--from", alice, "-a", file, "--server", where}
	p.app.InIsTerminal, p.app.ErrIsTerminal = true, true
	p.want(ok, "x", args, "end with Ctrl-D")
	if !strings.Contains(p.err.String(), "sending") {
		t.Errorf("no bar in %q", p.err.String())
	}
	p.want(ok, "x", append(args, "--json"))
	if p.err.Len() > 0 {
		t.Errorf("a script was told %q", p.err.String())
	}
	p.app.InIsTerminal, p.app.ErrIsTerminal = false, false
	p.want(ok, "x", args)
	if p.err.Len() > 0 {
		t.Errorf("a file was told %q", p.err.String())
	}
}

// Ctrl-C ends the program although the terminal still waits for a text.
func TestSend_Interrupted(t *testing.T) {
	h := newHouse(t, bob)
	where := h.Start(t)
	p := newPerson(t)
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	defer w.Close()
	go func() {
		w.Write([]byte("Dear ")) // is taken once the program reads
		cancel()
	}()
	if code := p.runContext(ctx, r, "send", bob, "--from", alice, "--server", where); code != interrupted {
		t.Errorf("ended with %d: %s", code, p.err.String())
	}
	if n := h.sent(cmtp.Mail); n > 0 {
		t.Errorf("%d letters were sent", n)
	}
}

// Servers are sent to at the same time: each takes its letter when both have one.
func TestSend_AtOnce(t *testing.T) {
	one, two := newHouse(t, bob), newHouse(t, "ben@example.net")
	both := make(chan struct{})
	var came atomic.Int32
	for _, h := range []*house{one, two} {
		h.Answer = func(_ *clienttest.Conn, cmd cmtp.Command) (bool, error) {
			if cmd.Verb != cmtp.Mail {
				return false, nil
			}
			if came.Add(1) == 2 {
				close(both)
			}
			select {
			case <-both:
			case <-time.After(time.Minute):
				t.Error("one letter waits for the other")
			}
			return false, nil
		}
	}
	p := newPerson(t)
	p.configure("[servers]\n\"example.org\" = \"" + one.Start(t) + "\"\n\"example.net\" = \"" + two.Start(t) + "\"")
	p.want(ok, "x", []string{"send", bob, "ben@example.net", "--from", alice}, "sent to "+bob, "sent to ben@example.net")
}

// Sealing and sending of all copies is one bar, which never goes back.
func TestSend_OneBar(t *testing.T) {
	h := privateHouse(t, alice, bob, carol)
	p := h.recovered(t, h.Start(t))
	file := p.write(filepath.Join(p.dir, "large"), strings.Repeat("x", 4<<20))
	p.app.ErrIsTerminal = true
	p.want(ok, "x", []string{"send", alice, bob, carol, "-a", file})
	last, n := 0, 0
	for _, m := range regexp.MustCompile(`(\d+)%`).FindAllStringSubmatch(p.err.String(), -1) {
		percent := must(strconv.Atoi(m[1]))
		if percent < last {
			t.Errorf("it goes back to %d from %d", percent, last)
		}
		last, n = percent, n+1
	}
	if n < 2 {
		t.Errorf("%d steps were shown, the last at %d percent", n, last)
	}
	if len(h.opened(t)) != 3 {
		t.Error("not all came")
	}
}
