package main

import (
	"context"
	"errors"
	"fmt"
	"net"

	"cmtpd/internal/address"
	"cmtpd/internal/channel"
	"cmtpd/internal/client"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/crypt"
)

// foreignReply is the length of the answer about alice that another domain's server has given: its
// trust, part and key, and its words (docs/protocol.md section 19.1).
const foreignReply = historyReply + 2 + crypt.PublicKeySize

// foreignKeyRequests compares KEYREQUEST for a name of another domain, whose answer is
// remembered, with a server that reads and writes as much in TLS.
func foreignKeyRequests(l *lab) (*table, error) {
	bare, err := l.self("foreignkeys")
	if err != nil {
		return nil, err
	}
	p, err := l.pair()
	if err != nil {
		return nil, err
	}
	for _, s := range []*site{p.near, p.far} {
		if _, err := s.serve(); err != nil {
			return nil, err
		}
	}
	key, err := p.near.aliceKey()
	if err != nil {
		return nil, err
	}
	asked := side{key: done(foreignReply), open: func(addr string, _ ...net.IP) (net.Conn, error) { return p.near.proven(key) }}
	server := side{key: done(foreignReply), open: entered}
	t := &table{
		title: "KEYREQUEST for a user of another domain",
		note: fmt.Sprintf("%d kept connections inside the channel, each of a user who has proven to be one, for %v a cell. The other domain's server, a second daemon, was asked once, before;\n"+
			"its words and %d bytes of ours answer the rest from memory. The bare server is crypto/tls, reads %d bytes, writes %d, and flushes when its input is empty.",
			connections, askFor, foreignReply-historyReply, len(keyRequest), foreignReply),
		header: []string{"requests in flight on a connection", "bare TLS, requests/s", "cmtpd, requests/s", "cmtpd ÷ bare TLS"},
	}
	for _, depth := range []int{1, 16} {
		s, err := l.each(2, func(cell int) (float64, error) {
			if cell == 0 {
				return server.ask(bare, depth)
			}
			return asked.ask(p.near.addr, depth)
		})
		if err != nil {
			return nil, err
		}
		t.add(fmt.Sprint(depth), number(s[0].median()), number(s[1].median()), verdict(s[1].over(s[0]).median(), 0.6))
	}
	return t, nil
}

func (s *site) alice() (address.Address, error) { return address.Parse("alice@" + s.domain) }

// aliceKey returns the key of a site's user, as her own client gets it.
func (s *site) aliceKey() (*crypt.PrivateKey, error) {
	alice, err := s.alice()
	if err != nil {
		return nil, err
	}
	d := client.Dialer{Dial: func(ctx context.Context, _, address string) (net.Conn, error) {
		return dialTCP(ctx, net.Dialer{}, address)
	}}
	_, ch, err := d.Open(s.ctx, s.addr, true)
	if err != nil {
		return nil, err
	}
	defer ch.Close()
	ch.Accept()
	ring, _, err := client.Unseal(ch, alice, []byte(password))
	if err != nil {
		return nil, err
	}
	return ring.Keys[0].Key, nil
}

// proven is prove. What is asked for first is not asked for by the measurement: the answer may
// have to be fetched.
func (s *site) proven(key *crypt.PrivateKey) (net.Conn, error) {
	c, err := s.prove(key)
	if err != nil {
		return nil, err
	}
	if _, err = c.Write(keyRequest); err == nil {
		_, _, err = cmtp.ReadReply(c, foreignReply-replyHead)
	}
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// prove goes inside the channel and proves to be alice.
func (s *site) prove(key *crypt.PrivateKey) (net.Conn, error) {
	alice, err := s.alice()
	if err != nil {
		return nil, err
	}
	c, err := entered(s.addr)
	if err != nil {
		return nil, err
	}
	in := c.(*channel.Conn)
	proof := crypt.Proof{Role: crypt.UserRole, Name: alice, Server: alice.Domain, Key: key.Public(), ServerKey: in.ServerKey(), Binding: in.Binding()}
	sig := proof.Sign(key)
	auth := cmtp.Command{Verb: cmtp.Auth, Fixed: append(proof.Key[:], sig[:]...),
		Params: [3][]byte{[]byte(alice.Account.String()), []byte(alice.Domain.String()), []byte(alice.Domain.String())}}
	if _, err = c.Write(auth.Append(nil)); err == nil {
		_, _, err = cmtp.ReadReply(c, 32) // AUTH's digest
	}
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}
