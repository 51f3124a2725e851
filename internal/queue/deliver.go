package queue

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"cmtpd/internal/spool"
)

// try is an attempt for one message.
type try struct {
	item  item
	early bool // begun before its time, since the operator wanted it
	Item
}

// core is the core digest as the log has it, there and at every server that the message comes to.
func (t *try) core() string { return hex.EncodeToString(t.Digest[:]) }

// visit is a worker at a destination.
type visit struct {
	*destination
	as       class // that the worker counts as; under Queue.mu
	began    time.Time
	sends    int
	answered bool // one message at least
}

// serve is one visit of a worker to a destination. What was recorded as begun is settled even
// when ctx ends.
func (q *Queue) serve(ctx context.Context, v *visit, lead item) {
	defer q.finish(v)
	tries := q.begin(v.destination, []item{lead}, true)
	if len(tries) == 0 {
		return
	}
	session, err := q.open(ctx, v)
	if err != nil {
		q.unreachable(ctx, v.destination, tries[0], err)
		return
	}
	defer session.Close()
	tries = q.reached(ctx, v, tries[0])
	for len(tries) > 0 && q.send(ctx, v, session, tries) {
		over := v.sends >= turnSends || q.cfg.Now().Sub(v.began) >= turnTime
		tries = q.begin(v.destination, q.more(ctx, v.destination, q.cfg.Batch, over), false)
	}
}

// open connects.
func (q *Queue) open(ctx context.Context, v *visit) (Session, error) {
	q.mu.Lock()
	limit := min(q.connectTime(v), q.cfg.OpenTimeout)
	q.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return q.cfg.Deliverer.Open(ctx, v.domain)
}

// connectTime returns how long a destination may take until it is connected. One of which nothing is known has little
// time while others may wait. Where many of its kind do, it has less, and when it is tried again freshTime, then twice
// as long each time: else who takes a moment would wait for all those who never answer. Under mu.
func (q *Queue) connectTime(v *visit) time.Duration {
	many := q.waiting[v.as].len() > crowd*q.cfg.Workers
	switch {
	case v.as == fresh && many:
		return hurryTime
	case v.as == fresh:
		return freshTime
	case v.as == doubtful && v.failures > 0 && many:
		return freshTime << min(v.failures-1, 16)
	}
	return q.cfg.OpenTimeout
}

// more takes further messages for a worker who has a connection: none where its turn is over and
// somebody waits, or ctx is.
func (q *Queue) more(ctx context.Context, d *destination, n int, over bool) []item {
	q.mu.Lock()
	defer q.mu.Unlock()
	wanted := q.cfg.Workers-q.workers() <= q.share() && q.waiting[fresh].len()+q.waiting[proven].len()+q.waiting[doubtful].len() > 0
	if ctx.Err() != nil || q.broken != nil || over && wanted {
		return nil
	}
	now := stamp(q.cfg.Now())
	d.promote(now)
	items := d.take(n)
	q.take(d, items...)
	q.plan(d)
	return items
}

// begin records attempts, in one commit. It returns those that may be made. One that comes before its time, since the operator
// wants it, neither makes the next wait longer nor moves the attempt that was planned, unless that were too soon after it.
func (q *Queue) begin(d *destination, items []item, lead bool) (tries []try) {
	now := q.cfg.Now()
	for _, i := range items {
		t, ok := q.read(d, i)
		if !ok {
			continue
		}
		n, planned := int(t.State.Attempts), t.State.Next
		if lead {
			failures, next := q.standing(d)
			n, planned = max(n, failures), later(planned, next)
		}
		if t.early = planned.After(now); t.early {
			next := now.Add(q.delay(n))
			if planned.Before(next) {
				next = later(planned, now.Add(q.delay(1)))
			}
			t.State.begin(now, next, false)
		} else {
			t.State.begin(now, now.Add(q.delay(n+1)), true)
		}
		if lead {
			t.State.Flags |= flagDestination
		}
		tries = append(tries, t)
	}
	return q.record("recording attempts", d, tries)
}

// standing returns how often a destination has failed, and until when it was to wait before the operator had it tried.
func (q *Queue) standing(d *destination) (failures int, planned time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if d.planned > 0 {
		planned = time.Unix(int64(d.planned), 0)
	}
	return int(d.failures), planned
}

// read completes a message from the store. Where it cannot, the message waits, unless it is gone.
func (q *Queue) read(d *destination, i item) (t try, ok bool) {
	info, err := q.cfg.Store.Get(i.id)
	t = try{item: i, Item: Item{ID: i.id, Domain: d.domain, Digest: info.Digest, Size: info.Size, Arrived: info.Received}}
	switch {
	case errors.Is(err, spool.ErrNotFound):
		q.gone(d, t)
		return t, false
	case err != nil && (info.ID == 0 || !errors.Is(err, spool.ErrDamaged)):
		q.cfg.Log.Error("a queued message cannot be read", "message", i.id, "error", err)
		t.item.next = until(q.cfg.Now().Add(q.cfg.LastRetry))
		q.back(d, t.item, true)
		return t, false
	}
	if t.State, err = parseState(info.Mark); err != nil {
		q.cfg.Log.Error("the attempts of a queued message are forgotten", "message", i.id, "error", err)
	}
	return t, true
}

