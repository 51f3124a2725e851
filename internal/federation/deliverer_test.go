package federation_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cmtpd/internal/client/clienttest"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/crypt"
	"cmtpd/internal/federation"
	"cmtpd/internal/queue"
)

// Two servers that never heard of each other exchange messages by name alone.
func TestDeliverer(t *testing.T) {
	w := newWorld(t)
	a := w.site("a.example", "127.0.0.2", options{}, "alice")
	b := w.site("b.example", "127.0.0.3", options{}, "bob")
	items := []queue.Item{
		a.queued("alice", "bob@b.example", "", 100), a.queued("alice", "nobody@b.example", "", 100),
		a.queued("alice", "Bob+x@B.example", "note\x00", 5<<20),
	}
	results, err := a.deliver("b.example", items...)
	if err != nil || len(results) != 3 {
		t.Fatalf("%+v, %v", results, err)
	}
	for i, want := range []queue.Outcome{queue.Delivered, queue.Permanent, queue.Delivered} {
		if results[i].Outcome != want {
			t.Errorf("message %d: %+v", i, results[i])
		}
	}
	if r := results[1]; r.Status != uint16(cmtp.StatusNoAccount) || !strings.Contains(r.Text, "no such account") {
		t.Errorf("the refusal is %+v", r)
	}
	head := b.spool.Head()
	if r := results[2].Receipt; r.Host != "mx.b.example" || r.Head != head || time.Since(r.At) > patience || results[0].Receipt.Head == head {
		t.Errorf("the receipts are %+v and %+v", results[0].Receipt, r)
	}
	if box := b.box("bob"); len(box) != 2 {
		t.Fatalf("bob has %d messages", len(box))
	}
	vouched(t, a, b, []queue.Item{items[0], items[2]})
	// Sent again, it is known by its digest.
	if again, err := a.deliver("b.example", items[0]); err != nil || again[0].Outcome != queue.Delivered || len(b.box("bob")) != 2 {
		t.Errorf("again: %+v, %v", again, err)
	}
}

// What had mail is kept for good; who was only asked for a key is not.
func TestDeliverer_Remembered(t *testing.T) {
	w := newWorld(t)
	a := w.site("a.example", "127.0.0.2", options{}, "alice")
	w.site("b.example", "127.0.0.3", options{}, "bob")
	mail := func() bool {
		t.Helper()
		s, err := a.trust.Known(domain("b.example"))
		if err != nil || s == nil {
			t.Fatalf("%+v, %v", s, err)
		}
		return s.Mail
	}
	kept, met := func() bool { return a.peers.Kept(domain("b.example")) }, func() bool { return a.peers.Met(domain("b.example")) }
	if kept() || met() {
		t.Errorf("before all: %v, %v", kept(), met())
	}
	if _, err := lookup(t, keysOf(a), "bob@b.example"); err != nil || mail() || kept() || !met() {
		t.Errorf("asked: %v, %v, %v, %v", err, mail(), kept(), met())
	}
	if _, err := a.deliver("b.example", a.queued("alice", "bob@b.example", "", 100)); err != nil || !mail() || !kept() || !met() {
		t.Errorf("given mail: %v, %v, %v, %v", err, mail(), kept(), met())
	}
}

