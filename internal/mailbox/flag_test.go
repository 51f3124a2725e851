package mailbox_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"cmtpd/internal/cmtp"
	"cmtpd/internal/durable/durabletest"
	"cmtpd/internal/mailbox"
	"cmtpd/internal/spool"
)

// The mask says which flags are meant; keywords stay unless they are set; what is so already changes
// nothing.
func TestBox_Flag(t *testing.T) {
	w := newWorld(t)
	n := w.put(alice, message(100), "")
	arrival := w.list(w.alice, cmtp.ListQuery{Count: 1}).Entries[0].Change
	change := arrival
	for i, step := range []struct {
		item     cmtp.FlagItem
		status   cmtp.Status
		flags    uint32
		keywords string
		changes  bool
	}{
		{cmtp.FlagItem{}, 200, 0, "", false},
		{cmtp.FlagItem{Mask: 0xffff, Flags: 0x8003}, 200, 0x8003, "", true},
		{cmtp.FlagItem{Mask: 2, Flags: 0}, 200, 0x8001, "", true},
		{cmtp.FlagItem{Mask: 1, Flags: 1}, 200, 0x8001, "", false},
		{cmtp.FlagItem{SetKeywords: true, Keywords: []byte("k")}, 200, 0x8001, "k", true},
		{cmtp.FlagItem{Mask: 0x8000}, 200, 1, "k", true},
		{cmtp.FlagItem{Expect: arrival, Mask: 4, Flags: 4}, 565, 1, "k", false},
		{cmtp.FlagItem{Expect: 1, Mask: 1, Flags: 1}, 565, 1, "k", false},
		{cmtp.FlagItem{Expect: ^uint64(0), SetKeywords: true}, 200, 1, "", true}, // the newest
	} {
		step.item.Number = n
		if step.item.Expect == ^uint64(0) {
			step.item.Expect = change
		}
		r := w.flag(w.alice, step.item)[0]
		e := w.list(w.alice, cmtp.ListQuery{Count: 1}).Entries[0]
		if r.Status != step.status || r.Change != e.Change || (e.Change != change) != step.changes || e.Flags != step.flags || string(e.Keywords) != step.keywords {
			t.Errorf("step %d: %+v, then %+v", i, r, e)
		}
		change = e.Change
	}
}

// Items of one form are looked at in their order, also those of one message.
func TestBox_Flag_Order(t *testing.T) {
	w := newWorld(t)
	a, b := w.put(alice, message(100), ""), w.put(alice, message(101), "")
	r := w.flag(w.alice,
		cmtp.FlagItem{Number: a, Mask: 3, Flags: 1}, cmtp.FlagItem{Number: b, Mask: 1, Flags: 1},
		cmtp.FlagItem{Number: a, Mask: 1}, cmtp.FlagItem{Number: a, Mask: 2, Flags: 2}, cmtp.FlagItem{Number: b, Mask: 2, Flags: 2},
		cmtp.FlagItem{Number: 7777, Mask: 1}, cmtp.FlagItem{Number: a, Expect: 5, Mask: 1})
	for i, want := range []cmtp.Status{200, 200, 200, 200, 200, 564, 565} {
		if r[i].Status != want {
			t.Errorf("item %d: %+v, want %d", i, r[i], want)
		}
	}
	e := w.list(w.alice, cmtp.ListQuery{Count: 2}).Entries
	if e[0].Flags != 2 || e[1].Flags != 3 || r[6].Change != e[0].Change || r[0].Change >= r[2].Change {
		t.Errorf("%+v, then %+v", r, e)
	}
	if r := w.flag(w.alice); len(r) != 0 {
		t.Errorf("of none: %+v", r)
	}
}

