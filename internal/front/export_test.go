package front

import (
	"log/slog"
	"net"
	"net/netip"
	"time"

	"cmtpd/internal/netbuf"
)

var ProxyLength = proxyLength

type Tally = tally

var NewTally = newTally

func (t *tally) Add(kind int, who netip.AddrPort) { t.add(kind, who) }
func (t *tally) Stop()                            { t.stop() }

// ReadProxy takes a PROXY header off b and returns what is left.
func ReadProxy(b []byte) (left []byte, client netip.AddrPort, err error) {
	ours, theirs := net.Pipe()
	defer ours.Close()
	defer theirs.Close()
	go theirs.Write(b)
	in := netbuf.NewReader(ours)
	for len(in.Buffered()) < len(b) {
		if err := in.Fill(); err != nil {
			return nil, client, err
		}
	}
	client, _, err = readProxy(in)
	return in.Buffered(), client, err
}

const (
	DoorstepRoom  = doorstepRoom
	DoorstepShare = doorstepShare
)

// A Doorstep is what lets refused connections wait.
type Doorstep struct{ doorstep }

func NewDoorstep(delay time.Duration) *Doorstep { return &Doorstep{doorstep{delay: delay}} }

func (d *Doorstep) Keep(c net.Conn, from netip.Prefix, tell func()) (crowds bool) {
	return d.keep(c, from, tell)
}
func (d *Doorstep) Close() { d.close() }

// A Bar is what keeps clients out. What it would have the kernel drop, it tells drop.
type Bar struct{ *bar }

func NewBar(log *slog.Logger, drop func(net.Listener, []netip.Prefix) error) Bar {
	b := newBar(log)
	b.drop = drop
	return Bar{b}
}

func (b Bar) Add(l net.Listener)                      { b.add(l) }
func (b Bar) Remove(l net.Listener)                   { b.remove(l) }
func (b Bar) Put(who netip.AddrPort, d time.Duration) { b.put(who, d) }
func (b Bar) Has(a netip.Addr) bool                   { return b.has(a) }
func (b Bar) Accept(l net.Listener) (net.Conn, error) { return b.accept(l) }
func (b Bar) Stop()                                   { b.stop() }

func (b Bar) Stats() (s Stats) {
	b.show(&s)
	return s
}

// LetWait has the refused wait for so long. It is called before s serves.
func (s *Server) LetWait(d time.Duration) { s.steps.delay = d }

// Listener returns the only one that s serves.
func (s *Server) Listener(t interface{ Fatal(...any) }) *net.TCPListener {
	s.mu.Lock()
	defer s.mu.Unlock()
	for l := range s.listeners {
		return l.(*net.TCPListener)
	}
	t.Fatal("there is no listener")
	return nil
}

// DropBy has s ask drop, and not the kernel.
func (s *Server) DropBy(drop func(net.Listener, []netip.Prefix) error) {
	s.bar.mu.Lock()
	defer s.bar.mu.Unlock()
	s.bar.drop = drop
}
