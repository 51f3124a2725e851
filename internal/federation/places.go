package federation

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// hurried is how long a question keeps others from a place.
const hurried = time.Second

// errHurried ends a question that does not come to an end.
var errHurried = errors.New("it does not answer, and many others wait to be asked")

// places bound how many questions are under way. One that has no answer after a moment goes among the slow
// ones, or where these have no room either, ends as soon as somebody waits for its place: so servers that swallow packets
// keep nobody for long from those that answer.
type places struct {
	quick, slow chan struct{} // a token for each question
	waiting     atomic.Int32  // for a quick place
}

func newPlaces(quick, slow int) *places {
	return &places{quick: make(chan struct{}, quick), slow: make(chan struct{}, slow)}
}

// enter waits for a place. The question has the context that it returns.
func (p *places) enter(ctx context.Context) (_ context.Context, leave func(), err error) {
	p.waiting.Add(1)
	defer p.waiting.Add(-1)
	select {
	case p.quick <- struct{}{}:
	case <-ctx.Done():
		return nil, nil, context.Cause(ctx)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	s := &stay{places: p, in: p.quick, end: cancel}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.timer = time.AfterFunc(hurried, s.hurry)
	return ctx, s.leave, nil
}

// A stay is one question in its place.
type stay struct {
	*places
	end context.CancelCauseFunc

	mu    sync.Mutex
	in    chan struct{} // under mu: whose token it holds; nil once it has left
	timer *time.Timer   // under mu
}

// hurry is called once a question has had its moment, and while it stays among the quick ones.
func (s *stay) hurry() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.in == nil {
		return
	}
	select {
	case s.slow <- struct{}{}:
		<-s.quick
		s.in = s.slow
		return
	default:
	}
	if s.waiting.Load() > 0 {
		s.end(errHurried)
		return
	}
	s.timer.Reset(hurried / 10)
}

func (s *stay) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.timer.Stop()
	s.end(nil)
	<-s.in
	s.in = nil
}
