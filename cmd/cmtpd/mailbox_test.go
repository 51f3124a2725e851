package main_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"cmtpd/internal/address"
	"cmtpd/internal/client"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/cmtptest"
)

// sealedBody is as much as cannot be told from a sealed box.
type sealedBody []byte

func (b sealedBody) Size() int64 { return int64(len(b)) }

func (b sealedBody) WriteTo(w io.Writer) (int64, error) {
	n, err := w.Write(b)
	return int64(n), err
}

// note has alice write to herself, so that the message is as long as said.
func note(ch *client.Channel, who address.Address, length int) error {
	h := cmtp.Header{System: cmtp.SystemSealed, DestinationAccount: who.Account.String(), DestinationDomain: who.Domain.String(),
		SourceAccount: who.Account.String(), SourceDomain: who.Domain.String(), LogLength: 1}
	body := make(sealedBody, length-len(h.Append(nil))-1)
	if _, err := rand.Read(body); err != nil {
		return err
	}
	return again(ch, h, body)
}

// again sends a message, perhaps once more.
func again(ch *client.Channel, h cmtp.Header, body sealedBody) error {
	_, err := ch.Send(h, nil, body, nil)
	return err
}

// everything lists a mailbox and fetches all of it, each message as its entry says.
func everything(t *testing.T, ch *client.Channel) (entries []cmtp.Entry, epoch cmtp.Epoch, change uint64) {
	t.Helper()
	p, err := ch.List(cmtp.ListQuery{Count: cmtp.MaxEntries})
	if err != nil {
		t.Fatal(err)
	}
	i := 0
	err = ch.FetchAll(func(yield func(cmtp.FetchQuery) bool) {
		for _, e := range p.Entries {
			if !yield(cmtp.FetchQuery{Number: e.Number, Length: e.Length}) {
				return
			}
		}
	}, func(f client.Fetched) error {
		e := p.Entries[i]
		i++
		if f.Err != nil {
			return f.Err
		}
		b, err := io.ReadAll(f.Body)
		if h, _, err := cmtp.ParseHeader(b); sha256.Sum256(b) != e.SHA256 || err != nil || h != *e.Header {
			t.Errorf("message %d: %d bytes, %+v", e.Number, len(b), e)
		}
		return err
	})
	if err != nil || i != len(p.Entries) {
		t.Fatalf("%d of %d messages: %v", i, len(p.Entries), err)
	}
	return p.Entries, p.Epoch, p.Next
}

func status(t *testing.T, err error, want cmtp.Status) {
	t.Helper()
	var s *cmtp.StatusError
	if !errors.As(err, &s) || s.Status != want {
		t.Errorf("error %v, want status %d", err, want)
	}
}

// clients are two of one user, at a server whose mailboxes take a million bytes.
type clients struct {
	*world
	server   *realm
	one, two *client.Channel
	heard    cmtp.WaitQuery // what the first has not heard yet
}

func newClients(t *testing.T) *clients {
	w := newWorld(t)
	a := w.realm("a.example", cmtptest.Settings{"limits.mailbox_size": "1000000", "limits.large_message": `"64KiB"`, "metrics.listen": `"127.0.0.1:0"`})
	c := &clients{w, a, w.signIn(a), w.signIn(a), cmtp.WaitQuery{Seconds: cmtp.MaxWait}}
	state, err := c.one.Mailbox()
	if err != nil || state.Messages != 0 || state.Quota != 1000000 {
		t.Fatalf("%+v, %v", state, err)
	}
	c.heard.Epoch, c.heard.Change = state.Epoch, state.Change
	return c
}

func (c *clients) must(err error) {
	c.Helper()
	if err != nil {
		c.Fatal(err)
	}
}

// wait lets the first client wait while the second, or the operator, does something.
func (c *clients) wait(ctx context.Context, do func()) (p *cmtp.Page, err error) {
	c.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		p, err = c.one.Wait(ctx, c.heard)
	}()
	c.untilMetric(c.server, "cmtpd_waits 1")
	do()
	<-done
	if p != nil {
		c.heard.Change = p.Next
	}
	return p, err
}

// news is wait for one change.
func (c *clients) news(do func()) cmtp.Entry {
	c.Helper()
	p, err := c.wait(c.Context(), do)
	if err != nil || len(p.Entries) != 1 {
		c.Fatalf("the news are %+v, %v", p, err)
	}
	return p.Entries[0]
}

