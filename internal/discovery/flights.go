package discovery

import (
	"context"
	"sync"
)

// flights are the questions under way: each is asked once for all who wait for it. One for which nobody
// waits any more goes on, for what it finds out is remembered, but only while there are places for all.
type flights struct {
	mu   sync.Mutex
	all  map[question]*flight // under mu
	left map[*flight]struct{} // under mu: those that nobody waits for, in all or not
}

// A flight is a question under way.
type flight struct {
	question
	end     context.CancelFunc
	waiting int // under flights.mu

	landed chan struct{} // closed when answer is there
	answer *answer
}

func newFlights() *flights {
	return &flights{all: make(map[question]*flight), left: make(map[*flight]struct{})}
}

// join returns the flight of a question, which it has begin ask if there is none. The caller leaves it.
func (f *flights) join(ctx context.Context, q question, begin func(context.Context) *answer) *flight {
	f.mu.Lock()
	defer f.mu.Unlock()
	if fl := f.all[q]; fl != nil {
		fl.waiting++
		delete(f.left, fl)
		return fl
	}
	ctx, end := context.WithCancel(context.WithoutCancel(ctx))
	fl := &flight{question: q, end: end, waiting: 1, landed: make(chan struct{})}
	f.all[q] = fl
	go func() {
		fl.answer = begin(ctx)
		f.mu.Lock()
		defer f.mu.Unlock()
		f.drop(fl)
		close(fl.landed)
	}()
	return fl
}

// leave says that the caller waits no longer. crowded is that there is no place for what nobody waits for.
func (f *flights) leave(fl *flight, crowded bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if fl.waiting--; fl.waiting > 0 {
		return
	}
	select {
	case <-fl.landed:
		return
	default:
	}
	f.left[fl] = struct{}{}
	if crowded {
		f.drop(fl)
	}
}

// clear ends what nobody waits for.
func (f *flights) clear() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for fl := range f.left {
		f.drop(fl)
	}
}

// forget has questions asked anew by who comes from now on.
func (f *flights) forget(questions []question) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, q := range questions {
		delete(f.all, q)
	}
}

// drop is called under mu.
func (f *flights) drop(fl *flight) {
	fl.end()
	delete(f.left, fl)
	if f.all[fl.question] == fl {
		delete(f.all, fl.question)
	}
}
