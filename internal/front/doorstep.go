package front

import (
	"net"
	"sync"
	"time"
)

const (
	// refusalDelay is how long a connection waits to be told that it is refused.
	refusalDelay = time.Second
	// doorstepRoom is how many wait at a time. Each takes a file.
	doorstepRoom = 256
)

// A doorstep lets connections that are refused wait for their refusal. Who tries again as soon as he was turned away,
// as floods do, would otherwise take as much of the machine as it has; so he takes a file and a second. When there
// is no more room, the one that has waited for the longest is closed without a word.
type doorstep struct {
	delay time.Duration

	mu     sync.Mutex // guards all below
	closed bool
	ring   [doorstepRoom]waiting
	first  int // in ring
	n      int
	timer  *time.Timer // runs while somebody waits
}

// waiting is a connection that is refused, and how it is told.
type waiting struct {
	conn  net.Conn
	tell  func() // or nil
	until time.Time
}

func (w waiting) end() {
	if w.tell != nil {
		w.tell()
	}
	w.conn.Close()
}

// keep takes over a connection, has it told after the delay, and closes it.
func (d *doorstep) keep(c net.Conn, tell func()) {
	w := waiting{c, tell, time.Now().Add(d.delay)}
	d.mu.Lock()
	if d.closed {
		d.mu.Unlock()
		w.end()
		return
	}
	var oldest waiting
	if d.n == len(d.ring) {
		oldest = d.pop()
	}
	d.ring[(d.first+d.n)%len(d.ring)] = w
	if d.n++; d.n == 1 {
		d.timer = time.AfterFunc(d.delay, d.due)
	}
	d.mu.Unlock()
	if oldest.conn != nil {
		oldest.conn.Close()
	}
}

// pop takes the first one. The caller holds mu.
func (d *doorstep) pop() waiting {
	w := d.ring[d.first]
	d.ring[d.first] = waiting{}
	d.first = (d.first + 1) % len(d.ring)
	d.n--
	return w
}

// due ends those whose time has come.
func (d *doorstep) due() {
	now := time.Now()
	d.mu.Lock()
	var ended []waiting
	for d.n > 0 && !d.ring[d.first].until.After(now) {
		ended = append(ended, d.pop())
	}
	if d.n > 0 && !d.closed {
		d.timer = time.AfterFunc(d.ring[d.first].until.Sub(now), d.due)
	}
	d.mu.Unlock()
	for _, w := range ended {
		w.end()
	}
}

// close ends all that wait, and from then on each at once.
func (d *doorstep) close() {
	d.mu.Lock()
	d.closed = true
	if d.n > 0 {
		d.timer.Stop()
	}
	var ended []waiting
	for d.n > 0 {
		ended = append(ended, d.pop())
	}
	d.mu.Unlock()
	for _, w := range ended {
		w.end()
	}
}