// vouched checks what a's logs say of its items in bob's mailbox, of which the second had an
// entry before.
func vouched(t *testing.T, a, b *site, items []queue.Item) {
	t.Helper()
	box := b.box("bob")
	for i, m := range box {
		standing, err := b.peers.CheckOrigin(t.Context(), &m.Header, m.Log, m.info.Digest, nil, visitor)
		if standing != federation.Unverified || err != nil {
			t.Errorf("of a stranger: %v, %v", standing, err)
		}
		from := &federation.Remote{Domain: a.domain, Key: a.key.Public()}
		if standing, err = b.peers.CheckOrigin(t.Context(), &m.Header, m.Log, m.info.Digest, from, visitor); standing != federation.Unverified || err != nil {
			t.Errorf("by a stranger: %v, %v", standing, err)
		}
		entries := cmtp.LogEntries(m.Log)
		own := len(entries) - 2
		r, err := crypt.ParseReceived(entries[own])
		want := crypt.Received{By: "mx.a.example", From: "192.0.2.7", At: crypt.UnixTimeOf(a.clock.now()), ID: items[i].ID.String(), With: "CMTP1"}
		if err != nil || r != want || own != i {
			t.Errorf("the log is %q", entries)
		}
	}
	// Once b has met a, it knows who vouches.
	p, err := b.peers.Open(t.Context(), a.domain)
	if err != nil {
		t.Fatal(err)
	}
	p.Close()
	for _, m := range box {
		if standing, err := b.peers.CheckOrigin(t.Context(), &m.Header, m.Log, m.info.Digest, nil, visitor); standing != federation.Proven || err != nil {
			t.Errorf("of a domain that is known: %v, %v", standing, err)
		}
		m.info.Digest[0]++
		if standing, err := b.peers.CheckOrigin(t.Context(), &m.Header, m.Log, m.info.Digest, nil, visitor); err == nil {
			t.Errorf("for another message: %v", standing)
		}
	}
}

// What would break a bound of the log, or go in a circle, is given up without a word to the
// other side.
func TestDeliverer_Log(t *testing.T) {
	w := newWorld(t)
	a := w.site("a.example", "127.0.0.2", options{}, "alice")
	b := w.site("b.example", "127.0.0.3", options{}, "bob")
	hop := (&crypt.Received{By: "x", From: "y", At: 1, ID: "z", With: "CMTP1"}).String() + "\x00"
	first := a.queued("alice", "bob@b.example", "", 100)
	if r, err := a.deliver("b.example", first); err != nil || r[0].Outcome != queue.Delivered {
		t.Fatalf("%+v, %v", r, err)
	}
	own := len(b.box("bob")[0].Log) // what is added
	room := cmtp.MaxLog - own
	for what, tt := range map[string]struct {
		log  string
		want string // of the reason; empty: delivered
	}{
		"29 servers":       {strings.Repeat(hop, 29), ""},
		"30 servers":       {strings.Repeat(hop, 30), "circle"},
		"30 odd entries":   {strings.Repeat("received\x00", 30), "circle"},
		"full":             {strings.Repeat("a", room-1) + "\x00", ""},
		"one byte too far": {strings.Repeat("a", room) + "\x00", "no room"},
		"vouched for":      {"origin d=x.example t=1 s=\x00", "origin"},
	} {
		t.Run(what, func(t *testing.T) {
			before := len(b.box("bob"))
			r, err := a.deliver("b.example", a.queued("alice", "bob@b.example", tt.log, 100))
			if err != nil || len(r) != 1 {
				t.Fatal(r, err)
			}
			if tt.want != "" {
				if r[0].Outcome != queue.Permanent || !strings.Contains(r[0].Text, tt.want) || len(b.box("bob")) != before {
					t.Errorf("%+v", r[0])
				}
				return
			}
			box := b.box("bob")
			if r[0].Outcome != queue.Delivered || len(box) != before+1 || !strings.HasPrefix(string(box[before].Log), tt.log) {
				t.Errorf("%+v", r[0])
			}
		})
	}
	if r, err := a.deliver("b.example", a.put(outgoing, cmtp.Header{System: cmtp.SystemSealed, SourceAccount: "eve", SourceDomain: "c.example",
		DestinationAccount: "bob", DestinationDomain: "b.example"}, "", make([]byte, 48))); err != nil || r[0].Outcome != queue.Permanent {
		t.Errorf("of another domain: %+v, %v", r, err)
	}
}

// One that is gone does not keep the others back.
func TestDeliverer_Gone(t *testing.T) {
	w := newWorld(t)
	a := w.site("a.example", "127.0.0.2", options{}, "alice")
	w.site("b.example", "127.0.0.3", options{}, "bob")
	items := []queue.Item{a.queued("alice", "bob@b.example", "", 100), {ID: 4711}, a.queued("alice", "bob@b.example", "", 100)}
	r, err := a.deliver("b.example", items...)
	if err != nil || len(r) != 3 || r[0].Outcome != queue.Delivered || r[1].Outcome != queue.Temporary || r[2].Outcome != queue.Delivered {
		t.Errorf("%+v, %v", r, err)
	}
}

