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

// Two clients of one user read, flag and delete at a real server, and hear of each other's changes at
// once; the mailbox takes what fits to the byte; who waits is told of a disabled account and of the end.
func TestMailbox_Clients(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a := w.realm("a.example", cmtptest.Settings{"limits.mailbox_size": "1000000", "limits.large_message": `"64KiB"`, "metrics.listen": `"127.0.0.1:0"`})
	one, two := w.signIn(a), w.signIn(a)
	state, err := one.Mailbox()
	if err != nil || state.Messages != 0 || state.Quota != 1000000 {
		t.Fatalf("%+v, %v", state, err)
	}
	q := cmtp.WaitQuery{Epoch: state.Epoch, Change: state.Change, Seconds: cmtp.MaxWait}
	wait := func(do func()) *cmtp.Page {
		t.Helper()
		pages := make(chan *cmtp.Page, 1)
		go func() {
			defer close(pages)
			p, err := one.Wait(t.Context(), q)
			if err != nil {
				t.Error(err)
				return
			}
			pages <- p
		}()
		w.untilMetric(a, "cmtpd_waits 1")
		do()
		p := <-pages
		if p == nil || len(p.Entries) == 0 {
			t.Fatalf("the news are %+v", p)
		}
		q.Change = p.Next
		return p
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	p := wait(func() { must(note(two, a.alice(), 1000)) })
	n := p.Entries[0].Number
	if e := p.Entries[0]; e.Standing != cmtp.StandingSubmitted || e.Length != 1000 {
		t.Errorf("%+v", e)
	}
	p = wait(func() {
		_, err := two.Flag([]cmtp.FlagItem{{Number: n, Mask: cmtp.FlagSeen, Flags: cmtp.FlagSeen, SetKeywords: true, Keywords: []byte("secret")}})
		must(err)
	})
	if e := p.Entries[0]; e.Flags != cmtp.FlagSeen || string(e.Keywords) != "secret" {
		t.Errorf("%+v", e)
	}
	must(note(two, a.alice(), 500000))
	must(note(two, a.alice(), 499000))
	status(t, note(two, a.alice(), 200), cmtp.StatusNoRoom)
	entries, _, _ := everything(t, two)
	if state, err = two.Mailbox(); err != nil || state.Bytes != 1000000 || len(entries) != 3 || state.Highest != entries[2].Number {
		t.Errorf("%+v, %v", state, err)
	}
	q.Change = state.Change
	p = wait(func() {
		if n, err := two.Delete([]uint64{entries[1].Number}); n != 1 || err != nil {
			t.Error(n, err)
		}
	})
	if e := p.Entries[0]; !e.Removed || e.Number != entries[1].Number {
		t.Errorf("%+v", e)
	}
	must(note(two, a.alice(), 500000))
	status(t, note(two, a.alice(), 200), cmtp.StatusNoRoom)
	if _, err := two.Delete([]uint64{n}); err != nil {
		t.Fatal(err)
	}
	same := cmtp.Header{System: cmtp.SystemSealed, DestinationAccount: "alice", DestinationDomain: "a.example", SourceAccount: "alice", SourceDomain: "a.example"}
	body := make(sealedBody, 1000-len(same.Append(nil))-1)
	must(again(two, same, body))
	must(again(two, same, body)) // there is no room, and no need of any
	status(t, note(two, a.alice(), 200), cmtp.StatusNoRoom)
	q.Change = 0
	if p, err := one.Wait(t.Context(), q); err != nil || len(p.Entries) != 5 {
		t.Errorf("of what is known already: %+v, %v", p, err)
	} else {
		q.Change = p.Next
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		w.untilMetric(a, "cmtpd_waits 1")
		cancel()
	}()
	if p, err := one.Wait(ctx, q); err != nil || len(p.Entries) != 0 {
		t.Errorf("a wait that was ended: %+v, %v", p, err)
	}
	ended := make(chan error, 1)
	go func() { _, err := one.Wait(t.Context(), q); ended <- err }()
	w.untilMetric(a, "cmtpd_waits 1")
	a.Must(t, "", "user", "disable", "alice@a.example")
	status(t, <-ended, cmtp.StatusNotProven)
	a.Must(t, "", "user", "enable", "alice@a.example")
	go func() { _, err := one.Wait(t.Context(), q); ended <- err }()
	w.untilMetric(a, "cmtpd_waits 1")
	a.Stop(t)
	status(t, <-ended, cmtp.StatusClosing)
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
