package session_test

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"cmtpd/internal/cmtp"
	"cmtpd/internal/session"
	"cmtpd/internal/spool"
)

// The commands of the mailbox, as a client writes them.
func listBytes(q cmtp.ListQuery) string { return boxBytes(cmtp.List, q.Append(nil)) }
func changesBytes(q cmtp.ChangesQuery) string {
	return boxBytes(cmtp.Changes, q.Append(nil))
}
func fetchBytes(q cmtp.FetchQuery) string { return boxBytes(cmtp.Fetch, q.Append(nil)) }
func waitBytes(q cmtp.WaitQuery) string   { return boxBytes(cmtp.Wait, q.Append(nil)) }
func deleteBytes(n ...uint64) string {
	return boxBytes(cmtp.Delete, cmtp.AppendForm(nil, cmtp.AppendDeleteForm(nil, n)))
}

func flagBytes(items ...cmtp.FlagItem) string {
	var b []byte
	for i := range items {
		b = items[i].Append(b)
	}
	return boxBytes(cmtp.Flag, cmtp.AppendForm(nil, b))
}

func boxBytes(v cmtp.Verb, behind []byte) string { return v.String() + "\x00" + string(behind) }

// reader is a client in the channel that has proven to be alice.
func (s *server) reader() *insider {
	s.tb.Helper()
	c := s.inside()
	c.auth("alice@cref.example", vectorKey(s.tb, "alice"))
	return c
}

// deliver sends alice a message as a stranger does, and returns it.
func (s *server) deliver(seed string, size int) string {
	s.tb.Helper()
	m := message(s.tb, to("alice@cref.example"), sealed(seed, size))
	c := s.dial(true)
	c.send("MAIL\x00", m)
	c.expect(success(s.tb))
	c.Close()
	return m
}

func (c *insider) state() cmtp.MailboxState {
	c.tb.Helper()
	s, err := cmtp.ParseMailboxState(c.want(cmtp.StatusDone, "MAILBOX\x00"))
	if err != nil {
		c.tb.Fatal(err)
	}
	return s
}

func (c *insider) list() []cmtp.Entry {
	c.tb.Helper()
	q := cmtp.ListQuery{Count: cmtp.MaxEntries}
	p, err := cmtp.ParseList(c.want(cmtp.StatusDone, listBytes(q)), q)
	if err != nil {
		c.tb.Fatal(err)
	}
	return p.Entries
}

// news reads what answers a WAIT.
func (c *insider) news(q cmtp.WaitQuery) *cmtp.Page {
	c.tb.Helper()
	p, err := cmtp.ParseChanges(c.expect(cmtp.StatusDone, "WAIT"), q.Changes())
	if err != nil {
		c.tb.Fatal(err)
	}
	return p
}

// waiting begins a wait behind all there is, and returns once the server waits.
func (c *insider) waiting(s *server, seconds uint32) cmtp.WaitQuery {
	c.tb.Helper()
	st := c.state()
	q := cmtp.WaitQuery{Epoch: st.Epoch, Change: st.Change, Seconds: seconds}
	before := s.boxes.Waiting()
	c.send(waitBytes(q))
	for end := time.Now().Add(patience); s.boxes.Waiting() == before; runtime.Gosched() {
		if time.Now().After(end) {
			c.tb.Fatal("the server does not wait")
		}
	}
	return q
}

