package front

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime/debug"
	"slices"
	"syscall"
	"time"

	"cmtpd/internal/limit"
	"cmtpd/internal/netbuf"
)

// Listen opens a TCP listener for Serve. It asks for plain TCP, because bytes
// cannot be spliced between multipath sockets, and for no keep-alive probes,
// because each session has deadlines of its own.
func Listen(ctx context.Context, address string) (net.Listener, error) {
	lc := net.ListenConfig{KeepAlive: -1}
	lc.SetMultipathTCP(false)
	return lc.Listen(ctx, "tcp", address)
}

// Serve accepts connections on l until ctx ends or Shutdown is called, and then
// returns nil; it closes l in any case. Running out of files or memory makes it
// wait a little and go on, any other error of Accept is returned. On a listener
// that is for CMTP only, nobody is greeted and all bytes go to the CMTP handler.
// The sessions outlive Serve: Shutdown ends them.
func (s *Server) Serve(ctx context.Context, l net.Listener, cmtpOnly bool) error {
	defer l.Close()
	defer context.AfterFunc(ctx, func() {
		s.bar.remove(l) // while it can still be told
		l.Close()
	})()
	busy, ok := s.addListener(l)
	if !ok {
		return nil
	}
	defer s.removeListener(l)
	s.bar.add(l)
	defer s.bar.remove(l)
	var delay time.Duration
	for {
		nc, err := s.bar.accept(l)
		switch {
		case err == nil:
			delay = 0
			busy.begin(s.made)
			s.accept(nc, cmtpOnly)
			busy.end()
		case ctx.Err() != nil || s.isStopping():
			return nil
		case isTemporary(err):
			delay = min(max(2*delay, 5*time.Millisecond), time.Second)
			s.cfg.Log.Warn("accept failed, waiting", "listener", l.Addr().String(), "err", err, "wait", delay)
			s.pause(ctx, delay)
		default:
			return fmt.Errorf("front: accept on %s: %w", l.Addr(), err)
		}
	}
}

// Adopt makes what Listen returns of a TCP listener that somebody else has opened.
func Adopt(l net.Listener) (net.Listener, error) {
	tcp, ok := l.(*net.TCPListener)
	if !ok {
		return nil, fmt.Errorf("front: %s is no TCP socket", l.Addr())
	}
	return adopted{tcp}, nil
}

// An adopted listener asks for no keep-alive probes either, which Go would do for it.
type adopted struct{ *net.TCPListener }

// Accept implements net.Listener.
func (l adopted) Accept() (net.Conn, error) {
	c, err := l.AcceptTCP()
	if err != nil {
		return nil, err
	}
	c.SetKeepAlive(false) // fails only for a connection that is gone, which its session will see
	return c, nil
}

func (s *Server) addListener(l net.Listener) (*turn, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping {
		return nil, false
	}
	s.listeners[l] = new(turn)
	return s.listeners[l], true
}

func (s *Server) removeListener(l net.Listener) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.listeners, l)
}

func (s *Server) isStopping() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stopping
}

// isTemporary reports whether accept(2) can succeed later: it ran out of
// something, or the peer was gone before its connection was accepted.
func isTemporary(err error) bool {
	for _, e := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM,
		syscall.ECONNABORTED, syscall.ECONNRESET, syscall.EPROTO, os.ErrDeadlineExceeded} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// pause waits for d, or less when the server is to stop.
func (s *Server) pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	case <-s.stopped:
	}
}

// accept starts a session on nc, or leaves it on the doorstep: a flood beyond the
// caps costs no goroutine, and waits.
func (s *Server) accept(nc net.Conn, cmtpOnly bool) {
	c := &Conn{Conn: nc, ID: newID(), Client: addrPort(nc.RemoteAddr()), Local: addrPort(nc.LocalAddr())}
	proxied := s.believes(c.Client.Addr())
	if proxied {
		c.Client = netip.AddrPort{}
	}
	why := s.admit(c)
	if why == admitted {
		c.In = netbuf.NewReader(nc)
		go s.serve(c, proxied, cmtpOnly)
		return
	}
	s.note(c, why)
	if s.bar.has(c.Client.Addr()) { // the first that came when none was sifted
		nc.Close()
		return
	}
	var tell func()
	if !cmtpOnly {
		tell = func() { s.refuse(nc, why) }
	}
	from := limit.Prefix(c.Client.Addr())
	if s.steps.keep(nc, from, tell) && !s.hasProxy(from) {
		s.bar.put(c.Client, s.limits.Load().FloodPause)
	}
}

// note has the log say that c was refused by a cap.
func (s *Server) note(c *Conn, why refusal) {
	switch why {
	case tooMany:
		s.refused.add(byTotal, c.Client)
	case tooManyFromAddress:
		s.refused.add(byAddress, c.Client)
	case tooFast:
		s.refused.add(byRate, c.Client)
	}
}

