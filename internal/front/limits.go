package front

import (
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"

	"cmtpd/internal/config"
)

// Limits are what can change of a Config while the Server serves.
type Limits struct {
	// MaxConnections bounds the connections open at a time, all listeners
	// together; MaxPerAddress those of one client: an IPv4 address or an
	// IPv6 /64.
	MaxConnections int
	MaxPerAddress  int
	// Rate is how many new connections a minute one client may make, Burst how
	// many before the rate applies.
	Rate  int
	Burst int
	// FloodPause is for how long the kernel drops the packets of a client who connects
	// again without waiting to be refused.
	FloodPause time.Duration
	// FirstCommandTimeout bounds the wait for the end of the first command.
	FirstCommandTimeout time.Duration
	// ProxyFrom lists the networks of load balancers: a connection from
	// there must begin with a PROXY header, version 1 or 2, which is
	// believed. From elsewhere one is an unknown command like any other.
	ProxyFrom []netip.Prefix
}

// SetLimits has l count for connections that come from now on. Those that are there
// stay, also where they are more than may be.
func (s *Server) SetLimits(l Limits) {
	defaults := config.Default().Limits
	setDefault(&l.MaxConnections, defaults.MaxConnections)
	setDefault(&l.MaxPerAddress, defaults.MaxConnectionsPerAddress)
	setDefault(&l.Rate, defaults.ConnectionRate)
	setDefault(&l.Burst, defaults.ConnectionBurst)
	setDefault(&l.FloodPause, defaults.FloodPause)
	setDefault(&l.FirstCommandTimeout, defaults.CommandTimeout)
	s.limits.Store(&l)
	s.rate.Set(l.Rate, l.Burst)
}

// A turn is what one accept loop is doing: 0 while it waits for a connection, else
// since when it hands one on, in nanoseconds after the Server was made.
type turn struct{ since atomic.Int64 }

func (t *turn) begin(made time.Time) { t.since.Store(int64(time.Since(made)) + 1) }
func (t *turn) end()                 { t.since.Store(0) }

// Alive returns an error when one of the loops that accept has been busy with one
// connection for longer than patience: handing it on never waits for anybody.
func (s *Server) Alive(patience time.Duration) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for l, t := range s.listeners {
		since := t.since.Load()
		if since == 0 {
			continue
		}
		if busy := time.Since(s.made) - time.Duration(since); busy > patience {
			return fmt.Errorf("front: what accepts on %s has been busy with one connection for %s", l.Addr(), busy.Round(time.Millisecond))
		}
	}
	return nil
}
