package netbuf

import (
	"net"
	"syscall"
)

// Parking returns c as one whose Read calls park before it waits for the peer, and not where bytes are there already. So
// what is kept for the next request is given back when nobody knows how long that takes, and only
// then. Of a conn that is no plain socket every Read counts as waiting. park must not read from c.
func Parking(c net.Conn, park func()) net.Conn {
	p := &parking{Conn: c, raw: rawConn(c), park: park}
	p.try = p.read
	return p
}

// A parking is for one goroutine that reads at a time.
type parking struct {
	net.Conn
	raw  syscall.RawConn    // nil where the conn is no plain socket
	try  func(uintptr) bool // p.read, bound once so that Read allocates nothing
	park func()
	into []byte // where Read reads to
	n    int    // what came of it
	err  error
}

func (p *parking) Read(b []byte) (int, error) {
	if p.raw == nil || len(b) == 0 {
		p.park()
		return p.Conn.Read(b)
	}
	p.into, p.n, p.err = b, 0, nil
	err := p.raw.Read(p.try)
	p.into = nil
	if err == nil {
		err = p.err
	}
	return p.n, err
}

// CloseWrite half-closes the connection where it can be.
func (p *parking) CloseWrite() error {
	if h, ok := p.Conn.(interface{ CloseWrite() error }); ok {
		return h.CloseWrite()
	}
	return nil
}
