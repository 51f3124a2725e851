package mailbox_test

import (
	"errors"
	"sync"
	"testing"

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

// After a failed write nothing is said to be done, and somebody is told.
func TestBox_Failed(t *testing.T) {
	for name, do := range map[string]func(*world, uint64) error{
		"Flag": func(w *world, n uint64) error {
			_, err := w.alice.Flag(ctx, []cmtp.FlagItem{{Number: n, Mask: 1, Flags: 1}})
			return err
		},
		"Delete": func(w *world, n uint64) error { _, err := w.alice.Delete(ctx, []uint64{n}); return err },
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
