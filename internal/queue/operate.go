package queue

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"cmtpd/internal/spool"
)

// MaxIDs is how many messages Retry, Hold, Release and Drop take at once.
const MaxIDs = 4096

// busyWait is how long an operator waits for a message that is with somebody.
const busyWait = 15 * time.Second

// Errors of what an operator asks for.
var (
	// ErrBusy: a message is being sent, or told of, or the queue is still being read, for quite some time.
	ErrBusy = errors.New("queue: busy; try again later")
	// ErrHeld: a message is held by the operator.
	ErrHeld = errors.New("queue: the message is held; release it")
	// ErrTooMany: more than MaxIDs messages.
	ErrTooMany = fmt.Errorf("queue: at most %d messages at once", MaxIDs)
	// ErrReport: nothing writes reports here.
	ErrReport = errors.New("queue: this server does not write reports yet; drop it without one")
)

// Retry has messages tried as soon as there is a worker. What then fails again waits for the attempt that
// was planned. Nothing is changed where one is not there.
func (q *Queue) Retry(ids []spool.ID) (n int, err error) {
	tries, err := q.grasp(ids)
	if err != nil {
		return 0, err
	}
	for _, t := range tries {
		if t.item.flags&itemHeld != 0 {
			err = fmt.Errorf("%w: %s", ErrHeld, t.ID)
		}
	}
	if err == nil {
		q.anew(tries)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	now := stamp(q.cfg.Now())
	for _, t := range tries {
		d := q.out[t.ID].destination
		q.give(d, t.item)
		if err == nil {
			t.item.next = 0
			d.waive(now)
			n++
		}
		q.put(d, t.item, t.item.next > now)
		q.plan(d)
	}
	q.signal()
	return n, err
}

// anew has asked anew for the destinations of messages.
func (q *Queue) anew(tries []try) {
	domains := make(map[string]struct{})
	for _, t := range tries {
		domains[t.Domain] = struct{}{}
	}
	for domain := range domains {
		q.cfg.Forget(domain)
	}
}

// RetryDomain is Retry for all messages to a domain, RetryAll for all of all; but those that are
// held stay so.
func (q *Queue) RetryDomain(domain string) (n int, err error) {
	q.cfg.Forget(Domain(domain))
	err = q.patiently(func() error {
		if d := q.all[Domain(domain)]; d != nil {
			n = q.hurry(d)
		}
		return nil
	})
	q.signal()
	return n, err
}

// RetryAll is described at RetryDomain.
func (q *Queue) RetryAll() (n int, err error) {
	for _, domain := range q.domains() {
		q.cfg.Forget(domain)
	}
	err = q.patiently(func() error {
		for _, d := range q.all {
			n += q.hurry(d)
		}
		return nil
	})
	q.signal()
	return n, err
}

// domains returns all destinations.
func (q *Queue) domains() []string {
	q.mu.Lock()
	defer q.mu.Unlock()
	return slices.Collect(maps.Keys(q.all))
}

// patiently calls do under mu, again and again while it is told that a message is with somebody, but
// not for long.
func (q *Queue) patiently(do func() error) error {
	timer := time.NewTimer(busyWait)
	defer timer.Stop()
	for {
		var freed chan struct{}
		q.mu.Lock()
		err := ErrBusy
		if q.loaded {
			err = do()
		}
		if errors.Is(err, ErrBusy) {
			if q.freed == nil {
				q.freed = make(chan struct{})
			}
			freed = q.freed
		}
		q.mu.Unlock()
		if freed == nil {
			return err
		}
		select {
		case <-freed:
		case <-timer.C:
			return err
		}
	}
}

// free wakes who is patient. Under mu.
func (q *Queue) free() {
	if q.freed != nil {
		close(q.freed)
		q.freed = nil
	}
}

// hurry makes all messages of a destination ready. Under mu.
func (q *Queue) hurry(d *destination) int {
	d.waive(stamp(q.cfg.Now()))
	d.promote(never - 1)
	for i := range d.ready {
		d.ready[i].next = 0
	}
	q.plan(d)
	return len(d.ready)
}

// waive has a destination wait no longer, and keeps in mind until when it was to.
func (d *destination) waive(now uint32) {
	if d.next > now {
		d.planned = d.next
	}
	d.next, d.failing = 0, false
}

// Hold keeps messages from being tried and from being given up, however long, and durably.
func (q *Queue) Hold(ids []spool.ID) (n int, err error) {
	return q.change(ids, "holding messages", func(s *State) { s.Flags |= flagHeld })
}

// Release ends Hold: the messages are tried at once, and their destinations asked for anew.
func (q *Queue) Release(ids []spool.ID) (n int, err error) {
	tries, err := q.grasp(ids)
	if err != nil {
		return 0, err
	}
	q.anew(tries)
	return q.rewrite(tries, "releasing messages", func(s *State) {
		s.Flags &^= flagHeld | flagDestination
		s.Next = time.Time{}
	})
}

// Drop takes messages out of the queue for good: by is who wants it. With report their senders are
// told first.
func (q *Queue) Drop(ids []spool.ID, by string, report bool) (n int, err error) {
	if report && q.cfg.Reporter == nil {
		return 0, ErrReport
	}
	if report {
		return q.change(ids, "dropping messages", func(s *State) {
			s.answer(Result{Outcome: Permanent, Text: "it was dropped by the operator of this server"})
			s.Flags = s.Flags&^flagHeld | flagGivenUp
		})
	}
	tries, err := q.grasp(ids)
	if err != nil {
		return 0, err
	}
	for d, some := range q.group(tries) {
		if q.retire(d, some, "dropped by "+by) {
			n += len(some)
		}
	}
	return n, q.complain(n, tries)
}

// change changes the states of messages. Nothing is changed where one is not there.
func (q *Queue) change(ids []spool.ID, doing string, edit func(*State)) (n int, err error) {
	tries, err := q.grasp(ids)
	if err != nil {
		return 0, err
	}
	return q.rewrite(tries, doing, edit)
}

// rewrite is change for messages that were grasped.
func (q *Queue) rewrite(tries []try, doing string, edit func(*State)) (n int, err error) {
	for d, some := range q.group(tries) {
		for i := range some {
			edit(&some[i].State)
		}
		for _, t := range q.record(doing, d, some) {
			n++
			q.replace(d, t)
		}
	}
	q.signal()
	return n, q.complain(n, tries)
}

func (q *Queue) complain(n int, tries []try) error {
	if n < len(tries) {
		return fmt.Errorf("queue: only %d of %d messages could be changed: the log says why", n, len(tries))
	}
	return nil
}

// replace puts a message back whose state the operator has changed.
func (q *Queue) replace(d *destination, t try) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.give(d, t.item)
	if t.item.next == 0 && t.item.flags&(itemHeld|itemGivenUp) == 0 {
		d.waive(stamp(q.cfg.Now()))
	}
	q.put(d, t.item, t.item.next > stamp(q.cfg.Now()))
	q.plan(d)
}

