package session

import (
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"sync"
	"time"

	"cmtpd/internal/cmtp"
	"cmtpd/internal/mailbox"
)

// Bounds of what a session has on its way to the store. A message that would be too much waits until
// there is room, and the client with it; one that is too much by itself goes alone.
const (
	maxFlights     = 64
	maxFlightBytes = 256 << 10 // of messages
	together       = 16        // answers that are written at once: a client should not wait for all of its own
)

// A flight is a MAIL whose message the store has, and which waits for its answer.
type flight struct {
	header  cmtp.Header
	bytes   int64 // of the message
	to      delivery
	digest  [32]byte
	pending Pending
}

// flights are the MAILs of a session that wait, so that those of one client can share a flush, as
// those of many do. While there are any, a goroutine answers them, in their order, and alone
// writes to the client; the session's goroutine reads on, and settles them before it answers anything
// itself. A client that waits has its answer as soon as there is one; answers that are there
// together are written together.
type flights struct {
	*session // of which only what does not change meanwhile is used

	mu        sync.Mutex
	moved     sync.Cond // a flight has landed, or answering has changed
	waiting   []*flight // under mu: the oldest first
	bytes     int64     // under mu: of them
	answering bool      // under mu: the goroutine runs
	answered  time.Time // under mu: when answers were written last
	err       error     // under mu: why no more can be written
	panicked  any       // under mu: what the goroutine has died of
}

// makeRoom waits until so many bytes more may be on their way. It fails when nobody can be answered
// any more.
func (s *session) makeRoom(bytes int64) error {
	f := s.flights
	if f == nil {
		return nil
	}
	f.mu.Lock()
	for f.err == nil && len(f.waiting) > 0 && (len(f.waiting) >= maxFlights || f.bytes+bytes > maxFlightBytes) {
		f.moved.Wait()
	}
	lost := f.err != nil
	f.mu.Unlock()
	if lost {
		return s.settle()
	}
	return nil
}

// launch has a message answered that was submitted, for which there was room.
func (s *session) launch(m *flight) {
	f := s.flights
	if f == nil {
		f = &flights{session: s}
		f.moved.L = &f.mu
		s.flights = f
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.waiting = append(f.waiting, m)
	f.bytes += m.bytes
	if !f.answering {
		f.answering = true
		go f.attend()
	}
}

// settle waits until every MAIL so far is answered. It fails when one could not be.
func (s *session) settle() error {
	f := s.flights
	if f == nil {
		return nil
	}
	s.flights = nil
	f.mu.Lock()
	defer f.mu.Unlock()
	for f.answering {
		f.moved.Wait()
	}
	if f.panicked != nil {
		panic(f.panicked)
	}
	return f.err
}

// stalled says what a failure to read the next command means. The client's time for that does
// not run while it waits for an answer.
func (s *session) stalled(err error) error {
	f := s.flights
	if err == nil || f == nil {
		return err
	}
	if lost := s.settle(); lost != nil {
		return lost
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	s.armFrom(f.answered)
	return nil
}

// attend answers until there is nobody left. A panic comes out of settle.
func (f *flights) attend() {
	defer func() {
		if p := recover(); p != nil {
			f.end(fmt.Sprintf("%v\n%s", p, debug.Stack()))
		}
	}()
	out := buffers.Get().(*[]byte)
	defer buffers.Put(out)
	for n := 0; ; n++ {
		m := f.oldest()
		if m == nil || !m.pending.Ready() || n == together {
			f.write(*out)
			*out, n = (*out)[:0], 0
		}
		if m != nil {
			*out = f.land(m, *out)
		} else if f.rest() {
			return
		}
	}
}

func (f *flights) oldest() *flight {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.waiting) == 0 {
		return nil
	}
	return f.waiting[0]
}

// land waits for the store's word on the oldest, and appends the reply.
func (f *flights) land(m *flight, reply []byte) []byte {
	stored, err := m.pending.Wait()
	switch {
	case err != nil:
		outcome := Failed
		if errors.Is(err, mailbox.ErrFull) {
			outcome = Refused
		}
		f.fate(outcome, m.bytes, &m.header, &m.digest, "err", err)
		f.refused(cmtp.Mail, err)
		reply = f.fail(reply, err)
	default:
		outcome := Stored
		switch {
		case stored.Duplicate:
			outcome = Duplicate
		case m.to.queued:
			outcome = Queued
		}
		if m.to.queued && !stored.Duplicate && f.cfg.Elsewhere != nil { // who stored it first has told
			f.cfg.Elsewhere.Added(stored.ID, m.to.to.Domain.String())
		}
		f.fate(outcome, m.bytes, &m.header, &m.digest, "message", stored.ID)
		reply = f.stored(reply, m.to, m.digest, stored)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.waiting[0] = nil
	f.waiting = f.waiting[1:]
	f.bytes -= m.bytes
	f.moved.Signal()
	return reply
}

// write writes answers, unless that has failed before: the rest are still waited for.
func (f *flights) write(replies []byte) {
	if len(replies) == 0 || f.err != nil { // err is set here alone
		return
	}
	f.conn.SetWriteDeadline(f.deadline(time.Now()))
	_, err := f.pipe.Write(replies)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answered, f.err = time.Now(), err
}

// rest ends the answering, if nobody has come meanwhile.
func (f *flights) rest() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.waiting) > 0 {
		return false
	}
	f.waiting, f.answering = nil, false
	f.moved.Signal()
	return true
}

// end ends the answering for a panic.
func (f *flights) end(panicked any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answering, f.panicked, f.err = false, panicked, errors.New("answering has failed")
	f.moved.Signal()
}