// Two clients of one user hear of each other's changes at once; one that ends its wait hears nothing, and goes on.
func TestMailbox_Clients(t *testing.T) {
	t.Parallel()
	c := newClients(t)
	e := c.news(func() { c.must(note(c.two, c.server.alice(), 1000)) })
	if e.Standing != cmtp.StandingSubmitted || e.Length != 1000 {
		t.Errorf("%+v", e)
	}
	e = c.news(func() {
		_, err := c.two.Flag([]cmtp.FlagItem{{Number: e.Number, Mask: cmtp.FlagSeen, Flags: cmtp.FlagSeen, SetKeywords: true, Keywords: []byte("secret")}})
		c.must(err)
	})
	if e.Flags != cmtp.FlagSeen || string(e.Keywords) != "secret" {
		t.Errorf("%+v", e)
	}
	all, _, _ := everything(t, c.two)
	if len(all) != 1 || all[0].Change != e.Change {
		t.Errorf("%+v", all)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if p, err := c.wait(ctx, cancel); err != nil || len(p.Entries) != 0 {
		t.Errorf("a wait that was ended: %+v, %v", p, err)
	}
	number := e.Number
	e = c.news(func() {
		n, err := c.two.Delete([]uint64{number})
		if c.must(err); n != 1 {
			t.Errorf("%d are deleted", n)
		}
	})
	if !e.Removed || e.Number != number {
		t.Errorf("%+v", e)
	}
}

// A mailbox takes what fits to the byte, and what it has already.
func TestMailbox_Full(t *testing.T) {
	t.Parallel()
	c := newClients(t)
	c.must(note(c.two, c.server.alice(), 500000))
	c.must(note(c.two, c.server.alice(), 499000))
	same := cmtp.Header{System: cmtp.SystemSealed, DestinationAccount: "alice", DestinationDomain: "a.example", SourceAccount: "alice", SourceDomain: "a.example"}
	body := make(sealedBody, 1001-len(same.Append(nil))-1)
	status(t, again(c.two, same, body), cmtp.StatusNoRoom)
	c.must(again(c.two, same, body[1:]))
	state, err := c.two.Mailbox()
	if err != nil || state.Bytes != 1000000 || state.Messages != 3 {
		t.Errorf("%+v, %v", state, err)
	}
	status(t, note(c.two, c.server.alice(), 200), cmtp.StatusNoRoom)
	c.must(again(c.two, same, body[1:])) // there is no room, and no need of any
	all, _, _ := everything(t, c.two)
	_, err = c.two.Delete([]uint64{all[1].Number})
	c.must(err)
	c.must(note(c.two, c.server.alice(), 499000))
	status(t, note(c.two, c.server.alice(), 200), cmtp.StatusNoRoom)
}

// Who waits is told of a disabled account, and of the server's end.
func TestMailbox_WaitOver(t *testing.T) {
	t.Parallel()
	c := newClients(t)
	_, err := c.wait(t.Context(), func() { c.server.Must(t, "", "user", "disable", "alice@a.example") })
	status(t, err, cmtp.StatusNotProven)
	c.server.Must(t, "", "user", "enable", "alice@a.example")
	_, err = c.wait(t.Context(), func() { c.server.Stop(t) })
	status(t, err, cmtp.StatusClosing)
}

// untilMetric waits until a server's metrics have a line.
func (w *world) untilMetric(r *realm, line string) {
	w.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(time.Minute); !strings.Contains(get(w.T, "http://"+r.Metrics+"/metrics"), "\n"+line+"\n"); <-tick.C {
		if time.Now().After(end) {
			w.Errorf("the metrics never have %q", line)
			return
		}
	}
}

// With too little room on the disk flags wait, and messages can be deleted: that makes room.
func TestMailbox_DiskFull(t *testing.T) {
	t.Parallel()
	c := newClients(t)
	c.must(note(c.two, c.server.alice(), 1000))
	p, err := c.two.List(cmtp.ListQuery{Count: 1})
	c.must(err)
	item := cmtp.FlagItem{Number: p.Entries[0].Number, Mask: cmtp.FlagSeen, Flags: cmtp.FlagSeen}
	text, err := os.ReadFile(c.server.Config)
	c.must(err)
	full := func(yes bool) {
		t.Helper()
		now := text
		if yes {
			now = bytes.Replace(text, []byte("limits.min_free_space = \"1MiB\""), []byte("limits.min_free_space = \"1TiB\""), 1)
		}
		c.must(os.WriteFile(c.server.Config, now, 0o600))
		c.must(syscall.Kill(c.server.PID, syscall.SIGHUP))
		c.untilMetric(c.server, "cmtpd_disk_free_min_bytes "+map[bool]string{true: "1.099511627776e+12", false: "1.048576e+06"}[yes])
	}
	flag := func(want cmtp.Status) {
		t.Helper()
		r, err := c.two.Flag([]cmtp.FlagItem{item})
		if err != nil || len(r) != 1 || r[0].Status != want {
			t.Errorf("%+v, %v, want %d", r, err, want)
		}
		item.Flags ^= cmtp.FlagSeen
	}
	flag(cmtp.StatusDone)
	full(true)
	flag(cmtp.StatusNoRoom)
	item.Flags ^= cmtp.FlagSeen
	status(t, note(c.signIn(c.server), c.server.alice(), 1000), cmtp.StatusNoRoom)
	c.untilMetric(c.server, `cmtpd_limits_hit_total{limit="min_free_space"} 2`)
	full(false)
	flag(cmtp.StatusDone)
	full(true)
	if n, err := c.two.Delete([]uint64{item.Number}); n != 1 || err != nil {
		t.Errorf("deleting: %d, %v", n, err)
	}
}

// What a message's standing says holds for mail from another server, vouched for, and for a report.
func TestMailbox_Standing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a, b := w.realm("a.example", nil), w.realm("b.example", nil)
	from, at := w.signIn(a), w.signIn(b)
	w.send(from, a, b.alice(), w.keyOf(from, b), "across")
	nobody, err := address.Parse("nobody@b.example")
	if err != nil {
		t.Fatal(err)
	}
	w.send(from, a, nobody, b.key(), "to nobody")
	for name, tt := range map[string]struct {
		ch   *client.Channel
		want cmtp.Standing
	}{"Vouched": {at, cmtp.StandingVouched}, "Report": {from, cmtp.StandingServer}} {
		p, err := tt.ch.Wait(t.Context(), cmtp.WaitQuery{Seconds: 60})
		if err != nil || len(p.Entries) != 1 || p.Entries[0].Standing != tt.want {
			t.Errorf("%s: %+v, %v", name, p, err)
		}
		everything(t, tt.ch)
	}
}

