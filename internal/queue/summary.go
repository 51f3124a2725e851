package queue

import (
	"cmp"
	"context"
	"slices"
	"time"

	"cmtpd/internal/spool"
)

// AgeLimits are where the ages of a Sum are parted.
var AgeLimits = [...]time.Duration{5 * time.Minute, time.Hour, 4 * time.Hour, 24 * time.Hour, 96 * time.Hour}

// A Sum is what waits for one destination, or for several together, and a form of --json. Messages that nobody can
// read, as they are damaged, are not counted.
type Sum struct {
	Messages int                     `json:"messages"`
	Held     int                     `json:"held"`         // of them, by the operator
	Sending  int                     `json:"sending"`      // are being sent, or told of, at this moment
	Oldest   *time.Time              `json:"oldest"`       // arrival; null for none
	Ages     [len(AgeLimits) + 1]int `json:"ages"`         // messages younger than each of AgeLimits, but not than the one before, and those that are older
	Next     *time.Time              `json:"next_attempt"` // of any; null for at once, or for never
}

// A DestinationSum is the Sum of one destination.
type DestinationSum struct {
	Domain string `json:"domain"`
	Sum
	Status uint16 `json:"status"` // of the last failure, 0 for none
	Reason string `json:"reason"` // of it
}

// A Summary tells of the whole queue, destination by destination.
type Summary struct {
	Time         time.Time        `json:"time"`
	AgeLimits    []int64          `json:"age_limits"` // seconds
	Destinations int              `json:"destinations"`
	Total        Sum              `json:"total"`
	Most         []DestinationSum `json:"most"`   // those with the most messages, the largest first
	Others       Sum              `json:"others"` // all that are not there
}

// Summarize is Queue.Summary for a queue that nobody runs, as far as what is on disk tells.
func Summarize(ctx context.Context, store Store, mailbox spool.MailboxID, n int) (Summary, error) {
	q, err := New(Config{Store: store, Mailbox: mailbox})
	if err == nil {
		err = q.load(ctx)
	}
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return Summary{}, err
	}
	return q.Summary(n)
}

// Summary counts what waits, and tells of the n destinations with the most messages, of MaxEntries at most. It looks at every message, and
// takes memory for those n alone.
func (q *Queue) Summary(n int) (Summary, error) {
	n = min(max(n, 0), MaxEntries)
	now := q.cfg.Now()
	r := ranking{n: n}
	err := q.patiently(func() error {
		busy := make(map[*destination]sum)
		for _, t := range q.out {
			s := busy[t.destination]
			s.add(t.arrived, 0, stamp(now))
			s.sending++
			busy[t.destination] = s
		}
		for _, d := range q.all {
			one := rank{domain: d.domain, last: d.last, example: d.example()}
			if d.out > 0 {
				one.sum = busy[d]
			}
			d.count(&one.sum, stamp(now))
			r.add(&one)
		}
		return nil
	})
	if err != nil {
		return Summary{}, err
	}
	r.cut()
	s := Summary{Time: now.UTC().Truncate(time.Second), Destinations: r.destinations, Total: r.total.shown(), Others: r.others.shown(), Most: []DestinationSum{}}
	for _, limit := range AgeLimits {
		s.AgeLimits = append(s.AgeLimits, int64(limit/time.Second))
	}
	for i := range r.most {
		s.Most = append(s.Most, q.told(&r.most[i]))
	}
	return s, nil
}

// told makes the Sum of a destination, with the reason of the last failure: of a message that may be gone, and then of another.
func (q *Queue) told(r *rank) DestinationSum {
	d := DestinationSum{Domain: r.domain, Sum: r.sum.shown()}
	for _, id := range []spool.ID{r.last, r.example} {
		if id == 0 || d.Reason != "" || d.Status != 0 {
			continue
		}
		if info, err := q.cfg.Store.Get(id); err == nil {
			state, _ := parseState(info.Mark) // what cannot be read has no reason
			d.Status, d.Reason = state.Status, state.Reason
		}
	}
	return d
}

