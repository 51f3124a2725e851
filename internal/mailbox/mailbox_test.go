package mailbox_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math"
	"testing"
	"time"

	"cmtpd/internal/cmtp"
	"cmtpd/internal/crypt"
	"cmtpd/internal/durable/durabletest"
	"cmtpd/internal/mailbox"
	"cmtpd/internal/spool"
)

var ctx = context.Background()

// The mailboxes of two users, and of nobody.
var (
	alice = spool.MailboxID{1}
	bob   = spool.MailboxID{2}
	queue = spool.MailboxID{15: 2}
)

func key(tb testing.TB, n byte) *crypt.PrivateKey {
	tb.Helper()
	k, err := crypt.PrivateKeyFromSeed(bytes.Repeat([]byte{n}, crypt.SeedSize))
	if err != nil {
		tb.Fatal(err)
	}
	return k
}

// A world is a spool and the mailboxes in it.
type world struct {
	*mailbox.Mailboxes
	tb    testing.TB
	fs    *durabletest.FS
	spool *spool.Spool
	alice *mailbox.Box
	bob   *mailbox.Box
}

// newWorld opens a spool with small segments: messages from 200 KiB on have files of their own.
func newWorld(tb testing.TB) *world {
	tb.Helper()
	return openWorld(tb, durabletest.New(), 1)
}

func config(k crypt.PublicKey) mailbox.Config {
	return mailbox.Config{Key: k, Limits: mailbox.Limits{Size: 1 << 20, MaxWaits: 5, MaxWaitsAccount: 3, MarkRate: 60, MarkBurst: 10_000},
		Unlimited: []spool.MailboxID{queue}}
}

// openWorld opens it with a spool key.
func openWorld(tb testing.TB, fsys *durabletest.FS, k byte) *world {
	tb.Helper()
	w := &world{Mailboxes: mailbox.New(config(key(tb, k).Public())), tb: tb, fs: fsys}
	var err error
	w.spool, err = spool.Open("/spool", spool.Options{FS: fsys, Key: key(tb, k), Identity: key(tb, 9), NoSpare: true,
		SegmentSize: 300 << 10, LargeThreshold: 200 << 10, Changed: w.Changed, CompactRate: -1})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { w.spool.Close() })
	w.Use(w.spool)
	w.alice, w.bob = w.Of(alice, "alice@cref.example"), w.Of(bob, "bob@cref.example")
	return w
}

// message returns a message of n bytes, which begins with a header.
func message(n int) []byte {
	h := cmtp.Header{System: 1, LogLength: 1, BodyLength: uint64(n), DestinationAccount: "alice", DestinationDomain: "cref.example",
		SourceAccount: "bob", SourceDomain: "other.example"}
	b := h.Append(nil)
	for i := len(b); i < n; i++ {
		b = append(b, byte(i*7>>3))
	}
	return b[:max(n, len(b))]
}

// put stores a message, and returns its number.
func (w *world) put(box spool.MailboxID, data []byte, from string) uint64 {
	w.tb.Helper()
	wr := w.spool.NewWriter()
	defer wr.Abort()
	_, err := wr.Write(data)
	var st spool.Stored
	if err == nil {
		st, err = wr.Commit(ctx, spool.Entry{Mailbox: box, Digest: sha256.Sum256(data), Received: time.Unix(1720000000, 5), From: from})
	}
	if err != nil {
		w.tb.Fatal(err)
	}
	return uint64(st.ID)
}

func (w *world) list(b *mailbox.Box, q cmtp.ListQuery) *cmtp.Page {
	w.tb.Helper()
	p, err := b.List(q)
	if err == nil {
		p, err = cmtp.ParseList(p.Append(nil), q) // as a client reads it
	}
	if err != nil {
		w.tb.Fatal(err)
	}
	return p
}

func (w *world) changes(b *mailbox.Box, q cmtp.ChangesQuery) *cmtp.Page {
	w.tb.Helper()
	p, err := b.Changes(q)
	if err == nil {
		p, err = cmtp.ParseChanges(p.Append(nil), q)
	}
	if err != nil {
		w.tb.Fatal(err)
	}
	return p
}

func (w *world) state(b *mailbox.Box) cmtp.MailboxState {
	w.tb.Helper()
	s, err := b.State()
	if err == nil {
		s, err = cmtp.ParseMailboxState(s.Append(nil))
	}
	if err != nil {
		w.tb.Fatal(err)
	}
	return s
}

func (w *world) flag(b *mailbox.Box, items ...cmtp.FlagItem) []cmtp.FlagResult {
	w.tb.Helper()
	r, err := b.Flag(ctx, items)
	if err != nil {
		w.tb.Fatal(err)
	}
	return r
}