// Clients that set different flags at once lose none; of those that replace keywords that they read
// with the same change number, one has its way.
func TestBox_Flag_AtOnce(t *testing.T) {
	w := newWorld(t)
	n := w.put(alice, message(100), "")
	var all sync.WaitGroup
	for bit := range uint32(16) {
		all.Go(func() {
			box := w.Of(alice, "alice")
			for range 5 { // the last one sets it
				for _, flags := range []uint32{1 << bit, 0, 1 << bit} {
					r, err := box.Flag(ctx, []cmtp.FlagItem{{Number: n, Mask: 1 << bit, Flags: flags}})
					if err != nil || r[0].Status != cmtp.StatusDone {
						t.Errorf("bit %d: %+v, %v", bit, r, err)
					}
					p, err := box.List(cmtp.ListQuery{Count: 1})
					if err != nil || p.Entries[0].Flags&(1<<bit) != flags { // which nobody else changes
						t.Errorf("bit %d: %+v, %v, though it was made %#x", bit, p.Entries, err, flags)
					}
				}
			}
		})
	}
	all.Wait()
	e := w.list(w.alice, cmtp.ListQuery{Count: 1}).Entries[0]
	if e.Flags != 0xffff {
		t.Errorf("flags %#x", e.Flags)
	}
	var mu sync.Mutex
	won := 0
	for i := range byte(8) {
		all.Go(func() {
			r, err := w.alice.Flag(ctx, []cmtp.FlagItem{{Number: n, Expect: e.Change, SetKeywords: true, Keywords: []byte{i}}})
			mu.Lock()
			defer mu.Unlock()
			if err == nil && r[0].Status == cmtp.StatusDone {
				won++
			} else if err != nil || r[0].Status != cmtp.StatusChanged || r[0].Change <= e.Change {
				t.Errorf("%d: %+v, %v", i, r, err)
			}
		})
	}
	all.Wait()
	if won != 1 {
		t.Errorf("%d clients had their way with keywords", won)
	}
}

// What is changed more often than it may be is refused for now, item by item, and what is so already costs nothing.
func TestBox_Flag_Rate(t *testing.T) {
	w := newWorld(t)
	now := time.Unix(1_800_000_000, 0)
	c := config(key(t, 1).Public())
	c.MarkRate, c.MarkBurst, c.Now = 60, 3, func() time.Time { return now }
	w.Mailboxes = mailbox.New(c)
	w.Use(w.spool)
	a, b := w.Of(alice, ""), w.Of(bob, "")
	var set, clear []cmtp.FlagItem
	for range 5 {
		n := w.put(alice, message(100+len(set)), "")
		set, clear = append(set, cmtp.FlagItem{Number: n, Mask: 1, Flags: 1}), append(clear, cmtp.FlagItem{Number: n, Mask: 1})
	}
	others := cmtp.FlagItem{Number: w.put(bob, message(200), ""), Mask: 1, Flags: 1}
	done := func(r []cmtp.FlagResult) (n int) {
		for i := range r {
			switch {
			case r[i].Status == cmtp.StatusDone && n == i:
				n++
			case r[i].Status != cmtp.StatusTrouble || r[i].Change != 0:
				t.Errorf("item %d of %+v", i, r)
			}
		}
		return n
	}
	for i, step := range []struct {
		later time.Duration
		items []cmtp.FlagItem
		want  int
	}{
		{0, clear, 5}, {0, set, 3}, {0, set, 3}, {time.Second, set, 4}, {0, set[4:], 0}, {time.Hour, clear[:4], 3}, {0, set[:3], 0}, {0, clear[:3], 3},
	} {
		now = now.Add(step.later)
		if got := done(w.flag(a, step.items...)); got != step.want {
			t.Errorf("step %d: %d changes were made, want %d", i, got, step.want)
		}
	}
	if got := done(w.flag(b, others)); got != 1 {
		t.Error("another user pays for it")
	}
	// What was used under a rate that owes for hours is not owed for longer than under the one that follows.
	limits := mailbox.Limits{Size: c.Size, MaxWaits: c.MaxWaits, MaxWaitsAccount: c.MaxWaitsAccount, MarkRate: 1, MarkBurst: 1000}
	w.SetLimits(limits)
	if got := done(w.flag(a, set...)); got != len(set) {
		t.Errorf("%d changes were made of a burst of 1000", got)
	}
	limits.MarkRate, limits.MarkBurst = 60, 1
	w.SetLimits(limits)
	if got := done(w.flag(a, clear[0])); got != 0 {
		t.Errorf("%d changes were made on top of a burst", got)
	}
	if now = now.Add(time.Second); done(w.flag(a, clear[0])) != 1 {
		t.Error("a second later, at one a second, none is made")
	}
}

