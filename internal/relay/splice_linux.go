package relay

import (
	"sync/atomic"

	"golang.org/x/sys/unix"
)

const (
	// bulkAfter is how much must come in full reads before a flow gets a pipe.
	bulkAfter = 4 * bufSize
	// bulkLeast is how much a turn must move to keep it.
	bulkLeast = bufSize / 4
	// pipeSize is asked for; a kernel may give less to a user with many.
	pipeSize = 1 << 20
	// maxIdlePipes is how many a loop keeps.
	maxIdlePipes = 8
	// maxPipes is how many a loop has at most, in use or not. A flow beyond them
	// is copied: strangers who send much must not use up the process' files.
	maxPipes = 32
)

// A pipe carries bytes from socket to socket inside the kernel.
type pipe struct {
	r, w, held int
	open       *atomic.Int32 // its loop's count
}

// takePipe returns an empty pipe, or nil when there is none to be had.
func (l *loop) takePipe() *pipe {
	if n := len(l.pipes); n > 0 {
		p := l.pipes[n-1]
		l.pipes = l.pipes[:n-1]
		return p
	}
	var fds [2]int
	if l.open.Add(1) > maxPipes || unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK) != nil {
		l.open.Add(-1)
		return nil
	}
	unix.FcntlInt(uintptr(fds[0]), unix.F_SETPIPE_SZ, pipeSize)
	return &pipe{r: fds[0], w: fds[1], open: &l.open}
}

func (l *loop) givePipe(p *pipe) {
	if len(l.pipes) >= maxIdlePipes {
		p.close()
		return
	}
	l.pipes = append(l.pipes, p)
}

func (p *pipe) close() {
	unix.Close(p.r)
	unix.Close(p.w)
	p.open.Add(-1)
}

// splice is move by way of the flow's pipe, which is filled only when empty: so
// a fill that would block means that the socket has nothing.
func (f *flow) splice(l *loop) (more bool, err error) {
	before := f.moved
	for range turnReads {
		for f.pipe.held > 0 {
			n, err := splice(f.pipe.r, f.to, f.pipe.held)
			if err == unix.EAGAIN {
				return false, nil
			}
			if err != nil {
				return false, err
			}
			f.pipe.held -= n
			f.moved += uint64(n)
		}
		n, err := splice(f.from, f.pipe.w, pipeSize)
		switch {
		case err == unix.EAGAIN:
			if f.moved-before < bulkLeast {
				f.release(l)
			}
			return false, nil
		case err != nil:
			return false, err
		case n == 0:
			f.release(l)
			f.eof, f.ended = true, true
			return false, unix.Shutdown(f.to, unix.SHUT_WR)
		}
		f.pipe.held = n
	}
	return true, nil
}

// release gives the empty pipe back: the flow copies again.
func (f *flow) release(l *loop) {
	l.givePipe(f.pipe)
	f.pipe, f.full = nil, 0
}
