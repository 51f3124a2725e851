package mailbox_test

import (
	"errors"
	"sync"
	"testing"
	"time"

	"cmtpd/internal/cmtp"
	"cmtpd/internal/mailbox"
	"cmtpd/internal/spool"
)

// A mailbox takes what fits to the byte, and not one byte more; the queue takes all.
func TestMailboxes_Reserve(t *testing.T) {
	w := newWorld(t)
	w.put(alice, message(1000), "")
	release, err := w.Reserve(alice, 1<<20-1000)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Reserve(alice, 1); !errors.Is(err, mailbox.ErrFull) {
		t.Errorf("beside what is reserved: %v", err)
	}
	release()
	if _, err := w.Reserve(alice, 1<<20-999); !errors.Is(err, mailbox.ErrFull) {
		t.Errorf("one past the limit: %v", err)
	}
	n := w.put(alice, message(300<<10), "")
	if _, err := w.Reserve(alice, 1<<20-1000-300<<10+1); !errors.Is(err, mailbox.ErrFull) {
		t.Errorf("after a message: %v", err)
	}
	if _, _, err := w.alice.Delete(ctx, []uint64{n}); err != nil {
		t.Fatal(err)
	}
	if release, err = w.Reserve(alice, 1<<20-1000); err != nil {
		t.Errorf("after its removal: %v", err)
	} else {
		release()
	}
	if _, err := w.Reserve(bob, 1<<20); err != nil {
		t.Errorf("another one: %v", err)
	}
	if _, err := w.Reserve(queue, 1<<40); err != nil {
		t.Errorf("the queue: %v", err)
	}
}

// What comes and goes while a mailbox is counted is counted once.
func TestMailboxes_Count_AtOnce(t *testing.T) {
	w := newWorld(t)
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for k := range 10 {
				n := w.put(alice, message(1000+i*10+k), "")
				if k%3 == 0 {
					if _, _, err := w.alice.Delete(ctx, []uint64{n}); err != nil {
						t.Error(err)
					}
				}
				w.state(w.alice)
			}
		})
	}
	all.Wait()
	u, err := w.spool.Usage(alice)
	if s := w.state(w.alice); err != nil || s.Messages != uint64(u.Messages) || s.Bytes != uint64(u.Bytes) || u.Messages != 8*6 {
		t.Errorf("%+v, and there are %+v, %v", s, u, err)
	}
}

// A busySpool is one in which something happens just before and just after a mailbox is counted.
type busySpool struct {
	*spool.Spool
	before, after func()
}

func (s busySpool) Usage(m spool.MailboxID) (spool.Usage, error) {
	s.before()
	defer s.after()
	return s.Spool.Usage(m)
}

// What comes while a mailbox is counted is not counted twice, and not left out.
func TestMailboxes_Count_Meanwhile(t *testing.T) {
	w := newWorld(t)
	first := w.put(alice, message(1000), "")
	w.Use(busySpool{w.spool, func() { w.put(alice, message(2000), "") }, func() {
		w.put(alice, message(4000), "")
		if n, _, err := w.alice.Delete(ctx, []uint64{first}); n != 1 || err != nil {
			t.Error(n, err)
		}
	}})
	if s := w.state(w.alice); s.Messages != 2 || s.Bytes != 6000 {
		t.Errorf("%+v", s)
	}
	w.put(alice, message(8000), "")
	if s := w.state(w.alice); s.Messages != 3 || s.Bytes != 14000 {
		t.Errorf("%+v", s)
	}
}

// A failed count is not kept.
func TestMailboxes_Count_Fails(t *testing.T) {
	w := newWorld(t)
	w.spool.Close()
	for range 2 {
		if _, err := w.Reserve(alice, 1); !errors.Is(err, spool.ErrClosed) {
			t.Errorf("error %v", err)
		}
	}
}

// waits begins a wait that tells when it is woken.
func (w *world) waits(b *mailbox.Box) (*mailbox.Wait, chan struct{}) {
	w.tb.Helper()
	woken := make(chan struct{}, 100)
	wait, err := b.Wait(func() { woken <- struct{}{} })
	if err != nil {
		w.tb.Fatal(err)
	}
	return wait, woken
}

// Every kind of change wakes those who wait for this mailbox, and nobody else.
func TestBox_Wait(t *testing.T) {
	w := newWorld(t)
	mine, woken := w.waits(w.alice)
	other, hers := w.waits(w.bob)
	n := w.put(alice, message(100), "")
	steps := map[string]func(){
		"Arrival": func() { n = w.put(alice, message(101), "") },
		"Flag":    func() { w.flag(w.alice, cmtp.FlagItem{Number: n, Mask: 1, Flags: 1}) },
		"Delete":  func() { w.alice.Delete(ctx, []uint64{n}) },
		"Tell":    func() { w.Tell(alice) },
	}
	<-woken
	for _, name := range []string{"Arrival", "Flag", "Delete", "Tell"} {
		steps[name]()
		select {
		case <-woken:
		case <-time.After(20 * time.Second):
			t.Fatalf("nobody is woken by %s", name)
		}
	}
	mine.End()
	mine.End()
	w.put(alice, message(102), "")
	w.put(bob, message(102), "") // the news before are told by when these are
	<-hers
	if len(woken) > 0 || len(hers) > 0 {
		t.Errorf("%d and %d more are woken", len(woken), len(hers))
	}
	other.End()
	if n := w.Waiting(); n != 0 {
		t.Errorf("%d wait", n)
	}
}

// The limits hold in all and for each, and an end makes room.
func TestBox_Wait_Limits(t *testing.T) {
	w := newWorld(t)
	var last *mailbox.Wait
	for range 3 {
		last, _ = w.waits(w.alice)
	}
	if _, err := w.alice.Wait(nil); !errors.Is(err, mailbox.ErrWaits) {
		t.Errorf("one of hers too many: %v", err)
	}
	w.waits(w.bob)
	w.waits(w.bob)
	if _, err := w.bob.Wait(nil); !errors.Is(err, mailbox.ErrWaits) || w.Waiting() != 5 {
		t.Errorf("one of all too many: %v, %d wait", err, w.Waiting())
	}
	last.End()
	w.waits(w.bob)
}