// Marks take room on the disk, which they get to the last byte. Without it they wait, are not counted, and messages can
// be deleted.
func TestBox_Flag_NoRoom(t *testing.T) {
	w := newWorld(t)
	c := config(key(t, 1).Public())
	c.MarkRate, c.MarkBurst = 1, 2
	room, trouble := uint64(0), error(nil)
	c.Room = func(n uint64) error {
		if trouble != nil {
			return trouble
		}
		if n > room {
			return fmt.Errorf("%w: %d bytes are free", mailbox.ErrNoRoom, room)
		}
		room -= n
		return nil
	}
	w.Mailboxes = mailbox.New(c)
	w.Use(w.spool)
	box := w.Of(alice, "alice")
	a, b := w.put(alice, message(100), ""), w.put(alice, message(101), "")
	both := func(want cmtp.Status) {
		t.Helper()
		r := w.flag(box, cmtp.FlagItem{Number: a, Mask: 1, Flags: 1}, cmtp.FlagItem{Number: b, Mask: 1, Flags: 1})
		if len(r) != 2 || r[0].Status != want || r[1].Status != want || (r[0].Change != 0) != (want == cmtp.StatusDone) {
			t.Errorf("%+v, want %d", r, want)
		}
	}
	head := w.spool.Head()
	room = 2*512 - 1
	for range 5 {
		both(cmtp.StatusNoRoom)
	}
	trouble = errors.New("no such disk")
	both(cmtp.StatusTrouble)
	if w.spool.Head() != head {
		t.Error("something was written")
	}
	room, trouble = 2*512, nil
	both(cmtp.StatusDone)
	if room != 0 {
		t.Errorf("%d bytes of room are left", room)
	}
	both(cmtp.StatusDone) // is so already
	if n, _, err := box.Delete(ctx, []uint64{a, b}); n != 2 || err != nil {
		t.Errorf("deleting: %d, %v", n, err)
	}
}

// A contested spool is one in which somebody else is quicker a few times.
type contested struct {
	*spool.Spool
	lost int
}

func (s *contested) MarkAll(ctx context.Context, all []spool.Marking) ([]spool.Marked, error) {
	if s.lost--; s.lost >= 0 {
		return slices.Repeat([]spool.Marked{{Err: spool.ErrChanged}}, len(all)), spool.ErrChanged
	}
	return s.Spool.MarkAll(ctx, all)
}

// Nobody pays for a change that somebody else was quicker with.
func TestBox_Flag_Rate_Contested(t *testing.T) {
	w := newWorld(t)
	c := config(key(t, 1).Public())
	c.MarkRate, c.MarkBurst = 1, 1
	w.Mailboxes = mailbox.New(c)
	w.Use(&contested{w.spool, 5})
	n := w.put(alice, message(100), "")
	if r := w.flag(w.Of(alice, ""), cmtp.FlagItem{Number: n, Mask: 1, Flags: 1}); r[0].Status != cmtp.StatusDone {
		t.Errorf("%+v", r)
	}
}

// After a failed write nothing is said to be done, and somebody is told.
func TestBox_Failed(t *testing.T) {
	for name, do := range map[string]func(*world, uint64) error{
		"Flag": func(w *world, n uint64) error {
			_, err := w.alice.Flag(ctx, []cmtp.FlagItem{{Number: n, Mask: 1, Flags: 1}})
			return err
		},
		"Delete": func(w *world, n uint64) error { _, _, err := w.alice.Delete(ctx, []uint64{n}); return err },
	} {
		w := newWorld(t)
		n := w.put(alice, message(100), "")
		var told error
		c := config(key(t, 1).Public())
		c.Failed = func(err error) { told = err }
		w.Mailboxes = mailbox.New(c)
		w.Use(w.spool)
		w.alice = w.Of(alice, "")
		w.fs.Inject(func(durabletest.Call) durabletest.Fault { return durabletest.Before })
		if err := do(w, n); !errors.Is(err, spool.ErrFailed) || !errors.Is(told, spool.ErrFailed) {
			t.Errorf("%s: %v, told %v", name, err, told)
		}
		w.fs.Inject(nil)
	}
}