// record makes the states of messages durable, in one commit. It returns those of which that is so; the
// others wait until it is tried again, or are gone.
func (q *Queue) record(doing string, d *destination, tries []try) (done []try) {
	if len(tries) == 0 {
		return nil
	}
	marks := make([]spool.Marking, len(tries))
	for n := range tries {
		marks[n] = spool.Marking{ID: tries[n].ID, Mark: tries[n].State.mark()}
	}
	answers, err := q.cfg.Store.MarkAll(context.Background(), marks)
	for n, t := range tries {
		switch err := answers[n].Err; {
		case err == nil:
			t.item.next = until(t.State.Next)
			t.item.flags = uint8(t.State.Flags>>8) & (itemHeld | itemNoticed | itemGivenUp)
			done = append(done, t)
		case errors.Is(err, spool.ErrNotFound):
			q.gone(d, t)
		default:
			t.item.next = until(q.cfg.Now().Add(q.cfg.FirstRetry))
			q.putBack(d, []try{t})
		}
	}
	if err != nil && !errors.Is(err, spool.ErrNotFound) {
		q.fail(doing, err)
	}
	return done
}

// back puts a message where it belongs that somebody had.
func (q *Queue) back(d *destination, i item, waits bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.give(d, i)
	q.put(d, i, waits)
	q.plan(d)
}

// gone forgets a message that is in the spool no more.
func (q *Queue) gone(d *destination, tries ...try) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, t := range tries {
		q.forget(d, t.item)
	}
	q.plan(d)
}

// reached notes that a destination answers, and completes the first batch. That this attempt is one to
// reach it is taken out of the message's state, so that a crash does not make all wait: where they would
// wait longer than after a first attempt.
func (q *Queue) reached(ctx context.Context, v *visit, lead try) []try {
	d := v.destination
	q.mu.Lock()
	failed := d.failures > 0
	d.failures, d.next, d.planned, d.failing = 0, 0, 0, false
	if q.cfg.Now().Sub(v.began) >= slow {
		q.judge(v, doubtful)
	}
	q.plan(d)
	q.mu.Unlock()
	rest := q.begin(d, q.more(ctx, d, q.cfg.Batch-1, false), false)
	if failed || lead.State.Attempts > 1 {
		lead.State.Flags &^= flagDestination
		return inOrder(append(q.record("recording that a destination answers", d, []try{lead}), rest...))
	}
	return inOrder(append([]try{lead}, rest...))
}

// inOrder puts a batch in the order of arrival: what was due a moment after the first may be older.
func inOrder(tries []try) []try {
	slices.SortFunc(tries, func(a, b try) int { return cmp.Compare(a.ID, b.ID) })
	return tries
}

// judge makes a destination one of class c, and its worker count as that. Under mu.
func (q *Queue) judge(v *visit, c class) {
	q.running[v.as]--
	q.running[c]++
	v.as, v.class = c, c
}

// unreachable settles an attempt that ended before there was a connection: all messages of the
// destination wait together, or are given up, a batch at a time.
func (q *Queue) unreachable(ctx context.Context, d *destination, lead try, err error) {
	if ctx.Err() != nil {
		q.back(d, lead.item, false) // nobody waits for it any more
		return
	}
	r := Result{Outcome: Temporary, Text: err.Error()}
	if f, ok := errors.AsType[*Failure](err); ok {
		r = f.Result
	}
	n, _ := q.standing(d)
	if !lead.early {
		n++
	}
	n = max(int(lead.State.Attempts), n) // as begin has it, which next follows from
	q.cfg.Log.Info("destination failed", "domain", d.domain, "message", lead.ID, "status", r.Status, "reason", r.Text, "attempt", n, "next", lead.State.Next)
	if r.Outcome == Permanent {
		q.settle(d, append([]try{lead}, q.begin(d, q.more(ctx, d, q.cfg.Batch-1, false), false)...), []Result{r}, r)
		q.mu.Lock()
		d.class = doubtful
		q.mu.Unlock()
		return
	}
	q.cfg.Observer.Refused(r.Status)
	lead.State.answer(r)
	q.mu.Lock()
	q.failed(d, lead.State.Next, lead.early)
	d.blame(lead.ID, lead.State.Last)
	q.mu.Unlock()
	for _, t := range q.record("recording why a destination failed", d, []try{lead}) {
		t.item.next = 0
		q.back(d, t.item, false)
	}
	q.cfg.Observer.Deferred(1)
}

// failed notes that a destination as a whole has failed, and waits. An early attempt does not count behind others. Under mu.
func (q *Queue) failed(d *destination, next time.Time, early bool) {
	if !early || d.failures == 0 {
		d.failures = min(d.failures+1, maxFailures)
	}
	d.class, d.failing = doubtful, true
	d.next, d.planned = until(next), 0
}