// A mailbox that was restored from a backup has another epoch, in which everything begins from 0; the messages
// are known by their digests. One that merely was down has the same.
func TestMailbox_Restore(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.realm("a.example", nil)
	ch := w.signIn(a)
	for i := range 3 {
		if err := note(ch, a.alice(), 1000+i); err != nil {
			t.Fatal(err)
		}
	}
	before, epoch, change := everything(t, ch)
	backup := filepath.Join(t.TempDir(), "backup")
	a.Must(t, "", "backup", backup)
	if err := note(ch, a.alice(), 2000); err != nil {
		t.Fatal(err)
	}
	a.Stop(t)
	a.again(w, nil)
	ch = w.signIn(a)
	p, err := ch.Changes(cmtp.ChangesQuery{Epoch: epoch, Change: change, Count: 100})
	if err != nil || p.Epoch != epoch || len(p.Entries) != 1 {
		t.Fatalf("after a restart: %+v, %v", p, err)
	}
	a.Stop(t)
	if err := os.RemoveAll(a.Data); err != nil {
		t.Fatal(err)
	}
	a.Must(t, "", "restore", backup)
	a.again(w, nil)
	ch = w.signIn(a)
	p, err = ch.Changes(cmtp.ChangesQuery{Epoch: epoch, Change: change, Count: 100})
	if err != nil || p.Epoch == epoch || len(p.Entries) != 3 {
		t.Fatalf("after the restore: %+v, %v", p, err)
	}
	after, _, _ := everything(t, ch)
	for i := range before {
		if !bytes.Equal(after[i].SHA256[:], before[i].SHA256[:]) {
			t.Errorf("message %d has become %+v", before[i].Number, after[i])
		}
	}
	if err := note(ch, a.alice(), 3000); err != nil {
		t.Fatal(err)
	}
	if after, _, _ = everything(t, ch); after[3].Number <= before[2].Number {
		t.Errorf("the next number is %d", after[3].Number)
	}
}
