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
	r.n, done, r.err = readSocket(r.conn, fd, r.buf[r.end:])
	if !done && r.end == 0 {
		r.Release()
	}
	return done
}

// read is the same for a parking.
func (p *parking) read(fd uintptr) (done bool) {
	p.n, done, p.err = readSocket(p.Conn, fd, p.into)
	if !done {
		p.park()
	}
	return done
}

// readSocket does one read(2) on c's socket, with what c's own Read would say of it. It is not done where
// there is nothing to read yet.
func readSocket(c net.Conn, fd uintptr, b []byte) (n int, done bool, err error) {
	n, err = syscall.Read(int(fd), b)
	for err == syscall.EINTR {
		n, err = syscall.Read(int(fd), b)
	}
	switch {
	case err == syscall.EAGAIN:
		return 0, false, nil
	case err != nil:
		local := c.LocalAddr()
		return 0, true, &net.OpError{Op: "read", Net: local.Network(), Source: local, Addr: c.RemoteAddr(), Err: os.NewSyscallError("read", err)}
	case n == 0:
		return 0, true, io.EOF
	}
	return n, true, nil
}
