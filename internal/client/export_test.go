package client

import (
	"bufio"
	"net"
	"time"

	"cmtpd/internal/address"
	"cmtpd/internal/crypt"
)

// NewChannel returns a channel whose replies come as they are from a connection, with
// a proven user.
func NewChannel(conn net.Conn, server crypt.PublicKey, user address.Address, key crypt.PublicKey) *Channel {
	l := link{conn: conn, below: conn, in: bufio.NewReader(conn), timeout: time.Minute, stop: func() bool { return true }}
	return &Channel{link: l, key: server, accepted: true, user: user, userKey: key}
}