// example returns a message that waits. Under Queue.mu.
func (d *destination) example() spool.ID {
	for _, list := range [][]item{d.ready, d.later} {
		if len(list) > 0 {
			return list[0].id
		}
	}
	return 0
}

// count adds up what waits for a destination. Under Queue.mu.
func (d *destination) count(s *sum, now uint32) {
	for i := range d.ready {
		s.add(d.ready[i].arrived, d.next, now)
	}
	for i := range d.later {
		next := d.later[i].next
		if next != never {
			next = max(next, d.next)
		}
		if s.add(d.later[i].arrived, next, now); d.later[i].flags&itemHeld != 0 {
			s.held++
		}
	}
}

// sum is a Sum while it is counted. Its times are seconds since 1970.
type sum struct {
	messages, held, sending int
	oldest, soonest         uint32 // of the arrivals, and of the next attempts; of no meaning where messages is 0
	ages                    [len(AgeLimits) + 1]int
}

// add counts a message.
func (s *sum) add(arrived, next, now uint32) {
	age, n := time.Duration(max(now, arrived)-arrived)*time.Second, 0
	for n < len(AgeLimits) && age >= AgeLimits[n] {
		n++
	}
	if next <= now {
		next = 0
	}
	if s.messages == 0 {
		s.oldest, s.soonest = arrived, next
	}
	s.messages++
	s.ages[n]++
	s.oldest, s.soonest = min(s.oldest, arrived), min(s.soonest, next)
}

// merge adds what another one has counted.
func (s *sum) merge(o *sum) {
	switch {
	case o.messages == 0:
		return
	case s.messages == 0:
		s.oldest, s.soonest = o.oldest, o.soonest
	}
	s.messages, s.held, s.sending = s.messages+o.messages, s.held+o.held, s.sending+o.sending
	s.oldest, s.soonest = min(s.oldest, o.oldest), min(s.soonest, o.soonest)
	for n := range s.ages {
		s.ages[n] += o.ages[n]
	}
}

func (s *sum) shown() Sum {
	v := Sum{Messages: s.messages, Held: s.held, Sending: s.sending, Ages: s.ages}
	if s.messages == 0 {
		return v
	}
	oldest := time.Unix(int64(s.oldest), 0).UTC()
	v.Oldest = &oldest
	if s.soonest != 0 && s.soonest != never {
		next := time.Unix(int64(s.soonest), 0).UTC()
		v.Next = &next
	}
	return v
}

// rank is a destination in a ranking.
type rank struct {
	domain        string
	last, example spool.ID // whose attempt has failed last, and any other one; 0 for none
	sum           sum
}

// ranking keeps those n of all destinations that have the most messages, and counts the others together. It never has more than twice
// as many, and one, at hand.
type ranking struct {
	n             int
	destinations  int
	most          []rank // the first n are in order once it was cut
	wasCut        bool
	total, others sum
}

func (r *ranking) add(d *rank) {
	if d.sum.messages == 0 {
		return
	}
	r.destinations++
	r.total.merge(&d.sum)
	if r.n == 0 || r.wasCut && r.most[r.n-1].compare(d) < 0 {
		r.others.merge(&d.sum)
		return
	}
	if r.most = append(r.most, *d); len(r.most) > 2*r.n {
		r.cut()
		r.wasCut = true
	}
}

// compare orders destinations: the most messages first, then the oldest.
func (d *rank) compare(e *rank) int {
	if c := cmp.Compare(e.sum.messages, d.sum.messages); c != 0 {
		return c
	}
	if c := cmp.Compare(d.sum.oldest, e.sum.oldest); c != 0 {
		return c
	}
	return cmp.Compare(d.domain, e.domain)
}

// cut puts the list in order, and leaves n of it.
func (r *ranking) cut() {
	slices.SortFunc(r.most, func(a, b rank) int { return a.compare(&b) })
	n := min(r.n, len(r.most))
	for i := range r.most[n:] {
		r.others.merge(&r.most[n+i].sum)
	}
	clear(r.most[n:])
	r.most = r.most[:n]
}
