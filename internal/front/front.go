// Package front puts two protocols on one port: it accepts a connection,
// greets as an SMTP server does, waits for the first command and hands the
// session, with every byte read so far, to the handler of the protocol that
// this command belongs to (protocol.md section 1). What is neither SMTP nor
// CMTP reaches no handler. Nobody holds more connections than the caps allow,
// and nobody holds one in silence past the deadline. Who is refused waits; who does
// not wait for that is not heard for a while, where the kernel can do that.
package front

import (
	"context"
	"encoding/base32"
	"encoding/binary"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"cmtpd/internal/limit"
	"cmtpd/internal/netbuf"
)

// defaultProxyTimeout has no key in the configuration: the header comes from a
// machine of the operator's own, in its first segment.
const defaultProxyTimeout = 10 * time.Second

// A Config says how a Server treats connections. A zero limit or timeout means
// what package config has for it, never "unlimited".
type Config struct {
	// Hostname is the name in the greeting and in every refusal.
	Hostname string
	Limits
	// ProxyTimeout bounds the wait for a PROXY header.
	ProxyTimeout time.Duration
	// IsCMTP reports whether verb, without its NUL, is a CMTP command.
	IsCMTP func(verb string) bool
	// Log may be nil for silence.
	Log *slog.Logger
	// Ended is told of each connection that ends without having shown a protocol: "neither", "refused", or
	// "silent" and "left", "timeout" or "stopped". It must be quick, and may be nil.
	Ended func(protocol, how string)
}

// A Conn is a connection whose protocol is known.
type Conn = netbuf.Conn

// A Handler serves the sessions of one protocol. When the server is shut down,
// a connection that its handler has declared idle fails to read as if its
// deadline had passed, and a busy one once it becomes idle (Conn.SetIdle); a
// handler that never declares anything is given until the end of the shutdown.
type Handler interface {
	// Serve returns when the session is over; the front then closes c. When
	// ctx ends, c is closed by the front and Serve returns soon.
	Serve(ctx context.Context, c *Conn)
}

// Stats counts what a Server has seen since it was made, but Open, Listening and Barred, which are now.
type Stats struct {
	Open           int
	Listening      int    // listeners, now
	Accepted       uint64 // connections, refused ones included
	RefusedTotal   uint64 // by MaxConnections
	RefusedAddress uint64 // by MaxPerAddress
	RefusedRate    uint64 // by Rate
	RefusedFlood   uint64 // of the barred, where the kernel has let them through
	Barred         int    // clients whose packets are dropped, now
	BarredTotal    uint64 // times that a client was barred
	Dropped        uint64 // packets that the kernel dropped at the listeners: of the barred, and for want of room
	BadProxy       uint64 // no valid PROXY header from where one is required
	SMTP           uint64 // sessions by protocol
	CMTP           uint64
	Neither        uint64
	Silent         uint64 // gone or timed out without a first command
}

// A Server accepts connections on any number of listeners.
type Server struct {
	cfg        Config                 // what may change of it is in limits
	limits     atomic.Pointer[Limits] // as they are now
	made       time.Time
	smtp, cmtp Handler
	greeting   []byte
	ctx        context.Context // of all sessions
	cut        context.CancelFunc
	sessions   sync.WaitGroup
	rate       *limit.Rate
	steps      doorstep
	bar        *bar
	refused    *tally // kinds from byTotal on
	vain       *tally // kinds from neither on

	mu         sync.Mutex // guards all below
	stopping   bool
	stopped    chan struct{} // closed when stopping becomes true
	listeners  map[net.Listener]*turn
	conns      map[*Conn]netip.Prefix // with the key in perAddress, if counted there
	perAddress map[netip.Prefix]int   // by limit.Prefix
	stats      Stats
}