// Nothing of the mailbox is for strangers, in the clear or inside; their forms are read past.
func TestMailbox_Strangers(t *testing.T) {
	s := serve(t, setup{})
	s.deliver("a", 100)
	all := []string{"MAILBOX\x00", listBytes(cmtp.ListQuery{Count: 1}), changesBytes(cmtp.ChangesQuery{Count: 1}), fetchBytes(cmtp.FetchQuery{Number: 2, Length: 1}),
		flagBytes(cmtp.FlagItem{Number: 2, Mask: 1}), deleteBytes(2), waitBytes(cmtp.WaitQuery{Seconds: 1})}
	c := s.inside()
	for _, cmd := range all {
		c.want(cmtp.StatusNotProven, cmd)
	}
	c.want(cmtp.StatusDone, "NOOP\x00")
	c.auth("bob@cref.example", vectorKey(t, "bob"))
	if st := c.state(); st.Messages != 0 {
		t.Errorf("bob has %+v", st)
	}
	for _, cmd := range all {
		p := s.dial(true)
		p.send(cmd)
		p.expect(failure(t))
		if hasForm := strings.HasPrefix(cmd, "FLAG") || strings.HasPrefix(cmd, "DELETE"); hasForm {
			p.expectEnd()
		} else {
			p.send("NOOP\x00")
			p.expect(version + "\x00")
		}
	}
	if n := len(s.mailbox("alice@cref.example")); n != 1 {
		t.Errorf("alice has %d messages", n)
	}
}

// Each parameter that is none is refused with its status, and the session is in step.
func TestMailbox_Refusals(t *testing.T) {
	s := serve(t, setup{})
	m := s.deliver("a", 100)
	c := s.reader()
	n := c.list()[0].Number
	for name, tt := range map[string]struct {
		status  cmtp.Status
		command string
	}{
		"Direction":    {cmtp.StatusBadParameter, "LIST\x00\x02" + string(make([]byte, 11)) + "\x01"},
		"ListNone":     {cmtp.StatusBadParameter, listBytes(cmtp.ListQuery{})},
		"List1001":     {cmtp.StatusBadParameter, listBytes(cmtp.ListQuery{Count: 1001})},
		"List1000":     {cmtp.StatusDone, listBytes(cmtp.ListQuery{Count: 1000})},
		"Changes1001":  {cmtp.StatusBadParameter, changesBytes(cmtp.ChangesQuery{Count: 1001})},
		"Wait0":        {cmtp.StatusBadParameter, waitBytes(cmtp.WaitQuery{})},
		"Wait1741":     {cmtp.StatusBadParameter, waitBytes(cmtp.WaitQuery{Seconds: 1741})},
		"NoSuch":       {cmtp.StatusNoMessage, fetchBytes(cmtp.FetchQuery{Number: n + 1, Length: 1})},
		"Zero":         {cmtp.StatusNoMessage, fetchBytes(cmtp.FetchQuery{Length: 1})},
		"Huge":         {cmtp.StatusNoMessage, fetchBytes(cmtp.FetchQuery{Number: math.MaxUint64, Length: 1})},
		"BehindItsEnd": {cmtp.StatusBadParameter, fetchBytes(cmtp.FetchQuery{Number: n, Offset: uint64(len(m)) + 1})},
		"AtItsEnd":     {cmtp.StatusDone, fetchBytes(cmtp.FetchQuery{Number: n, Offset: uint64(len(m)), Length: 9})},
		"Mask":         {cmtp.StatusBadParameter, flagBytes(cmtp.FlagItem{Number: n, Mask: 1 << 16})},
		"OutsideMask":  {cmtp.StatusBadParameter, flagBytes(cmtp.FlagItem{Number: n, Mask: 1, Flags: 2})},
		"FlagCut":      {cmtp.StatusBadParameter, boxBytes(cmtp.Flag, []byte{0, 0, 0, 1, 7})},
		"FlagNone":     {cmtp.StatusDone, flagBytes()},
		"DeleteCut":    {cmtp.StatusBadParameter, boxBytes(cmtp.Delete, []byte{0, 0, 0, 1, 7})},
		"Delete1001":   {cmtp.StatusBadParameter, deleteBytes(make([]uint64, 1001)...)},
		"Delete1000":   {cmtp.StatusDone, deleteBytes(make([]uint64, 1000)...)},
	} {
		c.send(tt.command)
		if got, b := c.reply(); got != tt.status {
			t.Errorf("%s: %d %.60q, want %d", name, got, b, tt.status)
		}
	}
	c.want(cmtp.StatusDone, "NOOP\x00")
	c.send(boxBytes(cmtp.Flag, binary.BigEndian.AppendUint32(nil, cmtp.MaxForm+1)))
	c.expect(cmtp.StatusBadParameter, "a form that is too long")
	c.expectEnd()
}

