package main

import (
	"context"
	"net"
	"sync/atomic"

	"cmtpd/internal/client"
	"cmtpd/internal/crypt"
)

// A counter counts the round trips of a connection: how often something was received behind
// what had been sent. Where requests go out while answers still come in, that is more
// than were waited for.
type counter struct {
	net.Conn
	asked atomic.Bool
	trips atomic.Int64
}

// Write implements net.Conn.
func (c *counter) Write(b []byte) (int, error) {
	c.asked.Store(true)
	return c.Conn.Write(b)
}

// Read implements net.Conn.
func (c *counter) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 && c.asked.CompareAndSwap(true, false) {
		c.trips.Add(1)
	}
	return n, err
}

// since forgets the round trips that were counted, and returns them.
func (c *counter) since() int64 { return c.trips.Swap(0) }

// A counted channel is one whose round trips are counted.
type counted struct {
	*client.Channel
	line *counter
}

// signIn goes inside the channel as a user of the site does, and proves to be alice.
func (s *site) signIn(key *crypt.PrivateKey) (*counted, error) {
	c := new(counted)
	d := client.Dialer{Dial: func(ctx context.Context, _, address string) (net.Conn, error) {
		nc, err := dialTCP(ctx, net.Dialer{}, address)
		c.line = &counter{Conn: nc}
		return c.line, err
	}}
	alice, err := s.alice()
	if err != nil {
		return nil, err
	}
	if _, c.Channel, err = d.Open(s.ctx, s.addr, true); err != nil {
		return nil, err
	}
	c.Accept()
	if _, err := c.Auth(alice, key); err != nil {
		return nil, err
	}
	c.line.since()
	return c, nil
}
