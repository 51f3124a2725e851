package queue_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"cmtpd/internal/queue"
	"cmtpd/internal/spool"
)

// waitingQueue runs a queue of five messages to a destination that is down, and one to another one.
func waitingQueue(t *testing.T) (f *fake, w *world, down *site, q *queue.Queue, cfg queue.Config, stop func() error) {
	f, down = newFake(), &site{}
	down.up = func(time.Time) bool { return false }
	w = newWorld(t.Errorf, f, func(string) *site { return down })
	for id := range spool.ID(5) {
		f.add(id+1, "example.net", time.Now())
	}
	f.add(6, "example.com", time.Now())
	cfg = queue.Config{Store: f, Deliverer: w, Reporter: w}
	q, stop = run(t, cfg)
	pass(8 * time.Hour)
	return f, w, down, q, cfg, stop
}

// TestQueue_Hold: what the operator holds is neither tried nor given up, also after a restart, until it is
// released; then it is tried at once, however old.
func TestQueue_Hold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, w, down, q, cfg, stop := waitingQueue(t)
		if n, err := q.Hold([]spool.ID{2, 3, 2}); n != 2 || err != nil {
			t.Errorf("%d, %v", n, err)
		}
		stopped(t, stop)
		q, stop = run(t, cfg)
		pass(20 * day)
		if s := q.Stats(); s.Queued != 2 || s.Held != 2 || len(w.reported) != 4 {
			t.Errorf("%+v, reported %v", s, w.reported)
		}
		if e, err := q.Show(2); err != nil || e.Condition != queue.Held {
			t.Errorf("%+v, %v", e, err)
		}
		if n, err := q.Retry([]spool.ID{2}); n != 0 || !errors.Is(err, queue.ErrHeld) {
			t.Errorf("%d, %v", n, err)
		}
		down.up = nil
		if n, err := q.Release([]spool.ID{2, 3}); n != 2 || err != nil {
			t.Errorf("%d, %v", n, err)
		}
		pass(time.Second)
		stopped(t, stop)
		if w.delivered[2] != 1 || w.delivered[3] != 1 || f.left() != 0 {
			t.Errorf("delivered %v", w.delivered)
		}
	})
}

// TestQueue_Retry: what is asked for is tried at once, and fails into the same backoff.
func TestQueue_Retry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, w, down, q, _, stop := waitingQueue(t)
		w.sent = map[spool.ID]queue.State{}
		opens := w.opens["example.net"]
		for n, retry := range []func() (int, error){
			func() (int, error) { return q.Retry([]spool.ID{3}) },
			func() (int, error) { return q.RetryDomain("Example.Net") },
			q.RetryAll,
		} {
			got, err := retry()
			if want := []int{1, 5, 6}[n]; err != nil || got != want {
				t.Errorf("retry %d: %d, %v, want %d", n, got, err, want)
			}
			pass(time.Second)
			if w.opens["example.net"] != opens+n+1 {
				t.Errorf("retry %d: %d dials, before %d", n, w.opens["example.net"], opens)
			}
		}
		if got, err := q.RetryDomain("example.org"); got != 0 || err != nil {
			t.Errorf("%d, %v", got, err)
		}
		down.up = nil
		if _, err := q.RetryAll(); err != nil {
			t.Error(err)
		}
		pass(time.Minute)
		stopped(t, stop)
		if len(w.delivered) != 6 {
			t.Errorf("delivered %v", w.delivered)
		}
	})
}

// TestQueue_Retry_Planned: what is tried before its time, and fails, waits for the attempt that was planned, and behind that as long
// as if nothing had been asked for; a destination, and a message, also after a restart. Only a minute has to be between.
func TestQueue_Retry_Planned(t *testing.T) {
	for name, fate := range map[string]*site{
		"destination": {up: func(time.Time) bool { return false }},
		"message":     {fate: func(queue.Item) queue.Result { return queue.Result{Outcome: queue.Temporary, Status: 451} }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f, first := newFake(), time.Now()
				w := newWorld(t.Errorf, f, func(string) *site { return fate })
				f.add(1, "example.net", first)
				cfg := queue.Config{Store: f, Deliverer: w, Reporter: w, Random: func() float64 { return 0.5 }}
				q, stop := run(t, cfg)
				at := func(due time.Duration, attempts uint16) {
					t.Helper()
					clear(w.sent)
					if e, err := q.Show(1); err != nil || e.Next == nil || e.Next.Sub(first).Round(2*time.Second) != due || e.Attempts != attempts {
						t.Errorf("after %s: attempt %d, the next one at %s, %v; want %d, %s", time.Since(first), e.Attempts, e.Next.Sub(first), err, attempts, due)
					}
				}
				retry := func() {
					t.Helper()
					opens := w.opens["example.net"]
					if n, err := q.Retry([]spool.ID{1}); n != 1 || err != nil {
						t.Errorf("%d, %v", n, err)
					}
					pass(time.Second / 2)
					if w.opens["example.net"] != opens+1 {
						t.Errorf("after %s: it is dialled %d times, want 1", time.Since(first), w.opens["example.net"]-opens)
					}
				}
				pass(20 * time.Minute) // the attempts were at 0, 1, 3, 7 and 15 minutes
				at(31*time.Minute, 5)
				for range 5 {
					retry()
					at(31*time.Minute, 5)
				}
				stopped(t, stop)
				q, stop = run(t, cfg)
				retry()
				at(31*time.Minute, 5)
				pass(10*time.Minute + 50*time.Second)
				retry() // ten seconds before its time
				at(31*time.Minute+54*time.Second, 5)
				pass(time.Minute)
				at(63*time.Minute+54*time.Second, 6)
				stopped(t, stop)
			})
		})
	}
}