// believes reports whether a PROXY header of a is believed, and so required.
func (s *Server) believes(a netip.Addr) bool {
	for _, p := range s.limits.Load().ProxyFrom {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// hasProxy reports whether a load balancer can be in a network: as a client's, that may be a whole IPv6 /64 of neighbours.
func (s *Server) hasProxy(network netip.Prefix) bool {
	return slices.ContainsFunc(s.limits.Load().ProxyFrom, network.Overlaps)
}

// A refusal is why a connection gets no session.
type refusal int

const (
	admitted refusal = iota
	tooMany
	tooManyFromAddress
	tooFast
	shuttingDown
	timedOut
)

// refusalText has the enhanced status code (RFC 3463) and what %s, the host, does.
var refusalText = map[refusal]string{
	tooMany:            "4.7.0 %s has too many connections, try again later",
	tooManyFromAddress: "4.7.0 %s has too many connections from your address, try again later",
	tooFast:            "4.7.0 %s has had too many connections from your address lately, try again later",
	shuttingDown:       "4.3.2 %s is shutting down, try again later",
	timedOut:           "4.4.2 %s has waited too long for a command",
}

// refuse writes a 421 line (RFC 5321 section 3.8) and all but never waits: a
// socket on which no more than a greeting was sent has room for it.
func (s *Server) refuse(nc net.Conn, why refusal) {
	nc.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
	fmt.Fprintf(nc, "421 "+refusalText[why]+"\r\n", s.cfg.Hostname)
}

// serve runs one session from its first byte to its last.
func (s *Server) serve(c *Conn, proxied, cmtpOnly bool) {
	defer func() {
		if p := recover(); p != nil {
			s.cfg.Log.Error("a session failed; this is a bug", "conn", c.ID, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
		}
		c.In.Release()
		c.Close()
		s.leave(c)
	}()
	if proxied && !s.readClient(c, cmtpOnly) {
		return
	}
	verdict, how := CMTP, ""
	if !cmtpOnly {
		verdict, how = s.firstCommand(c)
	}
	if s.cfg.Log.Enabled(s.ctx, slog.LevelDebug) {
		s.cfg.Log.Debug("connection", "conn", c.ID, "client", c.Client, "local", c.Local, "protocol", verdict)
	}
	s.count(verdict)
	switch verdict {
	case SMTP:
		s.smtp.Serve(s.ctx, c)
	case CMTP:
		s.cmtp.Serve(s.ctx, c)
	case Undecided:
		s.vain.add(silent, c.Client)
		s.cfg.Ended("silent", how)
	case Neither:
		s.vain.add(neither, c.Client)
		s.cfg.Ended("neither", "refused")
		c.Farewell([]byte("500 5.5.2 This is no command of SMTP or CMTP\r\n"))
	}
}

// readClient reads the PROXY header, and reports whether the session goes on.
// A header that names no client stands for the proxy itself (its health check).
func (s *Server) readClient(c *Conn, cmtpOnly bool) bool {
	defer s.await(c, s.cfg.ProxyTimeout)()
	client, local, err := readProxy(c.In)
	if err != nil {
		s.countBadProxy()
		s.cfg.Log.Debug("no PROXY header where one is required", "conn", c.ID, "proxy", c.RemoteAddr().String(), "err", err)
		s.refused.add(byProxy, addrPort(c.RemoteAddr()))
		return false
	}
	if !client.IsValid() {
		client, local = addrPort(c.RemoteAddr()), c.Local
	}
	c.Client, c.Local = client, local
	if why := s.admitClient(c); why != admitted {
		s.note(c, why)
		if !cmtpOnly {
			s.refuse(c, why)
		}
		return false
	}
	return true
}

// firstCommand greets and reads until the protocol is certain. It returns
// Undecided when the client is gone or silent for too long, and which of them it was.
func (s *Server) firstCommand(c *Conn) (v Verdict, how string) {
	defer s.await(c, s.limits.Load().FirstCommandTimeout)()
	if _, err := c.Write(s.greeting); err != nil {
		return Undecided, "left"
	}
	for {
		if v := Sniff(c.In.Buffered(), s.cfg.IsCMTP); v != Undecided {
			return v, ""
		}
		err := c.In.Fill()
		if err == nil {
			continue
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			why, how := timedOut, "timeout"
			if s.isStopping() {
				why, how = shuttingDown, "stopped"
			}
			s.refuse(c, why)
			return Undecided, how
		}
		return Undecided, "left"
	}
}

// await begins a time in which c has to send something within d and may be
// ended by a shutdown; the returned function ends it.
func (s *Server) await(c *Conn, d time.Duration) (end func()) {
	c.SetDeadline(time.Now().Add(d))
	c.SetIdle(true)
	return func() {
		c.SetIdle(false)
		c.SetDeadline(time.Time{})
	}
}
