package netbuf

import (
	"io"
	"net"
	"net/netip"
	"sync"
	"time"
)

// A Conn is an accepted connection with its Reader and what is known about it.
// What was read before it was handed on, its first command included, is still
// unread in the Reader.
type Conn struct {
	net.Conn
	In *Reader
	// Client is who is at the other end, and Local the address that they
	// connected to: as the PROXY header has it, if there was one.
	Client, Local netip.AddrPort
	// ID names the connection in logs.
	ID string

	mu       sync.Mutex
	idle     bool // waits for a command, so it may be ended at any time
	stopping bool
	woken    bool // by Wake, and nobody has asked for it yet
}

// past is a read deadline that makes every read fail now.
var past = time.Unix(1, 0)

// SetIdle says whether the connection is between two commands. After Stop,
// reading fails on an idle connection as if its deadline had passed, and on a
// busy one once it becomes idle; so set the deadline first, then SetIdle(true),
// then read. Who never calls it is not disturbed by Stop.
func (c *Conn) SetIdle(idle bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.idle = idle
	if idle && (c.stopping || c.woken) {
		c.SetReadDeadline(past)
	}
}

// Stop ends the connection as soon as it is idle. It may be called by any
// goroutine and returns at once.
func (c *Conn) Stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stopping = true
	if c.idle {
		c.SetReadDeadline(past)
	}
}

// Wake ends a read on an idle connection as if its deadline had passed, now or once the connection
// becomes idle. It may be called by any goroutine and returns at once.
func (c *Conn) Wake() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.woken = true
	if c.idle {
		c.SetReadDeadline(past)
	}
}

// Woken reports whether there was a Wake since it was asked last. Whoever sets deadlines asks first, and
// sets them then: a Wake that comes later ends the read.
func (c *Conn) Woken() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	woken := c.woken
	c.woken = false
	return woken
}

// Stopping reports whether Stop was called.
func (c *Conn) Stopping() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stopping
}

// Bounds of what Farewell reads after its last word.
const (
	drainBytes = 1 << 20
	drainTime  = 5 * time.Second
)

// Farewell writes text as the last the peer hears, so that it is not lost.
// Closing a socket that has unread bytes resets the connection, and a reset may
// overtake what was written before it: so Farewell half-closes, and reads what
// still comes, at most 1 MiB and 5 seconds. Closing is left to the caller.
func (c *Conn) Farewell(text []byte) {
	c.SetDeadline(time.Now().Add(drainTime))
	if _, err := c.Write(text); err != nil {
		return
	}
	if h, ok := c.Conn.(interface{ CloseWrite() error }); !ok || h.CloseWrite() != nil {
		return
	}
	io.CopyN(io.Discard, c.In, drainBytes)
}
