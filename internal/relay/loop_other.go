//go:build !linux

package relay

import (
	"net"

	"cmtpd/internal/netbuf"
)

type loops struct{}

// pass starts the stream between c and backend, whose unread bytes in holds.
func (r *Relay) pass(c *netbuf.Conn, backend net.Conn, in *netbuf.Reader) stream {
	return newPump(c.Conn, backend, c.In, in)
}