// TestQueue_Retry_Other: what a destination waits for is kept in mind also where another message leads than the one that has noted it.
func TestQueue_Retry_Other(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, first := newFake(), time.Now()
		w := newWorld(t.Errorf, f, func(string) *site { return &site{up: func(time.Time) bool { return false }} })
		f.add(1, "example.net", first)
		f.add(2, "example.net", first)
		q, stop := run(t, queue.Config{Store: f, Deliverer: w, Reporter: w, Random: func() float64 { return 0.5 }})
		pass(20 * time.Minute)
		if _, err := q.Hold([]spool.ID{1}); err != nil {
			t.Error(err)
		}
		for _, retry := range []func() (int, error){
			func() (int, error) { return q.RetryDomain("example.net") },
			func() (int, error) { return q.Release([]spool.ID{1}) },
		} {
			if n, err := retry(); n != 1 || err != nil {
				t.Errorf("%d, %v", n, err)
			}
			pass(time.Second)
			if e, err := q.Show(2); err != nil || e.Next == nil || e.Next.Sub(first) != 31*time.Minute {
				t.Errorf("the next attempt is %s after the first, %v", e.Next.Sub(first), err)
			}
		}
		stopped(t, stop)
	})
}

// TestQueue_Retry_Clock: a time that only a wrong clock can have planned does not outlive a retry.
func TestQueue_Retry_Clock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		w := newWorld(t.Errorf, f, func(string) *site { return &site{up: func(time.Time) bool { return false }} })
		f.add(1, "example.net", time.Now())
		wrong := queue.State{Attempts: 2, First: time.Now(), Last: time.Now(), Next: time.Now().Add(5 * day), Flags: queue.FlagDestination}
		f.infos[0].Mark = wrong.Mark()
		q, stop := run(t, queue.Config{Store: f, Deliverer: w, Reporter: w})
		pass(time.Hour)
		if n := w.opens["example.net"]; n > 0 {
			t.Errorf("%d dials before anybody asked", n)
		}
		if _, err := q.RetryAll(); err != nil {
			t.Error(err)
		}
		pass(time.Second)
		if e, err := q.Show(1); err != nil || e.Next == nil || time.Until(*e.Next) > 3*time.Minute {
			t.Errorf("the next attempt is at %s, %v", e.Next, err)
		}
		stopped(t, stop)
	})
}

// TestQueue_Retry_Anew: what the operator wants tried is asked for anew before it is dialled, and nothing else.
func TestQueue_Retry_Anew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		var mu sync.Mutex
		up := map[string]bool{} // what is remembered of a destination
		s := func(domain string) *site {
			return &site{up: func(time.Time) bool {
				mu.Lock()
				defer mu.Unlock()
				return up[domain]
			}}
		}
		w := newWorld(t.Errorf, f, s)
		for n := range 5 {
			f.add(spool.ID(n+1), fmt.Sprintf("d%d.example", n), time.Now())
		}
		forget := func(domain string) {
			mu.Lock()
			defer mu.Unlock()
			up[domain] = true
		}
		q, stop := run(t, queue.Config{Store: f, Deliverer: w, Reporter: w, Forget: forget})
		pass(8 * time.Hour)
		for n, retry := range []func() (int, error){
			func() (int, error) { return q.Retry([]spool.ID{1}) },
			func() (int, error) { return q.RetryDomain("D1.example.") },
			func() (int, error) { return q.Hold([]spool.ID{5}) },
			func() (int, error) { return q.Release([]spool.ID{5}) },
			q.RetryAll,
		} {
			if _, err := retry(); err != nil {
				t.Error(err)
			}
			pass(time.Minute)
			if got, want := len(w.delivered), []int{1, 2, 2, 3, 5}[n]; got != want {
				t.Errorf("step %d: %d are delivered, want %d", n, got, want)
			}
		}
		stopped(t, stop)
	})
}