// grasp takes messages that wait. It takes none where one is not there, or is with somebody else.
func (q *Queue) grasp(ids []spool.ID) (tries []try, err error) {
	if len(ids) > MaxIDs {
		return nil, ErrTooMany
	}
	ids = slices.Compact(slices.Sorted(slices.Values(ids)))
	domains := make([]string, len(ids))
	for n, id := range ids {
		h, err := q.cfg.Store.Header(id)
		if errors.Is(err, spool.ErrNotFound) {
			err = missing(id)
		}
		if err != nil {
			return nil, err
		}
		domains[n] = Domain(h.DestinationDomain)
	}
	var claimed []errand
	err = q.patiently(func() (err error) {
		claimed, err = q.claim(ids, domains)
		return err
	})
	if err != nil {
		return nil, err
	}
	for _, c := range claimed {
		if t, ok := q.read(c.d, c.item); ok {
			tries = append(tries, t)
		}
	}
	return tries, nil
}

// adopt takes in a message that is in the mailbox, and that nobody has told of. Under mu.
func (q *Queue) adopt(id spool.ID, domain string) {
	if q.knows(id, domain) {
		return
	}
	if info, err := q.cfg.Store.Get(id); err == nil && info.Mailbox == q.cfg.Mailbox {
		q.adopted = max(q.adopted, id)
		q.resume(&info, domain)
	}
}

// knows says whether a message was taken in. Under mu.
func (q *Queue) knows(id spool.ID, domain string) bool {
	if _, out := q.out[id]; out {
		return true
	}
	d := q.all[domain]
	return d != nil && d.has(id)
}

// claim takes messages out of what waits, or none of them. Under mu.
func (q *Queue) claim(ids []spool.ID, domains []string) (claimed []errand, err error) {
	for n, id := range ids {
		q.adopt(id, domains[n])
		if _, out := q.out[id]; out {
			err = fmt.Errorf("%w: %s", ErrBusy, id)
		} else if d := q.all[domains[n]]; d == nil || !d.has(id) {
			err = missing(id)
		}
		if err != nil {
			return nil, err
		}
	}
	for n, id := range ids {
		d := q.all[domains[n]]
		i, _ := d.remove(id)
		q.take(d, i)
		q.plan(d)
		claimed = append(claimed, errand{d: d, item: i})
	}
	return claimed, nil
}

// group sorts messages that were grasped by their destinations.
func (q *Queue) group(tries []try) map[*destination][]try {
	q.mu.Lock()
	defer q.mu.Unlock()
	all := make(map[*destination][]try)
	for _, t := range tries {
		d := q.out[t.ID].destination
		all[d] = append(all[d], t)
	}
	return all
}
