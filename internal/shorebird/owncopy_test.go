package shorebird_test

import (
	"bytes"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"cmtpd/internal/client/clienttest"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/crypt"
	"cmtpd/internal/letter"
	"cmtpd/internal/shorebird"
)

// A kept letter is a copy of what a user of the house has sent.
type kept struct {
	*letter.Letter
	to string // whom the letter went to
}

// own returns the copy that a message is, and whether it is one.
func (h *house) own(m []byte) (k kept, ok bool) {
	layout, err := cmtp.ParseLayout(bytes.NewReader(m), int64(len(m)))
	if err != nil {
		return k, false
	}
	key := h.keys[layout.Header.DestinationAccount+"@"+layout.Header.DestinationDomain]
	if key == nil {
		return k, false
	}
	if k.Letter, err = letter.Open(bytes.NewReader(m), int64(len(m)), []*crypt.PrivateKey{key}); err != nil {
		return k, false
	}
	to := k.TakeCopy([]*crypt.PrivateKey{key})
	k.to = strings.Join(to, " ")
	return k, to != nil
}

// Messages are those that came, but for copies that users keep of what they have sent.
func (h *house) Messages() [][]byte {
	return slices.DeleteFunc(h.Server.Messages(), func(m []byte) bool { _, ok := h.own(m); return ok })
}

// copies are the others.
func (h *house) copies() (all []kept) {
	for _, m := range h.Server.Messages() {
		if k, ok := h.own(m); ok {
			all = append(all, k)
		}
	}
	return all
}

// Who sends a letter has a copy of it, with its attachments and whom it went to, unless they want none.
func TestSend_Copy(t *testing.T) {
	h := privateHouse(t, alice, bob, carol)
	where := h.Start(t)
	p := h.recovered(t, where)
	file := p.write(filepath.Join(p.dir, "plan"), "the plan")
	report := func() (v shorebird.SendReport) { p.json(&v); return v }
	p.want(ok, "Hello\n", []string{"send", bob, carol, alice, "-s", "A plan", "-a", file, "--cc", dora, "--json"})
	all := h.copies()
	if len(all) != 1 || report().Copy != "kept" || len(h.Messages()) != 3 {
		t.Fatalf("%d copies and %d letters came, and it says %+v", len(all), len(h.Messages()), report())
	}
	one := all[0]
	if one.to != bob+" "+carol+" "+alice || string(one.Text) != "Hello\n" || one.Subject != "A plan" || one.CC[0] != dora || len(one.Attachments) != 1 ||
		one.Header.SourceAccount+one.Header.DestinationAccount != "alicealice" || !slices.ContainsFunc(one.Log, crypt.IsSender) {
		t.Errorf("the copy is %+v", one)
	}
	for name, tt := range map[string]struct {
		config string
		args   []string
		copies int
		says   string
	}{
		"NoOutbox":  {"", []string{bob, "--no-outbox"}, 1, "kept"},
		"NoCopy":    {"", []string{bob, "--no-copy"}, 0, ""},
		"Setting":   {"sent_copies = false\n", []string{bob}, 0, ""},
		"Wanted":    {"sent_copies = true\n", []string{bob}, 1, "kept"},
		"ToOneself": {"", []string{alice}, 0, ""},
		"Guest":     {"", []string{bob, "--from", "eve@example.net"}, 0, ""},
	} {
		p.configure(fmt.Sprintf("account = %q\nserver = %q\n", alice, where) + tt.config)
		before := len(h.copies())
		p.want(ok, "x", append([]string{"send", "--json"}, tt.args...))
		if n := len(h.copies()) - before; n != tt.copies || report().Copy != tt.says {
			t.Errorf("%s: %d copies, %q", name, n, report().Copy)
		}
	}
	p.app.Kept = 9
	p.configure(fmt.Sprintf("account = %q\nserver = %q\n", alice, where))
	before := len(h.copies())
	p.want(ok, "xx", []string{"send", bob, "-a", file}, "sent to", "WARNING", "too long for a copy")
	p.want(ok, "x", []string{"send", bob, "-a", file, "--no-outbox"})
	if n := len(h.copies()) - before; n != 1 || len(p.outbox()) > 0 {
		t.Errorf("%d copies of what is too long, and of what just is not", n)
	}
}

// mailing answers MAIL by whom a message is from and to.
func (h *house) mailing(answer func(c *clienttest.Conn, own bool) (bool, error)) {
	h.Answer = func(c *clienttest.Conn, cmd cmtp.Command) (bool, error) {
		if cmd.Verb != cmtp.Mail {
			return false, nil
		}
		head, _ := c.In.Peek(64) // up to the addresses
		return answer(c, bytes.Contains(head, []byte("alice\x00example.org\x00alice\x00")))
	}
}