// What is not as it was stored is not sent.
func TestDeliverer_Damaged(t *testing.T) {
	w := newWorld(t)
	a := w.site("a.example", "127.0.0.2", options{}, "alice")
	b := w.site("b.example", "127.0.0.3", options{}, "bob")
	item := a.queued("alice", "bob@b.example", "", 1<<20)
	files, err := filepath.Glob(filepath.Join(a.dir, "spool", "large", "*"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	data, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 1
	if err := os.WriteFile(files[0], data, 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := a.deliver("b.example", item)
	if err != nil || len(r) != 1 || r[0].Outcome != queue.Temporary || len(b.box("bob")) != 0 {
		t.Errorf("%+v, %v", r, err)
	}
}

// fake starts a server of tests for a domain, at an address that its DNS names.
func (w *world) fake(d, ip string, private bool) *clienttest.Server {
	w.t.Helper()
	s := clienttest.NewServer(w.t)
	s.Private = private
	w.publish("%s. 600 MX 10 mx.%s.\nmx.%s. 600 A %s", d, d, d, ip)
	return s
}

func (w *world) start(s *clienttest.Server, ip string) *clienttest.Server {
	w.lead(ip, s.Start(w.t))
	return s
}

// A server that speaks only CMTP 0.01 says yes or no, and why it never does.
func TestDeliverer_Part1(t *testing.T) {
	w := newWorld(t)
	a := w.site("a.example", "127.0.0.2", options{}, "alice")
	s := w.fake("b.example", "127.0.0.3", false)
	n := 0
	s.Answer = func(c *clienttest.Conn, cmd cmtp.Command) (bool, error) {
		if cmd.Verb != cmtp.Mail {
			return false, nil
		}
		m, err := cmtp.NewMessageReader(c.In, 1<<30)
		if err == nil {
			_, err = io.Copy(io.Discard, m)
		}
		if n++; err == nil && n == 2 {
			return true, c.Word(cmtp.Failure)
		}
		return true, errors.Join(err, c.Word(cmtp.Success))
	}
	w.start(s, "127.0.0.3")
	items := []queue.Item{a.queued("alice", "bob@b.example", "", 100), a.queued("alice", "bob@b.example", "", 100), a.queued("alice", "bob@b.example", "", 100)}
	r, err := a.deliver("b.example", items...)
	if err != nil || len(r) != 3 {
		t.Fatalf("%+v, %v", r, err)
	}
	if r[0].Outcome != queue.Delivered || r[0].Receipt != (queue.Receipt{Host: "mx.b.example"}) || r[2].Outcome != queue.Delivered {
		t.Errorf("%+v", r)
	}
	if r[1].Outcome != queue.Temporary || r[1].Status != 0 || !strings.Contains(r[1].Text, "without giving a reason") {
		t.Errorf("%+v", r[1])
	}
	for what, tt := range map[string]struct {
		after time.Duration
		want  queue.Outcome
	}{"a second before a day": {federation.RefusedFor - time.Second, queue.Temporary}, "a day": {federation.RefusedFor, queue.Permanent}} {
		n = 1
		item := items[1]
		item.State.First = w.clock.now().Add(-tt.after)
		if r, err := a.deliver("b.example", item); err != nil || r[0].Outcome != tt.want {
			t.Errorf("%s: %+v, %v", what, r, err)
		}
	}
}

// A connection that breaks leaves what was answered, and the rest for later.
func TestDeliverer_Breaks(t *testing.T) {
	for _, private := range []bool{true, false} {
		t.Run(fmt.Sprint("private ", private), func(t *testing.T) {
			w := newWorld(t)
			a := w.site("a.example", "127.0.0.2", options{}, "alice")
			s := w.fake("b.example", "127.0.0.3", private)
			n := 0
			s.Answer = func(c *clienttest.Conn, cmd cmtp.Command) (bool, error) {
				if cmd.Verb != cmtp.Mail {
					return false, nil
				}
				if n++; n > 2 {
					return true, io.EOF
				}
				return false, nil
			}
			w.start(s, "127.0.0.3")
			var items []queue.Item
			for range 20 {
				items = append(items, a.queued("alice", "bob@b.example", "", 100))
			}
			r, err := a.deliver("b.example", items...)
			if err == nil || len(r) != 2 || r[0].Outcome != queue.Delivered || r[1].Outcome != queue.Delivered {
				t.Errorf("%+v, %v", r, err)
			}
		})
	}
}

// A server that takes a message and never answers is given up when its time is over, and
// what it has said before counts.
func TestDeliverer_Slow(t *testing.T) {
	for _, private := range []bool{true, false} {
		t.Run(fmt.Sprint("private ", private), func(t *testing.T) {
			w := newWorld(t)
			a := w.site("a.example", "127.0.0.2", options{meet: func(c *federation.Config) { c.SendGrace = 200 * time.Millisecond }}, "alice")
			s := w.fake("b.example", "127.0.0.3", private)
			n := 0
			s.Answer = func(c *clienttest.Conn, cmd cmtp.Command) (bool, error) {
				if cmd.Verb != cmtp.Mail {
					return false, nil
				}
				if n++; n > 1 {
					<-t.Context().Done()
					return true, io.EOF
				}
				return false, nil
			}
			w.start(s, "127.0.0.3")
			began := time.Now()
			r, err := a.deliver("b.example", a.queued("alice", "bob@b.example", "", 100), a.queued("alice", "bob@b.example", "", 100))
			if err == nil || err.Error() != "the server takes messages too slowly" || len(r) != 1 || time.Since(began) > patience/2 {
				t.Errorf("%+v, %v, after %v", r, err, time.Since(began))
			}
		})
	}
}

// What a sender reads of a domain whose servers fail in several ways is about one that spoke.
func TestDeliverer_Words(t *testing.T) {
	w := newWorld(t)
	a := w.site("a.example", "127.0.0.2", options{}, "alice")
	w.publish("b.example. 600 MX 1 x.b.example.\nb.example. 600 MX 2 y.b.example.\nx.b.example. 600 A 127.0.0.3\ny.b.example. 600 A 127.0.0.4")
	w.lead("127.0.0.4", saying(t, busy))
	_, err := a.deliver("b.example")
	if r := failure(t, err); r.Outcome != queue.Temporary || r.Text != `y.b.example: the server turned us away: "421 4.3.2 too busy"` {
		t.Errorf("%+v", r)
	}
}

// Statuses mean what their first digit says, and their words are shown as words.
func TestDeliverer_Statuses(t *testing.T) {
	w := newWorld(t)
	a := w.site("a.example", "127.0.0.2", options{}, "alice")
	s := w.fake("b.example", "127.0.0.3", true)
	var status cmtp.Status
	s.Answer = func(c *clienttest.Conn, cmd cmtp.Command) (bool, error) {
		if cmd.Verb != cmtp.Mail {
			return false, nil
		}
		m, err := cmtp.NewMessageReader(c.In, 1<<30)
		if err == nil {
			_, err = io.Copy(io.Discard, m)
		}
		return true, errors.Join(err, c.Fail(status, "not \u202e now \U0001f600"+strings.Repeat("x", 1000)))
	}
	w.start(s, "127.0.0.3")
	item := a.queued("alice", "bob@b.example", "", 100)
	for st, want := range map[cmtp.Status]queue.Outcome{450: queue.Temporary, 499: queue.Temporary, 500: queue.Permanent, 599: queue.Permanent} {
		status = st
		r, err := a.deliver("b.example", item)
		if err != nil || r[0].Outcome != want || r[0].Status != uint16(st) {
			t.Errorf("%d: %+v, %v", st, r, err)
			continue
		}
		if strings.Contains(r[0].Text, "\u202e") || !strings.HasPrefix(r[0].Text, "not \ufffd now") || len(r[0].Text) > 512 {
			t.Errorf("the words are %q", r[0].Text)
		}
	}
}
