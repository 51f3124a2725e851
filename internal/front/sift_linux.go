package front

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// siftAtOnce is how many connections are taken in a row before the loop that accepts is seen to be alive again.
const siftAtOnce = 256

// sift takes what waits at l, closes the connections of who is barred, and returns the first of anybody else: nil where there is
// none. Two calls for each are a good half less than what package net makes of a connection, and while a flood comes
// that the kernel does not drop, all others wait behind it.
func (b *bar) sift(l net.Listener) (nc net.Conn, err error) {
	c, ok := l.(syscall.Conn)
	if !ok {
		return nil, nil
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	fd, closed := -1, uint64(0)
	ctlErr := raw.Control(func(listener uintptr) {
		for closed < siftAtOnce {
			var from unix.Sockaddr
			fd, from, err = unix.Accept4(int(listener), unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if err != nil || !b.has(addrOf(from)) {
				return
			}
			unix.Close(fd)
			fd, closed = -1, closed+1
		}
	})
	b.count(closed)
	switch {
	case ctlErr != nil:
		return nil, ctlErr
	case errors.Is(err, unix.EAGAIN):
		return nil, nil
	case err != nil:
		return nil, os.NewSyscallError("accept4", err)
	case fd < 0:
		return nil, nil
	}
	return connOf(fd)
}

func addrOf(a unix.Sockaddr) netip.Addr {
	switch a := a.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrFrom4(a.Addr)
	case *unix.SockaddrInet6:
		return netip.AddrFrom16(a.Addr)
	}
	return netip.Addr{}
}

// connOf makes of an accepted socket what a listener of Listen or Adopt returns.
func connOf(fd int) (net.Conn, error) {
	f := os.NewFile(uintptr(fd), "")
	defer f.Close() // net keeps a copy
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	if tcp, ok := c.(*net.TCPConn); ok {
		tcp.SetKeepAlive(false)
	}
	return c, nil
}