// New returns a Server that hands sessions to the two handlers.
func New(cfg Config, smtp, cmtp Handler) *Server {
	setDefault(&cfg.ProxyTimeout, defaultProxyTimeout)
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Ended == nil {
		cfg.Ended = func(string, string) {}
	}
	s := &Server{
		cfg:        cfg,
		made:       time.Now(),
		smtp:       smtp,
		cmtp:       cmtp,
		greeting:   []byte("220 " + cfg.Hostname + " ESMTP CMTP ready\r\n"),
		stopped:    make(chan struct{}),
		listeners:  make(map[net.Listener]*turn),
		conns:      make(map[*Conn]netip.Prefix),
		perAddress: make(map[netip.Prefix]int),
		rate:       limit.NewRate(1, 1, time.Now), // until SetLimits
		steps:      doorstep{delay: refusalDelay},
	}
	s.SetLimits(cfg.Limits)
	s.ctx, s.cut = context.WithCancel(context.Background())
	s.bar = newBar(cfg.Log)
	// In the order of the kinds.
	s.refused = newTally(cfg.Log, slog.LevelWarn, "connections were refused", "all", "address", "rate", "proxy_header")
	s.vain = newTally(cfg.Log, slog.LevelInfo, "connections were no sessions", "neither", "silent")
	return s
}

func setDefault[T int | time.Duration](v *T, def T) {
	if *v <= 0 {
		*v = def
	}
}

// Stats returns the counters as they are now.
func (s *Server) Stats() Stats {
	s.mu.Lock()
	stats := s.stats
	stats.Open, stats.Listening = len(s.conns), len(s.listeners)
	s.mu.Unlock()
	s.bar.show(&stats)
	return stats
}

func (s *Server) count(v Verdict) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch v {
	case SMTP:
		s.stats.SMTP++
	case CMTP:
		s.stats.CMTP++
	case Neither:
		s.stats.Neither++
	case Undecided:
		s.stats.Silent++
	}
}

func (s *Server) countBadProxy() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stats.BadProxy++
}

// Shutdown stops accepting, lets every session end its current command, and
// waits for them. When ctx ends first, it closes the connections that are left,
// waits for their handlers and returns ctx's error.
func (s *Server) Shutdown(ctx context.Context) error {
	s.bar.stop()
	s.stop()
	s.steps.close()
	done := make(chan struct{})
	go func() {
		s.sessions.Wait()
		close(done)
	}()
	defer s.refused.stop()
	defer s.vain.stop()
	defer s.cut()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
	}
	s.cut()
	s.mu.Lock()
	for c := range s.conns {
		c.Close()
	}
	s.mu.Unlock()
	<-done
	return ctx.Err()
}

// stop closes the listeners and tells every connection, once.
func (s *Server) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping {
		return
	}
	s.stopping = true
	close(s.stopped)
	for l := range s.listeners {
		l.Close()
	}
	for c := range s.conns {
		c.Stop()
	}
}

// admit counts c in, or says why not. It counts c's address only if that is
// known by now: a load balancer's connection waits for its PROXY header.
func (s *Server) admit(c *Conn) refusal {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stats.Accepted++
	if s.stopping {
		return shuttingDown
	}
	if len(s.conns) >= s.limits.Load().MaxConnections {
		s.stats.RefusedTotal++
		return tooMany
	}
	key, why := s.countAddress(c)
	if why != admitted {
		return why
	}
	s.conns[c] = key
	s.sessions.Add(1)
	return admitted
}

// admitClient is the part of admit that had to wait for a PROXY header.
func (s *Server) admitClient(c *Conn) (why refusal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns[c], why = s.countAddress(c)
	return why
}

// countAddress counts c for its client's address, unless that has as many
// connections as it may, or has had too many lately. What has no IP address has no caps of its own.
func (s *Server) countAddress(c *Conn) (key netip.Prefix, why refusal) {
	key = limit.Prefix(c.Client.Addr())
	if !key.IsValid() {
		return key, admitted
	}
	if s.perAddress[key] >= s.limits.Load().MaxPerAddress {
		s.stats.RefusedAddress++
		return netip.Prefix{}, tooManyFromAddress
	}
	if !s.rate.Allow(c.Client.Addr()) {
		s.stats.RefusedRate++
		return netip.Prefix{}, tooFast
	}
	s.perAddress[key]++
	return key, admitted
}

// leave takes back what admit and countAddress did.
func (s *Server) leave(c *Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if key := s.conns[c]; key.IsValid() {
		if s.perAddress[key]--; s.perAddress[key] == 0 {
			delete(s.perAddress, key)
		}
	}
	delete(s.conns, c)
	s.sessions.Done()
}

// newID returns 8 letters and digits.
func newID() string {
	var b [5]byte
	n := rand.Uint64()
	b[0] = byte(n >> 32)
	binary.BigEndian.PutUint32(b[1:], uint32(n))
	return base32.HexEncoding.EncodeToString(b[:])
}