// An entry says what the spool knows, in the words of the document.
func TestBox_List_Entry(t *testing.T) {
	w := newWorld(t)
	data := message(300)
	n := w.put(alice, data, "192.0.2.1 origin=proven")
	w.put(bob, data, "cmtpd")
	results := w.flag(w.alice, cmtp.FlagItem{Number: n, Mask: 5, Flags: 5, SetKeywords: true, Keywords: []byte("k")})
	want := cmtp.Entry{Number: n, Change: results[0].Change, Arrived: 1720000000, Length: 300, SHA256: sha256.Sum256(data),
		Standing: cmtp.StandingVouched, Flags: 5, Keywords: []byte("k"), Header: &cmtp.Header{System: 1, LogLength: 1, BodyLength: 300,
			DestinationAccount: "alice", DestinationDomain: "cref.example", SourceAccount: "bob", SourceDomain: "other.example"}}
	for name, p := range map[string]*cmtp.Page{
		"Up": w.list(w.alice, cmtp.ListQuery{Count: 9}), "Down": w.list(w.alice, cmtp.ListQuery{Down: true, Number: math.MaxUint64, Count: 9}),
		"Changes": w.changes(w.alice, cmtp.ChangesQuery{Count: 9}),
	} {
		if len(p.Entries) != 1 || p.More || !bytes.Equal(p.Entries[0].Append(nil), want.Append(nil)) || p.Epoch != w.alice.Epoch() {
			t.Errorf("%s: %+v, want %+v", name, p, want)
		}
	}
	for name, p := range map[string]*cmtp.Page{"NotAbove": w.list(w.alice, cmtp.ListQuery{Number: n, Count: 9}),
		"NotBelow": w.list(w.alice, cmtp.ListQuery{Number: n, Down: true, Count: 9}), "BelowNone": w.list(w.alice, cmtp.ListQuery{Down: true, Count: 9})} {
		if len(p.Entries) != 0 {
			t.Errorf("%s: %+v", name, p)
		}
	}
	if s := w.state(w.alice); s.Highest != n || s.Messages != 1 || s.Bytes != 300 || s.Quota != 1<<20 || s.Change < want.Change || s.Epoch != w.alice.Epoch() {
		t.Errorf("%+v", s)
	}
	if s := w.state(w.Of(spool.MailboxID{3}, "")); s.Highest != 0 || s.Messages != 0 || s.Change == 0 {
		t.Errorf("of an empty one: %+v", s)
	}
}

// Only what the spool's document gives means anything.
func TestStanding(t *testing.T) {
	for from, want := range map[string]cmtp.Standing{
		"cmtpd": cmtp.StandingServer, "192.0.2.1 origin=proven": cmtp.StandingVouched, "2001:db8::1 origin=user": cmtp.StandingSubmitted,
		"fe80::1%eth0 origin=unverified": cmtp.StandingClaimed, "192.0.2.1": cmtp.StandingUnknown, "": cmtp.StandingUnknown,
		"192.0.2.1:4711": cmtp.StandingUnknown, "192.0.2.1 origin=proven ": cmtp.StandingUnknown, "192.0.2.1  origin=proven": cmtp.StandingUnknown,
		"cmtpd origin=proven": cmtp.StandingUnknown, " cmtpd": cmtp.StandingUnknown, "192.0.2.1 origin=Proven": cmtp.StandingUnknown,
		"origin=user": cmtp.StandingUnknown, "192.0.2.1 origin=user origin=proven": cmtp.StandingUnknown,
	} {
		if got := mailbox.Standing(from); got != want {
			t.Errorf("%q: %d, want %d", from, got, want)
		}
	}
}

// The epoch is the document's, is each mailbox's own, and another one with another spool key.
func TestBox_Epoch(t *testing.T) {
	k := key(t, 1).Public()
	sum := sha256.Sum256(append(append([]byte("CMTP-1 mailbox epoch\x00"), k[:]...), alice[:]...))
	w := newWorld(t)
	if w.alice.Epoch() != cmtp.Epoch(sum[:16]) || w.alice.Epoch() == w.bob.Epoch() {
		t.Errorf("epochs %x and %x", w.alice.Epoch(), w.bob.Epoch())
	}
	w.spool.Close()
	if other := openWorld(t, w.fs, 2); other.alice.Epoch() == w.alice.Epoch() {
		t.Error("another spool key gives no other epoch")
	}
}

// A question of another epoch, or after a number that is not there yet, begins from 0.
func TestBox_Changes_Anew(t *testing.T) {
	w := newWorld(t)
	w.put(alice, message(100), "")
	last := w.state(w.alice).Change
	for name, tt := range map[string]struct {
		q cmtp.ChangesQuery
		n int
	}{
		"From0":      {cmtp.ChangesQuery{Epoch: w.alice.Epoch(), Count: 9}, 1},
		"Last":       {cmtp.ChangesQuery{Epoch: w.alice.Epoch(), Change: last, Count: 9}, 0},
		"AfterLast":  {cmtp.ChangesQuery{Epoch: w.alice.Epoch(), Change: last + 1, Count: 9}, 1},
		"Highest":    {cmtp.ChangesQuery{Epoch: w.alice.Epoch(), Change: math.MaxUint64, Count: 9}, 1},
		"OtherEpoch": {cmtp.ChangesQuery{Epoch: w.bob.Epoch(), Change: last, Count: 9}, 1},
	} {
		if p := w.changes(w.alice, tt.q); len(p.Entries) != tt.n || p.Next != last {
			t.Errorf("%s: %+v", name, p)
		}
	}
}

