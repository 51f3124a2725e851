package queue

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"time"

	"cmtpd/internal/cmtp"
	"cmtpd/internal/spool"
)

const (
	freshTime  = 5 * time.Second  // for a destination of which nothing is known, to take a connection
	hurryTime  = time.Second      // the same where more of them wait than
	crowd      = 1                // for each worker
	slow       = 10 * time.Second // from which a destination counts as slow: to connect, or to answer a batch
	turnTime   = 10 * time.Second // and
	turnSends  = 8                // how long one destination keeps a worker that another one waits for
	retryPause = 10 * time.Millisecond
	inspection = time.Minute // how often the messages of one destination are looked through, at most
	deskSize   = 1024        // messages
	longest    = time.Minute // that the scheduler sleeps: the clock may be set
)

// Run serves the queue until ctx ends or the store has failed for good, which is its error. It
// reads the mailbox first. What is under way at the end of ctx is waited for.
func (q *Queue) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer q.work.Wait()
	defer cancel()
	if err := q.load(ctx); err != nil {
		return fmt.Errorf("reading the queue: %w", err)
	}
	q.work.Go(func() { q.clerk(ctx) })
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-q.kick:
		case <-timer.C:
		}
		wait, err := q.step(ctx)
		if err != nil {
			return fmt.Errorf("the queue cannot be written, and what is on disk is known only after a restart: %w", err)
		}
		timer.Reset(wait)
	}
}

