package queue

import (
	"context"
	"sync"
	"time"
)

const (
	reportBatch = 64 // messages
	reporters   = 16 // at a time
)

// errand is a message whose sender is to be told something: that it failed, or that it is late.
type errand struct {
	d      *destination
	item   item
	failed bool
}

// clerk tells senders what is on the desk, until ctx ends.
func (q *Queue) clerk(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-q.errands:
		}
		for ctx.Err() == nil {
			q.mu.Lock()
			n := min(len(q.desk), reportBatch)
			some := append([]errand(nil), q.desk[:n]...)
			if q.desk = q.desk[n:]; len(q.desk) == 0 {
				q.desk = nil
			}
			q.mu.Unlock()
			if n == 0 {
				break
			}
			q.tell(ctx, some)
			q.signal()
		}
	}
}

// tell writes reports and notices. That a message was given up is on disk before its sender is told, so
// that none is sent after its report; and the report is before the message is removed. Where a report
// cannot be written, it is tried again.
func (q *Queue) tell(ctx context.Context, some []errand) {
	var late, failed []errand
	for _, e := range some {
		if e.failed {
			failed = append(failed, e)
		} else {
			late = append(late, e)
		}
	}
	for d, tries := range q.gather(late) {
		q.notice(ctx, d, tries)
	}
	for d, tries := range q.gather(failed) {
		for n := range tries {
			s := &tries[n].State
			s.Flags = s.Flags&^flagHeld | flagGivenUp
			if s.Reason == "" {
				s.Reason = "it could not be tried in time"
			}
		}
		tries = q.record("giving messages up", d, tries)
		told, untold := q.ask(tries, func(t *try) error { return q.cfg.Reporter.Failed(ctx, t.Item) })
		q.retire(d, told, "reported to its sender")
		q.cfg.Observer.Failed(len(told))
		q.putBack(d, untold)
	}
}

// gather reads messages, by their destinations.
func (q *Queue) gather(errands []errand) map[*destination][]try {
	all := make(map[*destination][]try)
	for _, e := range errands {
		if t, ok := q.read(e.d, e.item); ok {
			all[e.d] = append(all[e.d], t)
		}
	}
	return all
}

// notice tells senders that their messages are late, and notes that it has.
func (q *Queue) notice(ctx context.Context, d *destination, tries []try) {
	told, untold := q.ask(tries, func(t *try) error { return q.cfg.Reporter.Delayed(ctx, t.Item, t.Arrived.Add(q.cfg.MaxAge)) })
	q.putBack(d, untold)
	for n := range told {
		told[n].State.Flags |= flagNoticed
	}
	now := stamp(q.cfg.Now())
	for _, t := range q.record("recording notices", d, told) {
		if t.State.Flags&flagDestination != 0 {
			t.item.next = 0 // it waits with the others
		}
		q.back(d, t.item, t.item.next > now)
	}
}

// ask has the reporter write, for several at a time.
func (q *Queue) ask(tries []try, write func(*try) error) (told, untold []try) {
	errs := make([]error, len(tries))
	slots := make(chan struct{}, reporters)
	var wait sync.WaitGroup
	for n := range tries {
		slots <- struct{}{}
		wait.Go(func() {
			errs[n] = write(&tries[n])
			<-slots
		})
	}
	wait.Wait()
	for n, t := range tries {
		if errs[n] == nil {
			told = append(told, t)
			continue
		}
		q.cfg.Log.Error("a sender could not be told of a message", "message", t.ID, "error", errs[n])
		untold = append(untold, t)
	}
	return told, untold
}

// putBack puts messages back whose senders could not be told, to be tried a little later.
func (q *Queue) putBack(d *destination, tries []try) {
	if len(tries) == 0 {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	now := q.cfg.Now()
	look := d.look
	for _, t := range tries {
		q.give(d, t.item)
		q.put(d, t.item, t.item.next > stamp(now))
	}
	d.look = min(look, stamp(now.Add(max(q.cfg.FirstRetry, time.Second))))
	q.plan(d)
}
