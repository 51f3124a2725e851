//go:build unix

package netbuf

import (
	"io"
	"net"
	"os"
	"syscall"
)

// rawConn returns c's socket, or nil when c may do more than pass a socket's
// bytes on: a type that embeds a *net.TCPConn can have a Read of its own.
func rawConn(c net.Conn) syscall.RawConn {
	var raw syscall.RawConn
	var err error
	switch c := c.(type) {
	case *net.TCPConn:
		raw, err = c.SyscallConn()
	case *net.UnixConn:
		raw, err = c.SyscallConn()
	}
	if err != nil {
		return nil // a closed conn: its own Read says so
	}
	return raw
}

// read is the callback of RawConn.Read: it borrows a buffer for one read(2), and
// gives it back before the runtime parks this goroutine until there is
// something to read.
func (r *Reader) read(fd uintptr) (done bool) {
	if r.buf == nil {
		r.buf = pool.Get().(*[Size]byte)
	}
	n, err := syscall.Read(int(fd), r.buf[r.end:])
	for err == syscall.EINTR {
		n, err = syscall.Read(int(fd), r.buf[r.end:])
	}
	switch {
	case err == syscall.EAGAIN:
		if r.end == 0 {
			r.Release()
		}
		return false
	case err != nil:
		local := r.conn.LocalAddr()
		r.err = &net.OpError{Op: "read", Net: local.Network(), Source: local, Addr: r.conn.RemoteAddr(), Err: os.NewSyscallError("read", err)}
	case n == 0:
		r.err = io.EOF
	default:
		r.n = n
	}
	return true
}
