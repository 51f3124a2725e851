package relay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"cmtpd/internal/netbuf"
)

// start connects to the backend and starts the stream between it and c: in a
// loop, unless c is no socket.
func (r *Relay) start(ctx context.Context, c *netbuf.Conn) (stream, error) {
	client, ok := c.Conn.(*net.TCPConn)
	l := r.loops.pick()
	if !ok || l == nil {
		return r.startPump(ctx, c)
	}
	header, err := proxyHeader(r.cfg.Proxy, c.Client, c.Local)
	if err != nil {
		return nil, err
	}
	backend, early, err := r.dialIn(ctx, l, header)
	if err != nil {
		return nil, err
	}
	fd, err := dup(client)
	if err != nil {
		l.forget(backend)
		closeFD(backend)
		return nil, err
	}
	s := newSession(fd, backend)
	s.guard = r.guard(c.In.Buffered())
	s.guard.cut = s.cut
	s.start(l, c.In.Buffered(), early)
	c.In.Release()
	client.Close() // the duplicate is open
	return s, nil
}

// dup returns a descriptor of c's socket that outlives c.
func dup(c *net.TCPConn) (fd int, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	if cerr := raw.Control(func(old uintptr) {
		fd, err = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0)
	}); cerr != nil {
		return 0, cerr
	}
	return fd, os.NewSyscallError("fcntl", err)
}

// dialIn is connect in a loop. It returns a socket that the loop knows, and what
// the backend sent after its greeting.
func (r *Relay) dialIn(ctx context.Context, l *loop, header []byte) (fd int, early []byte, err error) {
	t := time.NewTimer(r.cfg.ConnectTimeout)
	defer t.Stop()
	addrs, err := r.addresses(ctx)
	for _, addr := range addrs {
		fd, early, err = dialOne(ctx, l, addr, header, t.C)
		if !errors.As(err, new(*os.SyscallError)) {
			break // connected, or out of time: otherwise the next may do
		}
	}
	return fd, early, err
}

// addresses returns where the backend is: one address or more, or an error.
func (r *Relay) addresses(ctx context.Context) ([]netip.AddrPort, error) {
	if addr, err := netip.ParseAddrPort(r.cfg.Backend); err == nil {
		return []netip.AddrPort{addr}, nil
	}
	host, service, err := net.SplitHostPort(r.cfg.Backend)
	if err != nil {
		return nil, err
	}
	port, err := net.DefaultResolver.LookupPort(ctx, "tcp", service)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, r.cfg.ConnectTimeout)
	defer cancel()
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	var addrs []netip.AddrPort
	for _, ip := range ips {
		addrs = append(addrs, netip.AddrPortFrom(ip.Unmap(), uint16(port)))
	}
	return addrs, err
}

// dialOne connects to addr and reads the greeting, until timeout.
func dialOne(ctx context.Context, l *loop, addr netip.AddrPort, header []byte, timeout <-chan time.Time) (fd int, early []byte, err error) {
	fd, err = connectTo(addr)
	if err != nil {
		return 0, nil, err
	}
	d := &dialing{header: header, ended: make(chan struct{})}
	if err := l.add(fd, d); err != nil {
		closeFD(fd)
		return 0, nil, err
	}
	select {
	case <-d.ended:
		err = d.err
	case <-ctx.Done():
		err = ctx.Err()
	case <-timeout:
		err = fmt.Errorf("relay: no greeting from the backend: %w", os.ErrDeadlineExceeded)
	}
	if err != nil {
		d.cut(fd)
		<-d.ended
		l.forget(fd)
		closeFD(fd)
		return 0, nil, err
	}
	return fd, d.heard, nil
}

// connectTo returns a socket that is connecting to addr.
func connectTo(addr netip.AddrPort) (fd int, err error) {
	family, to := unix.AF_INET, unix.Sockaddr(nil)
	if a := addr.Addr(); a.Is4() {
		to = &unix.SockaddrInet4{Addr: a.As4(), Port: int(addr.Port())}
	} else {
		family, to = unix.AF_INET6, &unix.SockaddrInet6{Addr: a.As16(), Port: int(addr.Port()), ZoneId: zoneID(a.Zone())}
	}
	fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, os.NewSyscallError("socket", err)
	}
	// A line must not wait for the acknowledgement of the one before.
	err = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	if err == nil {
		err = unix.Connect(fd, to)
	}
	if err != nil && err != unix.EINPROGRESS {
		closeFD(fd)
		return 0, os.NewSyscallError("connect", err)
	}
	return fd, nil
}

// zoneID returns the number of the interface that a link-local address belongs
// to, and 0 for any other address.
func zoneID(zone string) uint32 {
	if zone == "" {
		return 0
	}
	if i, err := net.InterfaceByName(zone); err == nil {
		return uint32(i.Index)
	}
	n, _ := strconv.ParseUint(zone, 10, 32)
	return uint32(n)
}

// A dialing is a backend's socket until its greeting is read.
type dialing struct {
	header []byte // not yet written
	heard  []byte // read; after the end, what came behind the greeting
	err    error
	ended  chan struct{}

	mu   sync.Mutex // so that cut never touches a descriptor that is passed on
	over bool
}

func (d *dialing) ready(_ *loop, fd int, _ uint32) {
	if !d.over {
		if over, err := d.advance(fd); over || err != nil {
			d.end(err)
		}
	}
}

// advance writes and reads what it can. It reports whether the greeting is read.
func (d *dialing) advance(fd int) (over bool, err error) {
	if len(d.header) > 0 {
		n, err := write(fd, d.header)
		if err != nil {
			return false, unlessAgain("write", err)
		}
		d.header = d.header[n:]
	}
	var buf [maxReply]byte
	for {
		n, err := read(fd, buf[:])
		if err != nil {
			return false, unlessAgain("read", err)
		}
		if n == 0 {
			return false, io.ErrUnexpectedEOF
		}
		d.heard = append(d.heard, buf[:n]...)
		n, code, err := parseReply(d.heard)
		if err != nil {
			return false, err
		}
		if n > 0 {
			greeting := d.heard[:n]
			d.heard = d.heard[n:]
			return true, judge(greeting, code)
		}
	}
}

// unlessAgain returns nil when the call has to wait for the next event.
func unlessAgain(call string, err error) error {
	switch err {
	case unix.EAGAIN:
		return nil
	case unix.ECONNREFUSED:
		call = "connect" // which began earlier, and told nobody
	}
	return os.NewSyscallError(call, err)
}

func (d *dialing) end(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.over, d.err = true, err
	close(d.ended)
}

// cut makes the loop end d soon, if it has not.
func (d *dialing) cut(fd int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.over {
		unix.Shutdown(fd, unix.SHUT_RDWR)
	}
}
