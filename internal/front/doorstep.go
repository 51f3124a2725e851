package front

import (
	"net"
	"net/netip"
	"sync"
	"time"
)

const (
	// refusalDelay is how long a connection waits to be told that it is refused.
	refusalDelay = time.Second
	// doorstepRoom is how many wait at a time. Each takes a file.
	doorstepRoom = 256
	// doorstepShare is how many of one client's wait before he has it that there is no more room: a client who
	// waits for his refusals has not so many, unless he connects so often at the same time.
	doorstepShare = doorstepRoom / 4
)

// A doorstep lets connections that are refused wait for their refusal. Who tries again as soon as he was turned away,
// as floods do, would otherwise take as much of the machine as it has; so he takes a file and a second. When there
// is no more room, the one that has waited for the longest is closed without a word, for then somebody does not wait.
type doorstep struct {
	delay time.Duration

	mu     sync.Mutex // guards all below
	closed bool
	ring   [doorstepRoom]waiting
	first  int // in ring
	n      int
	of     map[netip.Prefix]int // how many of n are of one client, by limit.Prefix
	timer  *time.Timer          // runs while somebody waits
}

// waiting is a connection that is refused, and how it is told.
type waiting struct {
	conn  net.Conn
	from  netip.Prefix // invalid where no single client is known
	tell  func()       // or nil
	until time.Time
}

func (w waiting) end() {
	if w.tell != nil {
		w.tell()
	}
	w.conn.Close()
}

// keep takes over a connection of a client, has it told after the delay, and closes it. It says whether the
// client is one of those who leave no room for others.
func (d *doorstep) keep(c net.Conn, from netip.Prefix, tell func()) (crowds bool) {
	w := waiting{c, from, tell, time.Now().Add(d.delay)}
	d.mu.Lock()
	if d.closed {
		d.mu.Unlock()
		w.end()
		return false
	}
	var oldest waiting
	if d.n == len(d.ring) {
		crowds = from.IsValid() && d.of[from] >= doorstepShare
		oldest = d.pop()
	}
	if d.of == nil {
		d.of = make(map[netip.Prefix]int)
	}
	d.of[from]++
	d.ring[(d.first+d.n)%len(d.ring)] = w
	if d.n++; d.n == 1 {
		d.timer = time.AfterFunc(d.delay, d.due)
	}
	d.mu.Unlock()
	if oldest.conn != nil {
		oldest.conn.Close()
	}
	return crowds
}

// pop takes the first one. The caller holds mu.
func (d *doorstep) pop() waiting {
	w := d.ring[d.first]
	d.ring[d.first] = waiting{}
	d.first = (d.first + 1) % len(d.ring)
	d.n--
	if d.of[w.from]--; d.of[w.from] == 0 {
		delete(d.of, w.from)
	}
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