// A user reads all of a mailbox, flags and deletes in it, with all commands sent at once.
func TestMailbox_Pipelined(t *testing.T) {
	s := serve(t, setup{})
	small, large := s.deliver("small", 100), s.deliver("large", 400<<10)
	c := s.reader()
	e := c.list()
	if len(e) != 2 || e[0].Length != uint64(len(small)) || e[1].Header.SourceAccount != "bob" || e[0].Standing != cmtp.StandingClaimed {
		t.Fatalf("%+v", e)
	}
	whole := func(i int) cmtp.FetchQuery { return cmtp.FetchQuery{Number: e[i].Number, Length: math.MaxUint64} }
	go io.WriteString(c, fetchBytes(whole(0))+fetchBytes(whole(1))+flagBytes(cmtp.FlagItem{Number: e[0].Number, Mask: 1, Flags: 1})+fetchBytes(whole(1))+
		fetchBytes(cmtp.FetchQuery{Number: e[1].Number, Offset: 5, Length: 7})+deleteBytes(e[0].Number)+listBytes(cmtp.ListQuery{Count: 9})+fetchBytes(whole(0)))
	for i, want := range []string{small, large} {
		if got := c.expect(cmtp.StatusDone, "FETCH"); string(got) != want {
			t.Errorf("message %d has %d bytes", i, len(got))
		}
	}
	r, err := cmtp.ParseFlagResults(c.expect(cmtp.StatusDone, "FLAG"), 1)
	if err != nil || r[0].Status != cmtp.StatusDone || r[0].Change <= e[1].Change {
		t.Errorf("%+v, %v", r, err)
	}
	if got := c.expect(cmtp.StatusDone, "FETCH"); string(got) != large {
		t.Error("the large message is another one")
	}
	if got := c.expect(cmtp.StatusDone, "FETCH"); string(got) != large[5:12] {
		t.Errorf("a part of it is %q", got)
	}
	if n, err := cmtp.ParseDeleted(c.expect(cmtp.StatusDone, "DELETE"), 1); n != 1 || err != nil {
		t.Error(n, err)
	}
	c.expect(cmtp.StatusDone, "LIST")
	c.expect(cmtp.StatusNoMessage, "FETCH")
	if got := c.list(); len(got) != 1 || got[0].Number != e[1].Number {
		t.Errorf("%+v are left", got)
	}
}

// What the user of a source's account submits is told from what others bring.
func TestMailbox_Standing(t *testing.T) {
	s := serve(t, setup{})
	c := s.inside()
	c.auth("bob@cref.example", vectorKey(t, "bob"))
	h := to("alice@cref.example")
	h.SourceDomain = "cref.example"
	c.want(cmtp.StatusDone, "MAIL\x00"+message(t, h, sealed("own", 100)))
	c.want(cmtp.StatusDone, "MAIL\x00"+message(t, to("alice@cref.example"), sealed("foreign", 100)))
	p := s.dial(true) // and in the clear, where this server takes it
	p.send("MAIL\x00", message(t, h, sealed("clear", 100)))
	p.expect(success(t))
	want := []cmtp.Standing{cmtp.StandingSubmitted, cmtp.StandingClaimed, cmtp.StandingClaimed}
	e := s.reader().list()
	for i := range want {
		if len(e) != len(want) || e[i].Standing != want[i] {
			t.Fatalf("%d: %+v", i, e)
		}
	}
}

