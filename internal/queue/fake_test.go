package queue_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sync"
	"time"

	"cmtpd/internal/cmtp"
	"cmtpd/internal/queue"
	"cmtpd/internal/spool"
)

var outgoing = spool.MailboxID{15: 2}

// fault says how a durable call of a fake store fails.
type fault int

const (
	none   fault = iota
	before       // it has no effect
	after        // it fails though it took effect
)

// A fake is a store in memory. What fails once has failed for good, as with a spool.
type fake struct {
	mu     sync.Mutex
	infos  []spool.Info // under mu, by number
	domain map[spool.ID]string
	gone   map[spool.ID]string // by whom
	calls  int
	commit int
	inject func(call int) fault
	dead   bool
}

func newFake() *fake {
	return &fake{domain: make(map[spool.ID]string), gone: make(map[spool.ID]string)}
}

// add stores a message.
func (f *fake) add(id spool.ID, domain string, arrived time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.infos = append(f.infos, spool.Info{ID: id, Entry: spool.Entry{Mailbox: outgoing, Received: arrived}, Size: 100})
	f.domain[id] = domain
}

func (f *fake) find(id spool.ID) (int, bool) {
	return slices.BinarySearchFunc(f.infos, id, func(i spool.Info, id spool.ID) int { return cmp.Compare(i.ID, id) })
}

func (f *fake) List(_ spool.MailboxID, last spool.ID) iter.Seq2[spool.Info, error] {
	return func(yield func(spool.Info, error) bool) {
		f.mu.Lock()
		all := slices.Clone(f.infos)
		f.mu.Unlock()
		for _, i := range all {
			if i.ID > last && f.there(i.ID) && !yield(i, nil) {
				return
			}
		}
	}
}

func (f *fake) there(id spool.ID) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, gone := f.gone[id]
	return !gone
}

func (f *fake) Get(id spool.ID) (spool.Info, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, ok := f.find(id)
	if _, gone := f.gone[id]; !ok || gone {
		return spool.Info{}, fmt.Errorf("%w: %s", spool.ErrNotFound, id)
	}
	return f.infos[n], nil
}

func (f *fake) Header(id spool.ID) (cmtp.Header, error) {
	if _, err := f.Get(id); err != nil {
		return cmtp.Header{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return cmtp.Header{DestinationAccount: "bob", DestinationDomain: f.domain[id], SourceAccount: "alice", SourceDomain: "example.org"}, nil
}

// durable does what a call is to make durable, unless a fault keeps it from that. Under mu.
func (f *fake) durable(do func()) error {
	if f.dead {
		return spool.ErrFailed
	}
	f.calls++
	how := none
	if f.inject != nil {
		how = f.inject(f.calls)
	}
	if how != before {
		do()
		f.commit++
	}
	if f.dead = how != none; f.dead {
		return spool.ErrFailed
	}
	return nil
}

func (f *fake) MarkAll(_ context.Context, all []spool.Marking) (answers []spool.Marked, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	answers = make([]spool.Marked, len(all))
	failed := f.durable(func() {
		for i, m := range all {
			n, ok := f.find(m.ID)
			if _, gone := f.gone[m.ID]; !ok || gone {
				answers[i].Err = spool.ErrNotFound
			} else if len(m.Mark.Keywords) > 128 {
				answers[i].Err = spool.ErrEntry
			} else {
				f.infos[n].Mark = m.Mark
			}
		}
	})
	for i := range answers {
		answers[i].Err = cmp.Or(failed, answers[i].Err)
		err = cmp.Or(err, answers[i].Err)
	}
	return answers, err
}

func (f *fake) RemoveAll(_ context.Context, ids []spool.ID, by string) (removed int, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	err = f.durable(func() {
		for _, id := range ids {
			if _, gone := f.gone[id]; !gone {
				f.gone[id] = by
				removed++
			}
		}
	})
	return removed, err
}

// restart makes the store usable again, as it is on disk.
func (f *fake) restart() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dead, f.inject = false, nil
}

// left counts the messages that are there.
func (f *fake) left() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.infos) - len(f.gone)
}

// A site is how one destination behaves.
type site struct {
	up      func(now time.Time) bool          // nil: always
	dial    time.Duration                     // how long Open takes, also where it fails
	send    time.Duration                     // how long Send takes
	fate    func(i queue.Item) queue.Result   // nil: delivered
	cut     func(sends int) (answers int)     // nil: every message of a batch is answered
	refuses queue.Result                      // of Open; none if zero
	onOpen  func(now time.Time, failed error) // may be nil
}

var errDown = errors.New("connection refused")

// A world is what a queue meets: destinations, and senders.
type world struct {
	site   func(domain string) *site
	check  func(format string, args ...any) // an error
	store  *fake                            // to see that attempts are recorded
	bounds [2]int                           // workers, per domain

	mu        sync.Mutex
	open      map[string]int
	total     int
	most      int
	opens     map[string]int
	delivered map[spool.ID]int
	at        map[spool.ID]time.Time // of the delivery
	sent      map[spool.ID]queue.State
	reported  map[spool.ID]int
	reports   map[spool.ID]queue.Item
	told      map[spool.ID]time.Time
	noticed   map[spool.ID]int
	late      map[spool.ID]time.Time
	reporting func(id spool.ID) error // may be nil
}

