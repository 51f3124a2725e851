package federation

import (
	"context"
	"net/netip"
	"time"

	"cmtpd/internal/address"
	"cmtpd/internal/client"
	"cmtpd/internal/crypt"
	"cmtpd/internal/trust"
)

// A Peer is a connection to a server that is trusted to be one of its domain. It is for one
// goroutine at a time.
type Peer struct {
	Domain  address.Domain
	Host    string
	Addr    netip.AddrPort
	Key     crypt.PublicKey
	Verdict trust.Verdict

	conn    *client.Conn    // Part I, or
	channel *client.Channel // Part II
	cancel  context.CancelFunc
}

// Part is the part of the protocol that is spoken: 1 or 2.
func (p *Peer) Part() int {
	if p.channel != nil {
		return 2
	}
	return 1
}

// farewell is how long a goodbye may take, which nobody needs.
const farewell = time.Second

// Close says goodbye.
func (p *Peer) Close() error {
	defer time.AfterFunc(farewell, p.cancel).Stop()
	defer p.cancel()
	switch {
	case p.channel != nil:
		return p.channel.Close()
	case p.conn != nil:
		return p.conn.Close()
	}
	return nil
}

// during makes the connection end with ctx, until done is called.
func (p *Peer) during(ctx context.Context) (done func() bool) {
	return context.AfterFunc(ctx, p.cancel)
}