// Damage that shows beforehand is refused, and the session goes on; damage that shows on the way
// ends it before the payload is whole.
func TestMailbox_Damage(t *testing.T) {
	s := serve(t, setup{})
	for _, seed := range []string{"in the log", "large"} {
		size := map[string]int{"in the log": 20 << 10, "large": 400 << 10}[seed]
		m := s.deliver(seed, size)
		c := s.reader()
		e := c.list()
		n := e[len(e)-1].Number
		flip(t, filepath.Join(s.dir, "spool"), m[len(m)-50:])
		c.send(fetchBytes(cmtp.FetchQuery{Number: n, Length: 1 << 40}))
		if size < 256<<10 {
			c.expect(cmtp.StatusTrouble, "FETCH")
			c.want(cmtp.StatusDone, "NOOP\x00")
			continue
		}
		_, length, err := cmtp.ReadReplyHead(c, 1<<40)
		if err != nil || length != uint64(len(m)) {
			t.Fatal(length, err)
		}
		if b, err := io.ReadAll(c); err != nil || len(b) >= len(m) {
			t.Errorf("%d of %d bytes have come, %v", len(b), len(m), err)
		}
		c = s.reader()
		c.want(cmtp.StatusTrouble, fetchBytes(cmtp.FetchQuery{Number: n, Length: 1}))
		c.want(cmtp.StatusDone, "NOOP\x00")
	}
}

// flip changes a bit of what is somewhere below dir.
func flip(t *testing.T, dir, what string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "l*", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if i := strings.Index(string(b), what); i >= 0 {
			f, err := os.OpenFile(file, os.O_WRONLY, 0)
			if err == nil {
				_, err = f.WriteAt([]byte{b[i] ^ 1}, int64(i))
				err = errors.Join(err, f.Close())
			}
			if err != nil {
				t.Fatal(err)
			}
			return
		}
	}
	t.Fatal("it is nowhere")
}

// A wait is ended by whatever is new, and costs no goroutine.
func TestMailbox_Wait_News(t *testing.T) {
	s := serve(t, setup{})
	s.deliver("first", 100)
	c, other := s.reader(), s.reader()
	n := c.list()[0].Number
	goroutines := runtime.NumGoroutine()
	for name, do := range map[string]func(){
		"Delivery": func() { s.deliver("second", 100) },
		"Flag":     func() { other.want(cmtp.StatusDone, flagBytes(cmtp.FlagItem{Number: n, Mask: 4, Flags: 4})) },
		"Delete":   func() { other.want(cmtp.StatusDone, deleteBytes(other.list()[1].Number)) },
	} {
		if name == "Delete" {
			s.deliver("to be deleted", 200)
		}
		q := c.waiting(s, 1740)
		if now := runtime.NumGoroutine(); now > goroutines {
			noneLeft(t, goroutines)
		}
		do()
		p := c.news(q)
		if len(p.Entries) != 1 || p.Entries[0].Removed != (name == "Delete") || (p.Entries[0].Flags == 4) != (name == "Flag") {
			t.Errorf("%s: %+v", name, p)
		}
	}
	// What is new already is told at once.
	q := cmtp.WaitQuery{Epoch: c.state().Epoch, Seconds: 1740}
	c.send(waitBytes(q))
	if p := c.news(q); len(p.Entries) < 2 {
		t.Errorf("%+v", p)
	}
	if n := s.boxes.Waiting(); n != 0 {
		t.Errorf("%d wait still", n)
	}
}

// Who is woken while the answer is on its way already is not ended by that later.
func TestMailbox_Wait_WokenTwice(t *testing.T) {
	s := serve(t, setup{})
	s.deliver("first", 100)
	c := s.reader()
	alice, err := s.accounts.Get(mustAddress("alice@cref.example"))
	if err != nil {
		t.Fatal(err)
	}
	over, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-over:
				return
			default:
				s.boxes.Tell(spool.MailboxID(alice.ID))
			}
		}
	}()
	for range 50 {
		q := cmtp.WaitQuery{Epoch: c.state().Epoch, Seconds: 1740}
		c.send(waitBytes(q))
		if p := c.news(q); len(p.Entries) != 1 {
			t.Errorf("%+v", p)
		}
		c.want(cmtp.StatusDone, "NOOP\x00")
	}
	close(over)
	<-ended
}