// An answer is bounded in bytes, and goes on where it ended.
func TestBox_Pages(t *testing.T) {
	w := newWorld(t)
	const n = 350
	var items []cmtp.FlagItem
	for i := range n {
		h := cmtp.Header{System: 1, SourceAccount: fmt.Sprintf("%0255d", i), SourceDomain: string(bytes.Repeat([]byte("d"), 255)),
			DestinationAccount: string(bytes.Repeat([]byte("a"), 255)), DestinationDomain: string(bytes.Repeat([]byte("d"), 255))}
		items = append(items, cmtp.FlagItem{Number: w.put(alice, h.Append(nil), "cmtpd"), SetKeywords: true, Keywords: make([]byte, cmtp.MaxKeywords)})
	}
	w.flag(w.alice, items...)
	for _, down := range []bool{false, true} {
		q := cmtp.ListQuery{Count: cmtp.MaxEntries, Down: down}
		if down {
			q.Number = math.MaxUint64
		}
		seen, pages := 0, 0
		for more := true; more; pages++ {
			p := w.list(w.alice, q)
			if size := len(p.Append(nil)); size > 260<<10 || p.More && size < 250<<10 {
				t.Errorf("a page of %d bytes", size)
			}
			seen += len(p.Entries)
			q.Number, more = p.Entries[len(p.Entries)-1].Number, p.More
		}
		if seen != n || pages != 2 {
			t.Errorf("%d messages in %d pages", seen, pages)
		}
	}
	q := cmtp.ChangesQuery{Epoch: w.alice.Epoch(), Count: 100}
	seen := 0
	for more := true; more; {
		p := w.changes(w.alice, q)
		if len(p.Entries) != min(100, n-seen) {
			t.Fatalf("%d entries after %d", len(p.Entries), seen)
		}
		seen += len(p.Entries)
		q.Change, more = p.Next, p.More
	}
	if seen != n {
		t.Errorf("%d changes", seen)
	}
}

// Numbers of another mailbox mean nothing here.
func TestBox_OtherMailbox(t *testing.T) {
	w := newWorld(t)
	hers := w.put(alice, message(100), "")
	if p := w.list(w.bob, cmtp.ListQuery{Count: 9}); len(p.Entries) != 0 {
		t.Errorf("bob lists %+v", p.Entries)
	}
	if p := w.changes(w.bob, cmtp.ChangesQuery{Count: 9}); len(p.Entries) != 0 {
		t.Errorf("bob sees the changes %+v", p.Entries)
	}
	if _, err := w.bob.Fetch(cmtp.FetchQuery{Number: hers, Length: 9}, &mailbox.Reading{}); !errors.Is(err, mailbox.ErrNoMessage) {
		t.Errorf("bob fetches: %v", err)
	}
	for _, n := range []uint64{hers, 0, hers + 1, math.MaxUint64} {
		if r := w.flag(w.bob, cmtp.FlagItem{Number: n, Mask: 1, Flags: 1}); r[0] != (cmtp.FlagResult{Status: cmtp.StatusNoMessage}) {
			t.Errorf("bob flags %d: %+v", n, r)
		}
		if k, _, err := w.bob.Delete(ctx, []uint64{n}); k != 0 || err != nil {
			t.Errorf("bob deletes %d: %d, %v", n, k, err)
		}
	}
	if s := w.state(w.alice); s.Messages != 1 {
		t.Errorf("alice has %+v", s)
	}
}

// What is deleted is gone once, is told, and names who did it.
func TestBox_Delete(t *testing.T) {
	w := newWorld(t)
	a, b := w.put(alice, message(100), ""), w.put(alice, message(300<<10), "")
	if n, _, err := w.alice.Delete(ctx, []uint64{a, 7777, a, b}); n != 2 || err != nil {
		t.Fatal(n, err)
	}
	p := w.changes(w.alice, cmtp.ChangesQuery{Count: 9})
	if len(p.Entries) != 2 || !p.Entries[0].Removed || p.Entries[0].Number != a || p.Entries[1].Number != b {
		t.Errorf("%+v", p.Entries)
	}
	if s := w.state(w.alice); s.Messages != 0 || s.Bytes != 0 || s.Highest != 0 {
		t.Errorf("%+v", s)
	}
	var found bool
	for _, path := range w.segments() {
		found = found || bytes.Contains(w.read(path), []byte("the user alice@cref.example"))
	}
	if !found {
		t.Error("the log does not say who deleted them")
	}
}

func (w *world) segments() (paths []string) {
	names, err := w.fs.ReadDir("/spool/log")
	if err != nil {
		w.tb.Fatal(err)
	}
	for _, n := range names {
		paths = append(paths, "/spool/log/"+n)
	}
	return paths
}

func (w *world) read(path string) []byte {
	f, err := w.fs.Open(path)
	if err != nil {
		w.tb.Fatal(err)
	}
	defer f.Close()
	size, err := f.Size()
	b := make([]byte, size)
	if n, rerr := f.ReadAt(b, 0); err != nil || n < len(b) {
		w.tb.Fatal(err, rerr)
	}
	return b
}