// A copy that the server refuses is a warning, and one that it cannot take now goes later; the letter is sent once, whatever becomes
// of it.
func TestSend_CopyRefused(t *testing.T) {
	for name, tt := range map[string]struct {
		status cmtp.Status
		says   string
		word   string
		waits  int
	}{
		"Full": {cmtp.StatusNoRoom, "refused", "your mailbox is full", 0}, "Refused": {cmtp.StatusSwitchedOff, "refused", "WARNING", 0},
		"Later": {cmtp.StatusTrouble, "later", "waits in the outbox", 1},
	} {
		h := privateHouse(t, alice, bob)
		var refuse atomic.Bool
		refuse.Store(true)
		h.mailing(func(c *clienttest.Conn, own bool) (bool, error) {
			if !own || !refuse.Load() {
				return false, nil
			}
			if _, err := swallow(c); err != nil {
				return true, err
			}
			return true, c.Fail(tt.status, "no")
		})
		p := h.recovered(t, h.Start(t))
		p.want(ok, "one", []string{"send", bob, "--json"})
		var v shorebird.SendReport
		p.json(&v)
		if v.Copy != tt.says || v.CopyError == "" || len(v.Failed) > 0 || (v.Outbox != 0) != (tt.waits > 0) {
			t.Errorf("%s: it says %+v", name, v)
		}
		p.want(ok, "two", []string{"send", bob}, "sent to "+bob, tt.word)
		if all := p.outbox(); len(all) != 2*tt.waits || tt.waits > 0 && (states(all[0]) != bob+" sent\n" || all[0].Own.State != "sealed") {
			t.Fatalf("%s: the outbox has %+v", name, all)
		}
		p.want(ok, "", []string{"outbox", "send"})
		if all := p.outbox(); len(all) != 2*tt.waits {
			t.Fatalf("%s: after another try the outbox has %+v", name, all)
		}
		refuse.Store(false)
		p.want(ok, "", []string{"outbox", "send"})
		if len(h.Messages()) != 2 || len(h.copies()) != 2*tt.waits || len(p.outbox()) > 0 {
			t.Errorf("%s: %d letters and %d copies came, %d wait", name, len(h.Messages()), len(h.copies()), len(p.outbox()))
		}
	}
}

// No copy is kept of a letter that nobody has got, and one of a letter that one of two has.
func TestSend_CopyOfFailed(t *testing.T) {
	h := privateHouse(t, alice, bob, carol)
	var mu sync.Mutex
	refused := []string{"bob", "carol"}
	h.Answer = func(c *clienttest.Conn, cmd cmtp.Command) (bool, error) {
		if cmd.Verb != cmtp.Mail {
			return false, nil
		}
		mu.Lock()
		defer mu.Unlock()
		head, _ := c.In.Peek(32)
		if !slices.ContainsFunc(refused, func(s string) bool { return bytes.Contains(head, []byte(s)) }) {
			return false, nil
		}
		if _, err := swallow(c); err != nil {
			return true, err
		}
		return true, c.Fail(cmtp.StatusTrouble, "later")
	}
	p := h.recovered(t, h.Start(t))
	p.want(temporary, "x", []string{"send", bob, carol, "--no-outbox"})
	p.want(temporary, "x", []string{"send", bob, carol})
	if n := len(h.copies()); n != 0 || p.outbox()[0].Own.State != "sealed" {
		t.Fatalf("%d copies of what nobody has, and %+v", n, p.outbox())
	}
	for i, left := range [][]string{{"carol"}, {}} {
		mu.Lock()
		refused = left
		mu.Unlock()
		p.run("", "outbox", "send")
		if all := h.copies(); len(all) != 1 || all[0].to != bob+" "+carol || len(h.Messages()) != i+1 {
			t.Errorf("%d letters and %d copies came", len(h.Messages()), len(all))
		}
	}
	if len(p.outbox()) > 0 {
		t.Error("it waits still")
	}
}

// The answer about the copy is lost: the same bytes come again, and nothing else does.
func TestSend_CopyLost(t *testing.T) {
	h := privateHouse(t, alice, bob)
	var lose atomic.Bool
	lose.Store(true)
	var lost []byte
	h.mailing(func(c *clienttest.Conn, own bool) (bool, error) {
		if !own || !lose.Swap(false) {
			return false, nil
		}
		lost, _ = swallow(c)
		return true, io.EOF
	})
	p := h.recovered(t, h.Start(t))
	p.want(ok, "x", []string{"send", bob}, "sent to "+bob, "waits in the outbox")
	p.want(ok, "", []string{"outbox", "list"}, "your own copy: sealed, ")
	p.want(ok, "", []string{"outbox", "send"})
	p.want(ok, "", []string{"outbox", "send"}, "nothing waits")
	all := h.Server.Messages()
	if len(all) != 2 || !bytes.Equal(all[1], lost) {
		t.Errorf("%d messages came", len(all))
	}
}