// A wait ends without news by its time, by the next command, and by a byte of filler.
func TestMailbox_Wait_Ends(t *testing.T) {
	s := serve(t, setup{edit: func(c *session.Config) { c.CommandTimeout = 500 * time.Millisecond }})
	c := s.reader()
	began := time.Now()
	q := c.waiting(s, 1)
	if p := c.news(q); len(p.Entries) != 0 || time.Since(began) < time.Second {
		t.Errorf("after %v: %+v", time.Since(began), p)
	}
	q = c.waiting(s, 1740)
	c.send("\x00")
	c.news(q)
	q = c.waiting(s, 1740)
	c.send("NOOP\x00")
	c.news(q)
	c.expect(cmtp.StatusDone, "NOOP")
	c.send(waitBytes(q), "NOOP\x00") // in one write
	c.news(q)
	c.expect(cmtp.StatusDone, "NOOP")
	_, payload := c.reply() // the time of a command runs again
	if !strings.Contains(string(payload), "ends this session") {
		t.Errorf("%q", payload)
	}
	c.expectEnd()
}

// Who waits is told when the server stops, when the session has lasted long enough, and when the
// account is disabled; one that is gone leaves nothing behind.
func TestMailbox_Wait_Over(t *testing.T) {
	s := serve(t, setup{})
	c, gone := s.reader(), s.reader()
	c.waiting(s, 1740)
	gone.waiting(s, 1740)
	gone.below.Close()
	for end := time.Now().Add(patience); s.boxes.Waiting() > 1 && time.Now().Before(end); {
		runtime.Gosched()
	}
	if n := s.boxes.Waiting(); n != 1 {
		t.Errorf("%d wait", n)
	}
	if err := s.accounts.SetDisabled(mustAddress("alice@cref.example"), true); err != nil {
		t.Fatal(err)
	}
	c.expect(cmtp.StatusNotProven, "WAIT")
	c.want(cmtp.StatusNotProven, "MAILBOX\x00")
	if err := s.accounts.SetDisabled(mustAddress("alice@cref.example"), false); err != nil {
		t.Fatal(err)
	}
	c.waiting(s, 1740)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- s.front.Shutdown(ctx) }()
	c.expect(cmtp.StatusClosing, "WAIT")
	c.expectEnd()
	if err := <-done; err != nil {
		t.Errorf("Shutdown: %v", err)
	}
	s.stop()

	s = serve(t, setup{edit: func(c *session.Config) { c.SessionTimeout = 2 * time.Second }})
	c = s.reader()
	c.waiting(s, 1740)
	c.expect(cmtp.StatusClosing, "WAIT")
	c.expectEnd()
}

// As many wait as may, and one more is told to come again.
func TestMailbox_Wait_Limits(t *testing.T) {
	s := serve(t, setup{waits: 2})
	a, b, c := s.reader(), s.reader(), s.reader()
	a.waiting(s, 1740)
	q := b.waiting(s, 1740)
	c.want(cmtp.StatusTooOften, waitBytes(q))
	b.send("\x00")
	b.news(q)
	c.waiting(s, 1740)
	s.deliver("news", 100)
	for _, who := range []*insider{a, c} {
		if p := who.news(q); len(p.Entries) != 1 {
			t.Errorf("%+v", p)
		}
	}
}

// A client that does not read what it has asked for is left, and costs no memory that grows.
func TestMailbox_Fetch_NotRead(t *testing.T) {
	s := serve(t, setup{edit: func(c *session.Config) {
		c.MaxMessage, c.MessageGrace, c.MinRate, c.CommandTimeout = 64<<20, 300*time.Millisecond, 1<<20, time.Hour
	}})
	s.deliver("large", 32<<20)
	c := s.reader()
	c.below.SetReadBuffer(4 << 10)
	before := s.log.String()
	c.send(strings.Repeat(fetchBytes(cmtp.FetchQuery{Number: c.list()[0].Number, Length: 1 << 40}), 50))
	for end := time.Now().Add(patience); !strings.Contains(s.log.String()[len(before):], "was not sent to its end"); runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatal("the session goes on")
		}
	}
}
