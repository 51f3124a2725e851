// Package netbuf reads from connections of which most are idle. A Reader
// borrows its buffer only for as long as unread bytes lie in it: a connection
// that waits for its next request costs a goroutine and this small struct, not
// a buffer, and a request costs no system call more than a plain Read does.
package netbuf

import (
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
)

// Size is the length of a buffer in bytes, and so the most unread bytes that a
// Reader can hold. It is larger than anything that has to lie in memory as a
// whole before it is understood (protocol.md sections 1 and 3), and than a short letter, which
// one system call reads then.
const Size = 8192

// ErrFull is what Fill returns when Size bytes are unread already.
var ErrFull = errors.New("netbuf: the buffer is full")

var pool = sync.Pool{New: func() any { return new([Size]byte) }}

// A Reader buffers what it reads from one connection. It is for one goroutine
// at a time; deadlines and Close on the connection work from any other.
type Reader struct {
	conn  net.Conn
	raw   syscall.RawConn    // nil where conn is no plain socket
	try   func(uintptr) bool // r.read, bound once so that Fill allocates nothing
	buf   *[Size]byte        // nil when nothing is unread
	start int
	end   int // unread is buf[start:end]
	n     int // result of the last read(2)
	err   error
	one   [1]byte // where a conn that is no plain socket waits
}

// NewReader returns a Reader on c. TCP and Unix sockets are waited for without a
// buffer. Of any other conn (TLS, net.Pipe) it first awaits a single byte, so
// the first Fill after silence yields just that one.
func NewReader(c net.Conn) *Reader {
	r := &Reader{}
	r.Reset(c)
	return r
}

// Reset drops all unread bytes and makes r read from c.
func (r *Reader) Reset(c net.Conn) {
	r.Release()
	r.conn, r.raw = c, rawConn(c)
	if r.raw != nil && r.try == nil {
		r.try = r.read
	}
}

// Release drops all unread bytes and gives their buffer back. The Reader stays
// usable: a later Fill goes on with what the connection has next.
func (r *Reader) Release() {
	if r.buf != nil {
		pool.Put(r.buf)
		r.buf = nil
	}
	r.start, r.end = 0, 0
}

// Buffered returns the unread bytes, valid until the next call of any other method.
func (r *Reader) Buffered() []byte {
	if r.buf == nil {
		return nil
	}
	return r.buf[r.start:r.end]
}

// Discard drops the first n unread bytes, and gives the buffer back when none
// is left. It panics when fewer than n are unread.
func (r *Reader) Discard(n int) {
	if n < 0 || n > r.end-r.start {
		panic("netbuf: Discard of more than is buffered")
	}
	r.start += n
	if r.start == r.end {
		r.Release()
	}
}

// Fill blocks until at least one more byte is unread. It returns io.EOF when the
// peer has ended the stream, ErrFull when Size bytes are unread, and otherwise
// the connection's own error, deadlines included. The bytes unread before it
// stay unread whatever it returns.
func (r *Reader) Fill() error {
	if r.end-r.start == Size {
		return ErrFull
	}
	if r.start > 0 {
		copy(r.buf[:], r.buf[r.start:r.end])
		r.start, r.end = 0, r.end-r.start
	}
	if r.raw != nil {
		return r.fillRaw()
	}
	return r.fillPlain()
}

func (r *Reader) fillRaw() error {
	r.n, r.err = 0, nil
	err := r.raw.Read(r.try)
	if err == nil {
		err = r.err
	}
	r.end += r.n
	if r.end == 0 {
		r.Release()
	}
	return r.outcome(r.n, err)
}

func (r *Reader) fillPlain() error {
	if r.buf != nil {
		n, err := r.conn.Read(r.buf[r.end:])
		r.end += n
		return r.outcome(n, err)
	}
	n, err := r.conn.Read(r.one[:])
	if n == 1 {
		r.buf = pool.Get().(*[Size]byte)
		r.buf[0], r.end = r.one[0], 1
	}
	return r.outcome(n, err)
}

// outcome turns a read's result into Fill's. An error that came along with bytes
// is dropped: the connection gives it again.
func (r *Reader) outcome(n int, err error) error {
	switch {
	case n > 0:
		return nil
	case err != nil:
		return err
	default:
		return io.ErrNoProgress
	}
}

// Read takes unread bytes first. With none it reads into p directly when p is at
// least a buffer long, or the conn is no plain socket, of which Fill would get a single byte; and
// through the buffer otherwise.
func (r *Reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if r.buf == nil {
		if len(p) >= Size || r.raw == nil {
			return r.conn.Read(p)
		}
		if err := r.Fill(); err != nil {
			return 0, err
		}
	}
	n := copy(p, r.Buffered())
	r.Discard(n)
	return n, nil
}

// ReadByte returns the next byte (io.ByteReader).
func (r *Reader) ReadByte() (byte, error) {
	if r.buf == nil {
		if err := r.Fill(); err != nil {
			return 0, err
		}
	}
	b := r.buf[r.start]
	r.Discard(1)
	return b, nil
}