// TestQueue_Drop: with a report and without; and nothing where one is not there.
func TestQueue_Drop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, w, _, q, _, stop := waitingQueue(t)
		if n, err := q.Drop([]spool.ID{1, 7}, "root", false); n != 0 || !errors.Is(err, spool.ErrNotFound) || f.left() != 6 {
			t.Errorf("%d, %v, %d left", n, err, f.left())
		}
		if n, err := q.Drop(make([]spool.ID, queue.MaxIDs+1), "root", false); n != 0 || !errors.Is(err, queue.ErrTooMany) {
			t.Errorf("%d, %v", n, err)
		}
		if n, err := q.Drop([]spool.ID{1, 6}, "root", false); n != 2 || err != nil || f.gone[6] != "dropped by root" {
			t.Errorf("%d, %v, by %q", n, err, f.gone[6])
		}
		if _, err := q.Hold([]spool.ID{2}); err != nil {
			t.Error(err)
		}
		if n, err := q.Drop([]spool.ID{2}, "root", true); n != 1 || err != nil {
			t.Errorf("%d, %v", n, err)
		}
		pass(time.Second)
		if w.reported[2] != 1 || w.reported[1] != 0 || f.left() != 3 || w.reports[2].State.Reason == "" {
			t.Errorf("reported %v, %d left", w.reported, f.left())
		}
		if s := q.Stats(); s.Queued != 3 || s.Destinations != 1 {
			t.Errorf("%+v", s)
		}
		stopped(t, stop)
	})
}

// TestQueue_Busy: the operator waits for a message that is being sent, and for the queue to be read, but not for ever.
func TestQueue_Busy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, s := newFake(), &site{send: 5 * time.Second}
		w := newWorld(t.Errorf, f, func(string) *site { return s })
		s.fate = func(queue.Item) queue.Result { return queue.Result{Outcome: queue.Temporary} }
		f.add(1, "example.net", time.Now())
		q, stop := run(t, queue.Config{Store: f, Deliverer: w, Reporter: w})
		if n, err := q.RetryAll(); n > 1 || err != nil {
			t.Errorf("%d, %v", n, err)
		}
		pass(time.Second)
		began := time.Now()
		if n, err := q.Hold([]spool.ID{1}); n != 1 || err != nil || time.Since(began) != 4*time.Second {
			t.Errorf("%d, %v, after %s", n, err, time.Since(began))
		}
		s.send = time.Minute
		clear(w.sent) // the operator's word goes before what was promised
		if _, err := q.Release([]spool.ID{1}); err != nil {
			t.Error(err)
		}
		pass(time.Second)
		if n, err := q.Hold([]spool.ID{1}); n != 0 || !errors.Is(err, queue.ErrBusy) {
			t.Errorf("%d, %v", n, err)
		}
		stopped(t, stop)
	})
}

// TestQueue_Adopted: the operator can name a message before Added does, and it is one message then.
func TestQueue_Adopted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, w, _, q, _, stop := waitingQueue(t)
		f.add(7, "example.net", time.Now())
		f.add(8, "example.net", time.Now())
		if n, err := q.Hold([]spool.ID{7}); n != 1 || err != nil {
			t.Errorf("%d, %v", n, err)
		}
		q.Added(7, "example.net")
		q.Added(8, "example.net")
		if s := q.Stats(); s.Queued != 8 || s.Held != 1 {
			t.Errorf("%+v", s)
		}
		pass(11 * day)
		stopped(t, stop)
		if w.reported[8] != 1 || f.left() != 1 {
			t.Errorf("reported %v, %d left", w.reported, f.left())
		}
	})
}

// TestQueue_List: by pages and by domain, with what waits for its destination alone.
func TestQueue_List(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, _, _, q, _, stop := waitingQueue(t)
		all, err := q.List("", 0, 4)
		more, moreErr := q.List("", 4, 4)
		if all = append(all, more...); err != nil || moreErr != nil || len(all) != 6 {
			t.Fatalf("%+v, %v, %v", all, err, moreErr)
		}
		if e := all[0]; e.Attempts < 5 || e.Reason != errDown.Error() || e.Next == nil || !e.Noticed || e.Condition != queue.Waiting || e.Destination != "bob@example.net" {
			t.Errorf("%+v", e)
		}
		if e := all[3]; e.Attempts != 0 || e.Next == nil || !e.Next.Equal(*all[0].Next) {
			t.Errorf("%+v", e)
		}
		some, err := q.List("EXAMPLE.net", 2, 2)
		if err != nil || len(some) != 2 || some[0].ID != spool.ID(3).String() || some[1].ID != spool.ID(4).String() {
			t.Errorf("%+v, %v", some, err)
		}
		cold, err := queue.List(f, outgoing, "example.net", 2, 2)
		if err != nil || len(cold) != 2 || cold[0].ID != some[0].ID || cold[0].Text != "waits for its first attempt" {
			t.Errorf("%+v, %v", cold, err)
		}
		if _, err := queue.Show(f, spool.MailboxID{1}, 1); !errors.Is(err, spool.ErrNotFound) {
			t.Errorf("of another mailbox: %v", err)
		}
		stopped(t, stop)
	})
}
