package relay

import (
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
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
	open  atomic.Int32    // pipes there are
	busy  []*flow         // have more to do without an event, owned by run
	spare []*flow         // busy's other half, owned by run

	mu      sync.Mutex
	running bool
	sockets map[int32]socket // by descriptor
	serial  int32            // of the last one added
}

// A socket is one that the loop watches. The serial tells its events from those
// of an earlier one that had the same descriptor.
type socket struct {
	serial int32
	handler
}

// A handler is told by the loop's goroutine what can be done with a descriptor.
type handler interface {
	ready(l *loop, fd int, events uint32)
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

// loopCount is one loop for every two CPUs.
func loopCount() int { return (runtime.GOMAXPROCS(0) + 1) / 2 }

// Files is how many files relayed sessions together may hold open beside the two
// connections of each.
func Files() int {
	const epoll = 2 // the descriptor, and the one that wakes it
	return loopCount() * (2*maxPipes + epoll)
}

func (ls *loops) open() {
	for range loopCount() {
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
	return &loop{epoll: f, wait: wait, fd: fd, buf: make([]byte, bufSize), sockets: make(map[int32]socket)}, nil
}

// pick returns one of the loops, or nil when there is none.
func (ls *loops) pick() *loop {
	ls.once.Do(ls.open)
	if len(ls.all) == 0 {
		return nil
	}
	return ls.all[ls.next.Add(1)%uint32(len(ls.all))]
}

// add has h told what happens on fd, and what has happened already. A
// descriptor that the loop knows goes from one handler to the next.
func (l *loop) add(fd int, h handler) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	op := unix.EPOLL_CTL_ADD
	if _, ok := l.sockets[int32(fd)]; ok {
		op = unix.EPOLL_CTL_MOD
	}
	l.serial++
	ev := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLET, Fd: int32(fd), Pad: l.serial}
	if err := unix.EpollCtl(l.fd, op, fd, &ev); err != nil {
		return err
	}
	l.sockets[int32(fd)] = socket{l.serial, h}
	if !l.running {
		l.running = true
		go l.run()
	}
	return nil
}

// forget has nobody told of fd any more. It comes before closing fd.
func (l *loop) forget(fd int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.sockets, int32(fd))
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
			f.queued = false
			f.session.turn(l, f)
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

// stop reports whether there is no socket left.
func (l *loop) stop() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.running = len(l.sockets) > 0
	return !l.running
}

// fail ends everything: without events nothing can go on.
func (l *loop) fail() {
	l.mu.Lock()
	sockets := l.sockets
	l.sockets = make(map[int32]socket)
	l.running = false
	l.mu.Unlock()
	for fd, s := range sockets {
		s.ready(l, int(fd), unix.EPOLLERR)
	}
}

// event tells the handler of ev.
func (l *loop) event(ev *unix.EpollEvent) {
	l.mu.Lock()
	s := l.sockets[ev.Fd]
	l.mu.Unlock()
	if s.handler != nil && s.serial == ev.Pad { // else of a descriptor since closed, perhaps opened again
		s.ready(l, int(ev.Fd), ev.Events)
	}
}