// send sends a batch and settles it. It says whether the connection can be used again.
func (q *Queue) send(ctx context.Context, v *visit, s Session, tries []try) bool {
	items := make([]Item, len(tries))
	for i, t := range tries {
		items[i] = t.Item
	}
	began := q.cfg.Now()
	results, err := q.watched(ctx, v, func(ctx context.Context) ([]Result, error) { return s.Send(ctx, items) })
	results = results[:min(len(results), len(tries))]
	if err == nil && len(results) < len(tries) {
		err = errors.New("the connection ended before every message was answered")
	}
	v.sends++
	v.answered = v.answered || len(results) > 0
	q.mu.Lock()
	switch {
	case q.cfg.Now().Sub(began) >= slow:
		q.judge(v, doubtful)
	case len(results) > 0:
		q.judge(v, proven)
	}
	if err != nil && !v.answered && ctx.Err() == nil {
		q.judge(v, doubtful)
		q.failed(v.destination, q.cfg.Now().Add(q.delay(int(v.failures)+1)), false)
	}
	q.plan(v.destination)
	q.mu.Unlock()
	rest := Result{Outcome: Temporary}
	if err != nil {
		rest.Text = err.Error()
	}
	if ctx.Err() != nil { // what was not answered had no fair attempt, but it is counted
		for _, t := range tries[len(results):] {
			q.back(v.destination, t.item, true)
		}
		tries = tries[:len(results)]
	}
	q.settle(v.destination, tries, results, rest)
	return err == nil
}

// watched sends to a destination that does not count as doubtful. Once it is slow it does; and where no worker is
// free for one that waits and is not, and the doubtful have more than their share, it has to give way, and comes
// again as what it is. So nobody holds all workers by having answered soon before.
func (q *Queue) watched(ctx context.Context, v *visit, send func(context.Context) ([]Result, error)) ([]Result, error) {
	q.mu.Lock()
	known := v.as == doubtful
	q.mu.Unlock()
	if known {
		return send(ctx)
	}
	ctx, cut := context.WithCancelCause(ctx)
	defer cut(nil)
	var look *time.Timer
	ready := make(chan struct{}) // look is there
	look = time.AfterFunc(slow, func() {
		<-ready
		switch {
		case ctx.Err() != nil:
		case q.mustGiveWay(v):
			cut(errGaveWay)
		default:
			look.Reset(slow / 10)
		}
	})
	close(ready)
	defer look.Stop()
	results, err := send(ctx)
	if err != nil && errors.Is(context.Cause(ctx), errGaveWay) {
		err = errGaveWay
	}
	return results, err
}

var errGaveWay = errors.New("the server takes messages too slowly while others wait")

func (q *Queue) mustGiveWay(v *visit) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if v.as != doubtful {
		q.judge(v, doubtful)
	}
	now := q.cfg.Now()
	wanted := q.waiting[fresh].len() > 0 && !q.admits(fresh, now) || q.waiting[proven].len() > 0 && !q.admits(proven, now)
	return wanted && q.running[doubtful] > q.share()
}

// settle makes durable what attempts came to. Tries without a result have the fate of the rest.
func (q *Queue) settle(d *destination, tries []try, results []Result, rest Result) {
	var delivered, failed []try
	deferred := 0
	for n, t := range tries {
		r := rest
		if n < len(results) {
			r = results[n]
		}
		if r.Outcome == Delivered {
			q.cfg.Log.Info("message delivered", append([]any{"message", t.ID, "digest", t.core(), "domain", d.domain}, r.Receipt.shown()...)...)
			delivered = append(delivered, t)
			continue
		}
		q.cfg.Observer.Refused(r.Status)
		t.State.answer(r)
		t.State.Flags &^= flagDestination
		if r.Outcome == Permanent {
			t.State.Flags |= flagGivenUp
		} else {
			deferred++
		}
		q.cfg.Log.Info("message not delivered", "message", t.ID, "digest", t.core(), "domain", d.domain, "status", r.Status, "reason", t.State.Reason,
			"given_up", r.Outcome == Permanent, "attempt", t.State.Attempts, "next", t.State.Next)
		failed = append(failed, t)
	}
	q.retire(d, delivered, "delivered to "+d.domain)
	for _, t := range q.record("recording what became of messages", d, failed) {
		q.refused(d, t)
	}
	q.cfg.Observer.Delivered(len(delivered))
	q.cfg.Observer.Deferred(deferred)
	q.signal()
}

// refused puts a message back that was not delivered.
func (q *Queue) refused(d *destination, t try) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if t.item.flags&itemGivenUp == 0 {
		d.blame(t.ID, t.State.Last)
	}
	q.give(d, t.item)
	q.put(d, t.item, true)
	q.plan(d)
}

// retire removes messages from the spool. If that fails they are sent, or reported, once more.
func (q *Queue) retire(d *destination, tries []try, why string) bool {
	if len(tries) == 0 {
		return true
	}
	ids := make([]spool.ID, len(tries))
	for n, t := range tries {
		ids[n] = t.ID
	}
	_, err := q.cfg.Store.RemoveAll(context.Background(), ids, why[:min(len(why), 255)])
	if err == nil {
		q.gone(d, tries...)
		return true
	}
	q.fail(fmt.Sprintf("removing messages that were %s", why), err)
	q.putBack(d, tries)
	return false
}