func newWorld(check func(string, ...any), store *fake, of func(string) *site) *world {
	return &world{site: of, check: check, store: store, bounds: [2]int{64, 2}, open: map[string]int{}, opens: map[string]int{}, delivered: map[spool.ID]int{},
		at: map[spool.ID]time.Time{}, sent: map[spool.ID]queue.State{}, reported: map[spool.ID]int{}, reports: map[spool.ID]queue.Item{},
		told: map[spool.ID]time.Time{}, noticed: map[spool.ID]int{}, late: map[spool.ID]time.Time{}}
}

type session struct {
	w      *world
	domain string
	site   *site
	sends  int
	closed bool
}

func (w *world) Open(ctx context.Context, domain string) (queue.Session, error) {
	w.count(domain, 1)
	s := w.site(domain)
	err := sleep(ctx, s.dial)
	if err == nil && s.up != nil && !s.up(time.Now()) {
		err = errDown
	}
	if err == nil && s.refuses.Outcome != 0 {
		err = &queue.Failure{Result: s.refuses}
	}
	if s.onOpen != nil {
		s.onOpen(time.Now(), err)
	}
	if err != nil {
		w.count(domain, -1)
		return nil, err
	}
	return &session{w: w, domain: domain, site: s}, nil
}

func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err() // no timer that has gone off already: two of them at once crash the race detector
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// count holds connections to their bounds.
func (w *world) count(domain string, n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.open[domain] += n
	w.total += n
	w.most = max(w.most, w.total)
	if n > 0 {
		w.opens[domain]++
	}
	if w.total > w.bounds[0] || w.open[domain] > w.bounds[1] {
		w.check("%d connections, %d of them to %s", w.total, w.open[domain], domain)
	}
	if w.open[domain] == 0 {
		delete(w.open, domain)
	}
}

func (s *session) Close() error {
	if s.closed {
		s.w.check("a session is closed twice")
	}
	s.closed = true
	s.w.count(s.domain, -1)
	return nil
}

func (s *session) Send(ctx context.Context, items []queue.Item) (results []queue.Result, err error) {
	s.sends++
	if len(items) == 0 || s.closed {
		s.w.check("a batch of %d, closed: %v", len(items), s.closed)
	}
	for n, i := range items {
		s.w.attempted(i)
		if n > 0 && items[n-1].ID >= i.ID {
			s.w.check("%s is sent after %s", i.ID, items[n-1].ID)
		}
	}
	if err := sleep(ctx, s.site.send); err != nil {
		return nil, err
	}
	answers := len(items)
	if s.site.cut != nil {
		if answers = min(s.site.cut(s.sends), len(items)); answers < len(items) {
			err = errors.New("connection reset by peer")
		}
	}
	for _, i := range items[:answers] {
		r := queue.Result{Outcome: queue.Delivered}
		if s.site.fate != nil {
			r = s.site.fate(i)
		}
		if r.Outcome == queue.Delivered {
			s.w.deliver(i)
		}
		results = append(results, r)
	}
	return results, err
}

// attempted checks that an attempt was recorded, and that it is not made before its time.
func (w *world) attempted(i queue.Item) {
	now := time.Now()
	info, err := w.store.Get(i.ID)
	on, parseErr := queue.ParseState(info.Mark)
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil || parseErr != nil {
		w.check("message %s is sent: %v, %v", i.ID, err, parseErr)
		return
	}
	last := w.sent[i.ID]
	switch {
	case on.Attempts != i.State.Attempts || on.Attempts == 0 || !on.Next.After(now):
		w.check("message %s is sent at %s as attempt %d; on disk it is %d, and the next %s", i.ID, now, i.State.Attempts, on.Attempts, on.Next)
	case last.Attempts >= on.Attempts:
		w.check("message %s: attempt %d follows attempt %d", i.ID, on.Attempts, last.Attempts)
	case now.Before(last.Next):
		w.check("message %s is sent at %s, not before %s was promised", i.ID, now, last.Next)
	}
	w.sent[i.ID] = i.State
}

func (w *world) deliver(i queue.Item) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.delivered[i.ID]++
	w.at[i.ID] = time.Now()
}

func (w *world) Failed(_ context.Context, i queue.Item) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.reporting != nil {
		if err := w.reporting(i.ID); err != nil {
			return err
		}
	}
	w.reported[i.ID]++
	w.reports[i.ID], w.told[i.ID] = i, time.Now()
	return nil
}

func (w *world) Delayed(_ context.Context, i queue.Item, until time.Time) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.noticed[i.ID]++
	w.late[i.ID] = time.Now()
	return nil
}
