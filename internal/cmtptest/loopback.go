package cmtptest

import (
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"testing"
)

var hosts atomic.Uint32

// Loopback returns an address of the loopback network at which nobody else listens: no other
// test of this process, nor one of another. A port of it that was free stays free, so a server
// may be stopped and started again on it, and who needs a number beforehand may choose one.
func Loopback() string {
	pid := uint32(os.Getpid())
	return fmt.Sprintf("127.%d.%d.%d", 1+pid>>8%254, pid&255, 1+(hosts.Add(1)-1)%254)
}

// FreePort is freePort, for tests elsewhere.
func FreePort(t testing.TB) string {
	t.Helper()
	return freePort(t)
}

// AwaitPort waits until somebody listens at host:port.
func AwaitPort(t testing.TB, addr string) {
	t.Helper()
	await(t, "somebody to listen at "+addr, func() bool {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

// freePort returns a host and port at which nobody listens, and nobody will.
func freePort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(Loopback(), "0"))
	check(t, err)
	defer l.Close()
	return l.Addr().String()
}