// load reads what is in the mailbox.
func (q *Queue) load(ctx context.Context) error {
	began := q.cfg.Now()
	for info, err := range q.cfg.Store.List(q.cfg.Mailbox, 0) {
		if ctx.Err() != nil {
			return nil
		}
		if err != nil && !errors.Is(err, spool.ErrDamaged) {
			return err
		}
		q.listed = max(q.listed, info.ID) // read by others only once it is loaded
		h, err := q.cfg.Store.Header(info.ID)
		if errors.Is(err, spool.ErrNotFound) {
			continue
		}
		if err != nil && !errors.Is(err, spool.ErrDamaged) && !errors.Is(err, cmtp.ErrMessage) {
			return err
		}
		if err != nil {
			q.cfg.Log.Error("a queued message cannot be read, and waits for cmtpd spool repair", "message", info.ID, "error", err)
			continue
		}
		q.mu.Lock()
		q.resume(&info, Domain(h.DestinationDomain))
		q.mu.Unlock()
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, a := range q.early {
		q.arrive(a)
	}
	q.early, q.loaded = nil, true
	q.free()
	q.cfg.Log.Info("the queue was read", "messages", q.queued, "destinations", len(q.all), "took", q.cfg.Now().Sub(began))
	return nil
}

// resume takes in a message with what is on disk of it. An attempt that was recorded counts as
// made. Under mu.
func (q *Queue) resume(info *spool.Info, domain string) {
	s, err := parseState(info.Mark)
	if err != nil {
		q.cfg.Log.Error("the attempts of a queued message are forgotten", "message", info.ID, "error", err)
	}
	d := q.destination(domain)
	now := stamp(q.cfg.Now())
	i := item{id: info.ID, next: until(s.Next), arrived: until(info.Received), flags: uint8(s.Flags>>8) & (itemHeld | itemNoticed | itemGivenUp)}
	if s.Flags&flagDestination != 0 {
		d.failures, d.class = uint8(min(s.Attempts, maxFailures)), doubtful
		if i.flags&(itemHeld|itemGivenUp) == 0 {
			d.next, i.next = max(d.next, i.next), 0
		}
	}
	if s.Reason != "" || s.Status != 0 {
		d.blame(info.ID, s.Last)
	}
	q.queued++
	q.put(d, i, i.next > now)
	q.plan(d)
}

// destination finds or makes one. Under mu.
func (q *Queue) destination(domain string) *destination {
	d := q.all[domain]
	if d == nil {
		d = &destination{domain: domain, look: never, at: never}
		if q.past.has(domain) {
			d.class = proven
		}
		q.all[domain] = d
		heap.Push(&q.agenda, d)
	}
	return d
}

// put puts a message where its state wants it, waiting for its own time or not. Under mu.
func (q *Queue) put(d *destination, i item, waits bool) {
	if i.flags&(itemHeld|itemGivenUp) != 0 {
		i.next, waits = never, true
	}
	if waits {
		d.postpone(i)
	} else {
		d.insert(i)
	}
	d.look = min(d.look, q.due(d, i, waits))
}

// old says whether a message was tried for long enough.
func (q *Queue) old(i item, now uint32) bool {
	return i.arrived+uint32(q.cfg.MaxAge/time.Second) <= now
}

// due returns when something is to be told of a message. One that waits for its destination alone is given
// up only when that has failed since it could last be hoped for: after a long stop, say, all have one more attempt.
// Under mu.
func (q *Queue) due(d *destination, i item, waits bool) uint32 {
	switch {
	case i.flags&itemGivenUp != 0 && q.cfg.Reporter != nil:
		return 0
	case i.flags&itemHeld != 0 || q.cfg.Deliverer == nil:
		return never
	}
	at := never
	if waits || d.failing {
		at = i.arrived + uint32(q.cfg.MaxAge/time.Second)
	}
	if i.flags&itemNoticed == 0 {
		at = min(at, i.arrived+uint32(q.cfg.DelayNotice/time.Second))
	}
	return at
}

// plan puts a destination where it belongs in the agenda, or forgets one without messages. Under mu.
func (q *Queue) plan(d *destination) {
	if len(d.ready)+len(d.later) == 0 && d.out == 0 && d.workers == 0 && !d.waits {
		heap.Remove(&q.agenda, int(d.place))
		delete(q.all, d.domain)
		q.past.keep(d.domain, d.class == proven)
		return
	}
	d.at = d.look
	if q.serves(d) {
		if len(d.ready) > 0 {
			d.at = min(d.at, d.next)
		}
		if len(d.later) > 0 {
			d.at = min(d.at, max(d.next, d.later[0].next))
		}
	}
	heap.Fix(&q.agenda, int(d.place))
}

// serves says whether a worker can be of use to a destination, sooner or later. One is enough until
// it has answered, or for a few messages. Under mu.
func (q *Queue) serves(d *destination) bool {
	if d.waits || q.cfg.Deliverer == nil || int(d.workers) >= q.cfg.PerDomain {
		return false
	}
	return d.workers == 0 || d.class == proven && len(d.ready) > int(d.workers)*q.cfg.Batch
}

// step does all that is to be done now, and returns how long nothing is.
func (q *Queue) step(ctx context.Context) (wait time.Duration, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for ctx.Err() == nil && q.broken == nil {
		now := q.cfg.Now()
		for len(q.agenda) > 0 && q.agenda[0].at <= stamp(now) {
			q.attend(q.agenda[0], stamp(now))
		}
		d, c, ok := q.pick(now)
		if !ok {
			break
		}
		q.start(ctx, d, c, now)
	}
	wait = longest
	now := q.cfg.Now()
	if len(q.agenda) > 0 {
		wait = min(wait, time.Unix(int64(q.agenda[0].at), 0).Sub(now))
	}
	if q.waiting[doubtful].len() > 0 && q.retry.After(now) {
		wait = min(wait, q.retry.Sub(now))
	}
	return max(wait, 0), q.broken
}

// attend does what a destination's time has come for. Under mu.
func (q *Queue) attend(d *destination, now uint32) {
	d.promote(now)
	if d.look <= now {
		q.inspect(d, now)
	}
	if len(d.ready) > 0 && d.next <= now && q.serves(d) {
		d.waits = true
		q.waiting[d.class].push(d)
	}
	q.plan(d)
}

// inspect gives the clerk those messages of a destination whose senders are to be told something, as
// far as there is room on the desk. Under mu.
func (q *Queue) inspect(d *destination, now uint32) {
	look, left := never, false
	pick := func(list []item, waits bool) []item {
		kept := list[:0]
		for _, i := range list {
			at := q.due(d, i, waits)
			if at > now || len(q.desk) >= deskSize {
				kept, look, left = append(kept, i), min(look, max(at, now+1)), left || at <= now
				continue
			}
			q.take(d, i)
			q.desk = append(q.desk, errand{d, i, i.flags&itemGivenUp != 0 || q.old(i, now) && (waits || d.failing)})
		}
		clear(list[len(kept):])
		return kept
	}
	d.ready, d.later = pick(d.ready, false), pick(d.later, true)
	heap.Init((*laterHeap)(&d.later))
	if d.look = look; !left && look != never {
		d.look = max(look, now+uint32(inspection/time.Second))
	}
	select {
	case q.errands <- struct{}{}:
	default:
	}
}

// take notes that a message is with somebody. Under mu.
func (q *Queue) take(d *destination, many ...item) {
	for _, i := range many {
		q.out[i.id] = taken{d, i.arrived}
		d.out++
	}
}

// give is the end of take. Under mu.
func (q *Queue) give(d *destination, i item) {
	delete(q.out, i.id)
	d.out--
	q.free()
}

// forget is give for a message that is gone. Under mu.
func (q *Queue) forget(d *destination, i item) {
	q.give(d, i)
	q.queued--
}

// workers counts those who are busy. Under mu.
func (q *Queue) workers() int { return q.running[fresh] + q.running[proven] + q.running[doubtful] }

// share is the part of the workers that is always left to some.
func (q *Queue) share() int { return max(q.cfg.Workers/8, 1) }

// admits says whether one more worker may go to a destination of class c. An eighth of all is left to the
// proven ones, and a doubtful one comes only into an eighth that is its own, or, where nobody else
// waits, into three quarters. Under mu.
func (q *Queue) admits(c class, now time.Time) bool {
	free := q.cfg.Workers - q.workers()
	if q.waiting[c].len() == 0 || free == 0 {
		return false
	}
	unproven := q.running[fresh] + q.running[doubtful]
	room := q.cfg.Workers == 1 || unproven < q.cfg.Workers-q.share()
	switch c {
	case fresh:
		return room
	case doubtful:
		alone := q.waiting[fresh].len()+q.waiting[proven].len() == 0 && q.running[c] < q.cfg.Workers*3/4
		return room && !q.retry.After(now) && (alone || q.running[c] < q.share())
	}
	return true
}

// pick returns whose turn it is to get a worker: the classes take turns, and in each of them who
// came first. Under mu.
func (q *Queue) pick(now time.Time) (*destination, class, bool) {
	for n := range classes {
		c := (q.turn + n) % classes
		if q.admits(c, now) {
			q.turn = (c + 1) % classes
			return q.waiting[c].pop(), c, true
		}
	}
	return nil, 0, false
}

// start sends a worker to a destination. Under mu.
func (q *Queue) start(ctx context.Context, d *destination, c class, now time.Time) {
	d.waits = false
	if len(d.ready) > 0 && d.next <= stamp(now) && q.serves(d) {
		if c == doubtful {
			q.retry = now.Add(retryPause)
		}
		lead := d.take(1)[0]
		q.take(d, lead)
		d.workers++
		q.running[c]++
		q.work.Go(func() { q.serve(ctx, &visit{destination: d, as: c, began: now}, lead) })
	}
	q.plan(d)
}

// finish ends a worker's visit.
func (q *Queue) finish(v *visit) {
	q.mu.Lock()
	v.workers--
	q.running[v.as]--
	q.plan(v.destination)
	q.mu.Unlock()
	q.signal()
}

// fail notes that the store did not do what it was asked for. What is in doubt after a failed
// write is known only after a restart.
func (q *Queue) fail(doing string, err error) {
	q.cfg.Log.Error("the queue could not be written", "doing", doing, "error", err)
	if errors.Is(err, spool.ErrFailed) || errors.Is(err, spool.ErrClosed) {
		q.mu.Lock()
		q.broken = err
		q.mu.Unlock()
		q.signal()
	}
}

const maxFailures = 30

// delay returns how long to wait after attempt n: twice as long each time, and a fifth more or less.
func (q *Queue) delay(n int) time.Duration {
	d := q.cfg.FirstRetry
	for ; n > 1 && d < q.cfg.LastRetry; n-- {
		d *= 2
	}
	d = min(d, q.cfg.LastRetry)
	return time.Duration(float64(d) * (0.8 + 0.4*q.cfg.Random()))
}
