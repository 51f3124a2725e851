package relay

import (
	"errors"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"

	"cmtpd/internal/netbuf"
)

// A loop passes the bytes of many sessions in one goroutine. A mail session is a
// dialogue of short lines, and two goroutines for it spend more on being woken,
// and on reads that find nothing yet, than on the bytes. A loop asks the kernel
// which sockets have something, and reads only those.
//
// The sockets belong to the loop alone: they are duplicates that the runtime's
// own poller does not know, or each event would wake that too. What it does know
// is the epoll descriptor itself, so a loop that waits is a parked goroutine and
// no blocked thread. Events are edge-triggered and registered once.
type loop struct {
	epoll *os.File        // its finalizer closes it
	wait  syscall.RawConn // of epoll
	fd    int             // of epoll
	buf   []byte          // owned by run
	pipes []*pipe         // idle ones, owned by run
	busy  []*flow         // have more to do without an event, owned by run
	spare []*flow         // busy's other half, owned by run

	mu       sync.Mutex
	running  bool
	sessions map[int32]*session // by both descriptors
	serial   int32              // tells a descriptor's sessions apart
}

const (
	// bufSize is the most that is read at once.
	bufSize = 64 << 10
	// turnReads is how often a flow may read before others have their turn.
	turnReads = 16
	// maxEvents is how many sockets are looked at in one turn.
	maxEvents = 128
)

// loops are made when the first session comes: one for every two processors,
// since for each loop at work there are a client and a mail server that need one.
type loops struct {
	once sync.Once
	all  []*loop
	next atomic.Uint32
}

func (ls *loops) open() {
	for range (runtime.GOMAXPROCS(0) + 1) / 2 {
		l, err := newLoop()
		if err != nil {
			return // with none at all, sessions are pumped
		}
		ls.all = append(ls.all, l)
	}
}

func newLoop() (*loop, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, err
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "epoll") // non-blocking: the runtime polls it
	wait, err := f.SyscallConn()
	if err != nil {
		f.Close()
		return nil, err
	}
	return &loop{epoll: f, wait: wait, fd: fd, buf: make([]byte, bufSize), sessions: make(map[int32]*session)}, nil
}

// pass starts the stream between c and backend, whose unread bytes in holds.
func (r *Relay) pass(c *netbuf.Conn, backend net.Conn, in *netbuf.Reader) stream {
	r.loops.once.Do(r.loops.open)
	client, ok := c.Conn.(*net.TCPConn)
	if !ok || len(r.loops.all) == 0 {
		return newPump(c.Conn, backend, c.In, in)
	}
	a, b, err := duplicate(client, backend.(*net.TCPConn))
	if err != nil {
		return newPump(c.Conn, backend, c.In, in)
	}
	s := newSession(a, b)
	err = errors.Join(s.up.put(c.In.Buffered()), s.down.put(in.Buffered()))
	in.Release()
	c.Close()
	backend.Close()
	if err != nil {
		s.close()
		return s
	}
	r.loops.all[r.loops.next.Add(1)%uint32(len(r.loops.all))].add(s)
	return s
}

// duplicate returns descriptors of the two sockets that outlive the conns.
func duplicate(a, b *net.TCPConn) (fa, fb int, err error) {
	if fa, err = dup(a); err != nil {
		return 0, 0, err
	}
	if fb, err = dup(b); err != nil {
		unix.Close(fa)
		return 0, 0, err
	}
	return fa, fb, nil
}

func dup(c *net.TCPConn) (fd int, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	if cerr := raw.Control(func(old uintptr) {
		fd, err = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0)
	}); cerr != nil {
		return 0, cerr
	}
	return fd, err
}

// add takes s over, and closes it when that fails.
func (l *loop) add(s *session) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.serial++
	s.serial = l.serial
	for _, fd := range []int{s.client, s.backend} {
		ev := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLET&0xffffffff, Fd: int32(fd), Pad: s.serial}
		if err := unix.EpollCtl(l.fd, unix.EPOLL_CTL_ADD, fd, &ev); err != nil {
			delete(l.sessions, int32(s.client))
			s.close()
			return
		}
		l.sessions[int32(fd)] = s
	}
	if !l.running {
		l.running = true
		go l.run()
	}
}

// run serves the loop's sessions until there are none.
func (l *loop) run() {
	var events [maxEvents]unix.EpollEvent
	for {
		n, err := l.poll(events[:], len(l.busy) == 0)
		if err != nil {
			l.fail()
			return
		}
		l.busy, l.spare = l.spare[:0], l.busy
		for _, f := range l.spare {
			l.turn(f)
		}
		for i := range n {
			l.event(&events[i])
		}
		if l.stop() {
			return
		}
	}
}

// poll takes the events that there are. With block it waits for the first.
func (l *loop) poll(events []unix.EpollEvent, block bool) (n int, err error) {
	look := func(uintptr) bool {
		if n, err = unix.EpollWait(l.fd, events, 0); err == unix.EINTR {
			n, err = 0, nil
		}
		return n > 0 || err != nil
	}
	if !block {
		look(0)
		return max(n, 0), err
	}
	if werr := l.wait.Read(look); werr != nil {
		return 0, werr
	}
	return max(n, 0), err
}

// stop reports whether there is no session left.
func (l *loop) stop() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.running = len(l.sessions) > 0
	return !l.running
}

// fail closes all sessions: without events none can go on.
func (l *loop) fail() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.sessions {
		s.close()
	}
	clear(l.sessions)
	l.running = false
}

// event gives a turn to those directions of a session that ev says can move.
func (l *loop) event(ev *unix.EpollEvent) {
	l.mu.Lock()
	s := l.sessions[ev.Fd]
	l.mu.Unlock()
	if s == nil || s.serial != ev.Pad {
		return // of a descriptor closed, perhaps opened again, since
	}
	if ev.Events&unix.EPOLLERR != 0 {
		l.end(s)
		return
	}
	from, to := &s.up, &s.down
	if int(ev.Fd) == s.backend {
		from, to = to, from
	}
	if ev.Events&(unix.EPOLLIN|unix.EPOLLRDHUP|unix.EPOLLHUP) != 0 {
		from.hungUp = from.hungUp || ev.Events&(unix.EPOLLRDHUP|unix.EPOLLHUP) != 0
		l.turn(from)
	}
	if ev.Events&(unix.EPOLLOUT|unix.EPOLLHUP) != 0 && to.blocked() {
		l.turn(to)
	}
}

// turn moves f's bytes as far as its sockets allow, but not forever.
func (l *loop) turn(f *flow) {
	s := f.session
	if s.closed {
		return
	}
	before := f.moved
	more, err := f.move(l)
	if f.moved != before {
		s.moves.Add(1)
	}
	switch {
	case err != nil, s.up.ended && s.down.ended:
		l.end(s)
	case more && !f.queued:
		f.queued = true
		l.busy = append(l.busy, f)
	}
}

// end closes s and forgets it.
func (l *loop) end(s *session) {
	l.mu.Lock()
	delete(l.sessions, int32(s.client))
	delete(l.sessions, int32(s.backend))
	l.mu.Unlock()
	s.close()
}
