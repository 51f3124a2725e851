package discovery

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"
)

// Defaults of a Dialer.
const (
	DefaultOverlap     = 250 * time.Millisecond // RFC 8305 section 8
	DefaultDialTimeout = 30 * time.Second
)

// A Dialer connects to the first of several servers that answers. The zero value
// is ready.
type Dialer struct {
	Timeout time.Duration // of one address; 0: DefaultDialTimeout
	Overlap time.Duration // until the next address is tried too; 0: DefaultOverlap
	// DialContext makes one connection and returns when its context ends; nil:
	// net.Dialer's.
	DialContext func(ctx context.Context, network, address string) (net.Conn, error)
}

// An Attempt is one address that could not be connected to.
type Attempt struct {
	Server Server
	Err    error
}

// A DialError is why no server could be connected to, address by address. It is
// temporary.
type DialError struct{ Attempts []Attempt }

// Error names every address.
func (e *DialError) Error() string {
	if len(e.Attempts) == 0 {
		return "connecting: there is no address to connect to"
	}
	texts := make([]string, len(e.Attempts))
	for i, a := range e.Attempts {
		texts[i] = fmt.Sprintf("%s at %s: %v", a.Server.Host, a.Server.Addr, a.Err)
	}
	return "connecting to " + strings.Join(texts, "; to ")
}

// Unwrap returns every attempt's error.
func (e *DialError) Unwrap() []error {
	errs := make([]error, len(e.Attempts))
	for i, a := range e.Attempts {
		errs[i] = a.Err
	}
	return errs
}

// Temporary reports that a server may be up again later.
func (e *DialError) Temporary() bool { return true }

// Dial connects to one of servers, which are in order of preference, and returns
// which. A worse preference is tried only when every better server has failed; of
// equals the next is tried when the last has failed or Overlap has gone by, and the
// first to answer ends the other tries (docs/protocol.md section 23.3). The error
// is a *DialError.
func (d *Dialer) Dial(ctx context.Context, servers []Server) (net.Conn, Server, error) {
	failed := new(DialError)
	for len(servers) > 0 && ctx.Err() == nil {
		equal := 1
		for equal < len(servers) && servers[equal].Preference == servers[0].Preference {
			equal++
		}
		if conn, winner := d.race(ctx, servers[:equal], failed); conn != nil {
			return conn, winner, nil
		}
		servers = servers[equal:]
	}
	if len(servers) > 0 { // the context has ended before they could be tried
		failed.Attempts = append(failed.Attempts, Attempt{servers[0], context.Cause(ctx)})
	}
	return nil, Server{}, failed
}

type dialed struct {
	conn   net.Conn
	server Server
	err    error
}

// race tries equal servers one after the other, each with a start. When it returns
// no try is left running.
func (d *Dialer) race(ctx context.Context, servers []Server, failed *DialError) (net.Conn, Server) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan dialed)
	overlap := time.NewTimer(0)
	defer overlap.Stop()
	var won dialed
	next, running := 0, 0
	start := func() {
		go func(s Server) { done <- d.try(ctx, s) }(servers[next])
		next, running = next+1, running+1
		overlap.Reset(orDefault(d.Overlap, DefaultOverlap))
	}
	for running > 0 || next < len(servers) && won.conn == nil && ctx.Err() == nil {
		select {
		case <-overlap.C:
			if next < len(servers) && ctx.Err() == nil {
				start()
			}
		case got := <-done:
			running--
			switch {
			case got.err == nil && won.conn == nil:
				won = got
				cancel()
			case got.err == nil:
				got.conn.Close()
			case won.conn == nil:
				failed.Attempts = append(failed.Attempts, Attempt{got.server, got.err})
				overlap.Reset(0)
			}
		}
	}
	return won.conn, won.server
}

var errDialTimeout = errors.New("no answer in time")

func (d *Dialer) try(ctx context.Context, s Server) dialed {
	ctx, cancel := context.WithTimeoutCause(ctx, orDefault(d.Timeout, DefaultDialTimeout), errDialTimeout)
	defer cancel()
	dial := d.DialContext
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	conn, err := dial(ctx, "tcp", s.Addr.String())
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return dialed{conn, s, err}
}

func orDefault(d, otherwise time.Duration) time.Duration {
	if d == 0 {
		return otherwise
	}
	return d
}
