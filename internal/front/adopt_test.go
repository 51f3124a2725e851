package front_test

import (
	"net"
	"syscall"
	"testing"

	"cmtpd/internal/front"
)

// TestAdopt: connections of an adopted socket are as those of one of ours: TCP, which the relay splices, and
// without probes.
func TestAdopt(t *testing.T) {
	plain, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l, err := front.Adopt(plain)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dial(t, l.Addr().String())
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) {
		if on, err := syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_KEEPALIVE); err != nil || on != 0 {
			t.Errorf("SO_KEEPALIVE is %d, %v", on, err)
		}
	})
	local, err := net.Listen("unix", t.TempDir()+"/s")
	if err != nil {
		t.Fatal(err)
	}
	defer local.Close()
	if _, err := front.Adopt(local); err == nil {
		t.Error("a local socket was adopted")
	}
}
