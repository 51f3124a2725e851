package queue

import (
	"cmp"
	"container/heap"
	"slices"
	"time"

	"cmtpd/internal/address"
	"cmtpd/internal/spool"
)

// never is a time that does not come, in seconds since 1970.
const never = ^uint32(0)

// item is what is kept in memory of a message: as little as its time can be known from.
type item struct {
	id      spool.ID
	next    uint32 // not before, in seconds; never where the operator holds it, or its report is due
	arrived uint32
	flags   uint8 // of its state: flagHeld, flagNoticed, flagGivenUp
}

const (
	itemHeld    = uint8(flagHeld >> 8)
	itemNoticed = uint8(flagNoticed >> 8)
	itemGivenUp = uint8(flagGivenUp >> 8)
)

// class is how a destination is treated while others wait.
type class uint8

const (
	fresh    class = iota // nothing is known of it
	proven                // it took or refused a message soon after it was asked
	doubtful              // it could not be reached, or is slow
	classes
)

// destination is one domain that messages wait for. All of it is under Queue.mu.
type destination struct {
	domain   string
	ready    []item   // wait for nothing but the destination, by number: in the order of arrival
	later    []item   // wait for a time of their own: a heap by it
	next     uint32   // the whole destination waits until then
	planned  uint32   // what next was before the operator had it tried; 0 once it was
	look     uint32   // something is to be told to a sender, or given up, then
	last     spool.ID // the message whose attempt has failed last; it may be gone
	lastTime uint32   // of that attempt
	at       uint32   // its place in the agenda: its time there
	place    int32    // and index, -1 for none
	out      int32    // its messages with a worker or the clerk
	workers  uint16
	failures uint8 // of the whole destination, in a row
	class    class
	waits    bool // for a worker
	failing  bool // the last worker could not reach it
}

// Domain returns the normal form of a destination, or what it is given where that is no
// domain: to refuse it is the deliverer's.
func Domain(name string) string {
	if d, err := address.ParseDomain(name); err == nil {
		return d.String()
	}
	return name
}

func stamp(t time.Time) uint32 { return uint32(min(max(t.Unix(), 0), int64(never)-1)) }

// until is stamp, rounded up.
func until(t time.Time) uint32 {
	if t.IsZero() {
		return 0
	}
	return stamp(wholeSecond(t))
}

func byID(a item, id spool.ID) int { return cmp.Compare(a.id, id) }

// insert puts a message among those that are ready.
func (d *destination) insert(i item) {
	if n := len(d.ready); n == 0 || d.ready[n-1].id < i.id {
		d.ready = append(d.ready, i)
		return
	}
	at, _ := slices.BinarySearchFunc(d.ready, i.id, byID)
	d.ready = slices.Insert(d.ready, at, i)
}

// merge is insert for many.
func (d *destination) merge(many []item) {
	if len(many) == 0 {
		return
	}
	slices.SortFunc(many, func(a, b item) int { return cmp.Compare(a.id, b.id) })
	if len(d.ready) > 0 && d.ready[len(d.ready)-1].id > many[0].id {
		all := make([]item, 0, len(d.ready)+len(many))
		for _, i := range d.ready {
			for len(many) > 0 && many[0].id < i.id {
				all, many = append(all, many[0]), many[1:]
			}
			all = append(all, i)
		}
		d.ready = all
	}
	d.ready = append(d.ready, many...)
}

// take takes the oldest messages that are ready.
func (d *destination) take(n int) []item {
	n = min(n, len(d.ready))
	taken := slices.Clone(d.ready[:n])
	if d.ready = d.ready[n:]; len(d.ready) == 0 {
		d.ready = nil
	}
	return taken
}

// laterHeap orders what waits by its time.
type laterHeap []item

func (h laterHeap) Len() int           { return len(h) }
func (h laterHeap) Less(i, j int) bool { return h[i].next < h[j].next }
func (h laterHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *laterHeap) Push(x any)        { *h = append(*h, x.(item)) }
func (h *laterHeap) Pop() any {
	n := len(*h) - 1
	x := (*h)[n]
	*h = (*h)[:n]
	return x
}

// postpone puts a message among those that wait for their own time.
func (d *destination) postpone(i item) { heap.Push((*laterHeap)(&d.later), i) }

// promote makes ready what has waited long enough.
func (d *destination) promote(now uint32) {
	var due []item
	for len(d.later) > 0 && d.later[0].next <= now {
		due = append(due, heap.Pop((*laterHeap)(&d.later)).(item))
	}
	if len(d.later) == 0 {
		d.later = nil
	}
	d.merge(due)
}

// blame notes of which message an attempt has failed.
func (d *destination) blame(id spool.ID, at time.Time) {
	if at := stamp(at); at >= d.lastTime {
		d.last, d.lastTime = id, at
	}
}

// has says whether a message waits here.
func (d *destination) has(id spool.ID) bool {
	_, ok := slices.BinarySearchFunc(d.ready, id, byID)
	return ok || slices.ContainsFunc(d.later, func(i item) bool { return i.id == id })
}

// remove takes one message out, whatever it waits for.
func (d *destination) remove(id spool.ID) (item, bool) {
	if at, ok := slices.BinarySearchFunc(d.ready, id, byID); ok {
		i := d.ready[at]
		d.ready = slices.Delete(d.ready, at, at+1)
		return i, true
	}
	at := slices.IndexFunc(d.later, func(i item) bool { return i.id == id })
	if at < 0 {
		return item{}, false
	}
	return heap.Remove((*laterHeap)(&d.later), at).(item), true
}

// agenda is a heap of destinations by the time at which something has to be done for them.
type agenda []*destination

func (a agenda) Len() int           { return len(a) }
func (a agenda) Less(i, j int) bool { return a[i].at < a[j].at }
func (a agenda) Swap(i, j int) {
	a[i], a[j] = a[j], a[i]
	a[i].place, a[j].place = int32(i), int32(j)
}
func (a *agenda) Push(x any) {
	d := x.(*destination)
	d.place = int32(len(*a))
	*a = append(*a, d)
}
func (a *agenda) Pop() any {
	n := len(*a) - 1
	d := (*a)[n]
	(*a)[n] = nil
	*a = (*a)[:n]
	d.place = -1
	return d
}

// line is destinations in the order in which they came to wait for a worker.
type line struct{ list []*destination }

func (l *line) len() int            { return len(l.list) }
func (l *line) push(d *destination) { l.list = append(l.list, d) }
func (l *line) pop() *destination {
	d := l.list[0]
	l.list[0] = nil
	if l.list = l.list[1:]; len(l.list) == 0 {
		l.list = nil
	}
	return d
}

// past is which destinations without messages were proven ones: the last few thousand.
type past struct{ new, old map[string]struct{} }

const pastSize = 4096

// keep notes how a destination was in the end.
func (p *past) keep(domain string, proven bool) {
	if !proven {
		delete(p.new, domain)
		delete(p.old, domain)
		return
	}
	if p.new == nil || len(p.new) >= pastSize {
		p.new, p.old = make(map[string]struct{}), p.new
	}
	p.new[domain] = struct{}{}
}

func (p *past) has(domain string) bool {
	_, ok := p.new[domain]
	if !ok {
		_, ok = p.old[domain]
	}
	return ok
}
