package relay

import (
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"cmtpd/internal/netbuf"
)

// A session is a stream between two sockets in a loop.
type session struct {
	client, backend int  // descriptors
	up, down        flow // owned by the loop's goroutine, once it is started
	moves           atomic.Uint64
	guard           guard // of what the backend says
	ended           chan struct{}

	mu     sync.Mutex // held while descriptors are added, shut or closed by number
	closed bool       // written under mu, by the loop's goroutine once it knows s
}

// newSession returns a session that owns the two descriptors.
func newSession(client, backend int) *session {
	s := &session{client: client, backend: backend, ended: make(chan struct{})}
	s.up = flow{session: s, from: client, to: backend}
	s.down = flow{session: s, from: backend, to: client, guard: &s.guard}
	return s
}

// start passes on what was read before, and then all that comes.
func (s *session) start(l *loop, fromClient, fromBackend []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	up, down := s.up.put(fromClient), s.down.put(fromBackend)
	if up != nil || down != nil {
		s.hearOut(make([]byte, netbuf.Size)) // the loop's buffer is another goroutine's
	}
	if up != nil || down != nil || l.add(s.backend, s) != nil {
		s.close(l)
		return
	}
	if l.add(s.client, s) != nil {
		s.shut() // the loop knows s now, and is the one to close it
	}
}

// ready gives a turn to those directions that can move.
func (s *session) ready(l *loop, fd int, events uint32) {
	if s.closed {
		return
	}
	if events&unix.EPOLLERR != 0 {
		s.fail(l)
		return
	}
	from, to := &s.up, &s.down
	if fd == s.backend {
		from, to = to, from
	}
	if events&(unix.EPOLLIN|unix.EPOLLRDHUP|unix.EPOLLHUP) != 0 {
		from.hungUp = from.hungUp || events&(unix.EPOLLRDHUP|unix.EPOLLHUP) != 0
		s.turn(l, from)
	}
	if events&(unix.EPOLLOUT|unix.EPOLLHUP) != 0 && to.blocked() {
		s.turn(l, to)
	}
}

// turn moves f's bytes as far as its sockets allow, but not forever.
func (s *session) turn(l *loop, f *flow) {
	if s.closed {
		return
	}
	before := f.moved
	more, err := f.move(l)
	if f.moved != before {
		s.moves.Add(1)
	}
	switch {
	case err != nil:
		s.fail(l)
	case s.up.ended && s.down.ended:
		s.end(l)
	case more && !f.queued:
		f.queued = true
		l.busy = append(l.busy, f)
	}
}

// fail ends s when one of its sockets has failed.
func (s *session) fail(l *loop) {
	s.hearOut(l.buf)
	s.end(l)
}

// hearOut reads what a backend of which nothing was heard yet has said before a socket failed, so that the
// client is not left without a word. buf is lent.
func (s *session) hearOut(buf []byte) {
	if d := &s.down; d.guard != nil && s.guard.err == nil {
		switch n, err := read(d.from, buf); {
		case n > 0:
			d.put(buf[:n])
		case err != unix.EAGAIN: // else it is the client that has failed
			d.silent()
		}
	}
	if s.guard.err != nil {
		unix.Shutdown(s.client, unix.SHUT_WR)
		read(s.client, buf) // what is unread when it is closed would reset the connection, and so take the farewell away
	}
}

// end takes s out of the loop and closes it.
func (s *session) end(l *loop) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.close(l)
}

// close is called with mu held. The loop forgets a descriptor before it is
// closed, since after that it may be somebody else's.
func (s *session) close(l *loop) {
	s.closed = true
	for _, f := range []*flow{&s.up, &s.down} {
		l.forget(f.from)
		closeFD(f.from)
		if f.pipe != nil {
			f.pipe.close() // not given back: it may hold bytes
		}
	}
	close(s.ended)
}

func (s *session) done() <-chan struct{} { return s.ended }
func (s *session) moved() uint64         { return s.moves.Load() }

// bytes needs no lock: the loop touches the flows no more once the session has ended.
func (s *session) bytes() (up, down uint64) { return s.up.moved, s.down.moved }

func (s *session) failure() error { return s.guard.err }

// cut shuts both sockets down, which the loop learns by an event.
func (s *session) cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.shut()
	}
}

// shut ends the client's socket first, so that nobody is told that the backend is gone.
func (s *session) shut() {
	unix.Shutdown(s.client, unix.SHUT_RDWR)
	unix.Shutdown(s.backend, unix.SHUT_RDWR)
}

// A flow is one direction of a session.
type flow struct {
	session  *session
	from, to int
	rest     []byte // read and not yet written
	guard    *guard // of the first that moves, or nil
	pipe     *pipe  // where bulk passes without being copied
	full     int    // bytes in an unbroken row of full reads
	moved    uint64 // bytes
	hungUp   bool   // from will end: read until it does
	eof      bool   // from has ended
	ended    bool   // and so has been told to
	queued   bool   // is in the loop's busy list
}

// blocked reports whether f waits for room in to.
func (f *flow) blocked() bool { return len(f.rest) > 0 || f.pipe != nil && f.pipe.held > 0 }

// put writes b, as far as it goes, and keeps a copy of the rest.
func (f *flow) put(b []byte) error {
	if len(b) > 0 && f.guard != nil {
		said, last := f.guard.look(b)
		if last {
			unix.Shutdown(f.from, unix.SHUT_RDWR) // as if the backend had said this and gone
		} else {
			f.guard = nil
		}
		b = said
	}
	return f.write(b)
}

// silent tells the guard that from has ended.
func (f *flow) silent() {
	if f.guard != nil {
		f.guard.gone(f.session.up.eof, f.write)
	}
}

// write is put, of what has been looked at.
func (f *flow) write(b []byte) error {
	if len(b) == 0 {
		return nil // even writing nothing would take a reset's error away
	}
	n, err := write(f.to, b)
	if err == unix.EAGAIN {
		err = nil
	}
	f.moved += uint64(n)
	if err == nil && n < len(b) {
		f.rest = append([]byte(nil), b[n:]...)
	}
	return err
}

// flush writes the rest of an earlier read.
func (f *flow) flush() error {
	b := f.rest
	f.rest = nil
	return f.write(b)
}

// move passes on what there is. It returns true when there is more to do at
// once, and false when an event will tell.
func (f *flow) move(l *loop) (more bool, err error) {
	if f.pipe != nil {
		return f.splice(l)
	}
	if err := f.flush(); err != nil {
		return false, err
	}
	for range turnReads {
		if len(f.rest) > 0 || f.ended {
			return false, nil
		}
		if f.eof {
			f.ended = true
			return false, unix.Shutdown(f.to, unix.SHUT_WR)
		}
		n, err := read(f.from, l.buf)
		switch {
		case err == unix.EAGAIN:
			return false, nil
		case err != nil:
			return false, err
		case n == 0:
			f.eof = true
			f.silent()
			continue
		}
		if err := f.put(l.buf[:n]); err != nil {
			return false, err
		}
		if n < len(l.buf) {
			f.full = 0
			if !f.hungUp {
				return false, nil // the socket is empty: epoll(7)
			}
			continue
		}
		if f.full += n; f.full >= bulkAfter && len(f.rest) == 0 {
			if f.pipe = l.takePipe(); f.pipe != nil {
				return f.splice(l)
			}
		}
	}
	return len(f.rest) == 0, nil
}
