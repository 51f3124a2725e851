// Package relay passes SMTP sessions to the mail server behind this one, byte
// for byte in both directions, half-closes included. It understands that
// server's greeting, which it swallows because the client has been greeted
// already, and nothing else: so STARTTLS, 8BITMIME, BDAT and pipelining work as
// they do without it. The client's address reaches the mail server by the PROXY
// protocol. A mail server that is away, or refuses in its greeting, answers the
// client's first command with that (protocol.md section 1); so does one that is gone
// before it has said more, or takes the PROXY header for a command, which is its only
// reply that is looked at.
package relay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync/atomic"
	"time"

	"cmtpd/internal/config"
	"cmtpd/internal/netbuf"
)

// What a zero field of Config means.
const (
	DefaultConnectTimeout = 30 * time.Second
	DefaultIdleTimeout    = 10 * time.Minute // RFC 5321 section 4.5.3.2 asks for five at least
	DefaultSessionTimeout = 2 * time.Hour
)

// A Config says where sessions go. A zero timeout means its default, never
// "unlimited".
type Config struct {
	// Hostname is this server's name, in refusals and in the relay check.
	Hostname string
	// Backend is the mail server, host:port.
	Backend string
	// Proxy says how the backend learns the client's address.
	Proxy config.ProxyProtocol
	// ConnectTimeout bounds the time until the backend's greeting is read,
	// IdleTimeout that in which no byte moves in either direction, and
	// SessionTimeout that of a session from its first command.
	ConnectTimeout time.Duration
	IdleTimeout    time.Duration
	SessionTimeout time.Duration
	// Log may be nil for silence.
	Log *slog.Logger
	// Ended is told of each session when it is over, and must be quick. It may be nil.
	Ended func(End)
}

func (c Config) withDefaults() Config {
	setDefault(&c.ConnectTimeout, DefaultConnectTimeout)
	setDefault(&c.IdleTimeout, DefaultIdleTimeout)
	setDefault(&c.SessionTimeout, DefaultSessionTimeout)
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Ended == nil {
		c.Ended = func(End) {}
	}
	return c
}

func setDefault(v *time.Duration, def time.Duration) {
	if *v <= 0 {
		*v = def
	}
}

// Stats counts sessions since the Relay was made, but Open, which is now.
type Stats struct {
	Open        int64
	Passed      uint64 // to the backend
	Refused     uint64 // by the backend's greeting
	Unavailable uint64 // backend down, too slow, or no SMTP server
	TimedOut    uint64 // cut for being idle or too long
}

// A Relay serves SMTP sessions. It implements front.Handler.
type Relay struct {
	cfg     Config
	away    []byte        // the reply to who comes while there is no mail server; never written to
	linger  time.Duration // how long a client may stay after it has heard that
	loops   loops
	open    atomic.Int64
	passed  atomic.Uint64
	refused atomic.Uint64
	down    atomic.Uint64
	timeout atomic.Uint64
}

// New returns a Relay. It connects to the backend only for a session.
func New(cfg Config) *Relay {
	away := fmt.Appendf(nil, "421 4.3.2 %s has no mail server at present, try again later\r\n", cfg.Hostname)
	return &Relay{cfg: cfg.withDefaults(), away: away, linger: 5 * time.Second} // as netbuf.Conn.Farewell waits
}

// Stats returns the counters as they are now.
func (r *Relay) Stats() Stats {
	return Stats{
		Open:        r.open.Load(),
		Passed:      r.passed.Load(),
		Refused:     r.refused.Load(),
		Unavailable: r.down.Load(),
		TimedOut:    r.timeout.Load(),
	}
}

// Serve passes one session to the backend and returns when both directions have
// ended, a timeout has passed or ctx ends.
func (r *Relay) Serve(ctx context.Context, c *netbuf.Conn) {
	r.open.Add(1)
	defer r.open.Add(-1)
	e := End{began: time.Now()}
	defer func() { r.cfg.end(c, &e) }()
	s, err := r.start(ctx, c)
	var refusal *refusedError
	switch {
	case err == nil:
	case errors.As(err, &refusal):
		r.refused.Add(1)
		r.cfg.Log.Warn("the mail server refuses a session", "conn", c.ID, "backend", r.cfg.Backend, "code", refusal.code)
		c.Farewell(refusal.greeting)
		e.Outcome = Refused
		return
	case ctx.Err() != nil:
		e.Outcome = Stopped
		return
	default:
		r.down.Add(1)
		r.cfg.Log.Error("the mail server cannot be reached", "conn", c.ID, "backend", r.cfg.Backend, "err", err)
		r.farewell(c)
		e.Outcome = Unavailable
		return
	}
	e.Outcome = r.watch(ctx, s)
	if err := s.failure(); err != nil {
		r.down.Add(1)
		r.cfg.Log.Error("the mail server cannot be reached", "conn", c.ID, "backend", r.cfg.Backend, "err", err)
		e.Outcome = Unavailable
		return
	}
	r.passed.Add(1)
	if e.Outcome == Idle || e.Outcome == Long {
		r.timeout.Add(1)
	}
	e.Up, e.Down = s.bytes()
}

// TurnAway is Serve for a session that must not reach the backend now: it is put off.
func (r *Relay) TurnAway(c *netbuf.Conn) {
	e := End{began: time.Now(), Outcome: Unavailable}
	r.farewell(c)
	r.cfg.end(c, &e)
}

func (r *Relay) farewell(c *netbuf.Conn) { c.Farewell(r.away) }

// A stream is a session on its way in both directions.
type stream interface {
	// done is closed when both directions have ended and both connections
	// are closed.
	done() <-chan struct{}
	// moved returns how often bytes have moved so far.
	moved() uint64
	// bytes returns how many went to the backend, and how many came from there. It is asked
	// once done is closed.
	bytes() (up, down uint64)
	// failure returns why the guard has put the session off, if it has. It is asked once done is closed.
	failure() error
	// cut ends the stream soon.
	cut()
}

// watch waits until s is done, and cuts it when it must not go on.
func (r *Relay) watch(ctx context.Context, s stream) Outcome {
	end := time.Now().Add(r.cfg.SessionTimeout)
	t := time.NewTimer(min(r.cfg.IdleTimeout, r.cfg.SessionTimeout))
	defer t.Stop()
	for moved := s.moved(); ; moved = s.moved() {
		why := Stopped
		select {
		case <-s.done():
			return Passed
		case <-ctx.Done():
		case <-t.C:
			left := time.Until(end)
			if left > 0 && s.moved() != moved {
				t.Reset(min(r.cfg.IdleTimeout, left))
				continue
			}
			why = Idle
			if left <= 0 {
				why = Long
			}
		}
		s.cut()
		<-s.done()
		return why
	}
}

// closeWrite tells the peer that nothing more comes.
func closeWrite(c net.Conn) error {
	if h, ok := c.(interface{ CloseWrite() error }); ok {
		return h.CloseWrite()
	}
	return c.Close()
}
