package shorebird

import (
	"context"
	"errors"
	"time"

	"cmtpd/internal/address"
	"cmtpd/internal/client"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/crypt"
)

// A peer is a server that was reached: over a channel where it speaks CMTP 1.
type peer struct {
	where   string
	plain   *client.Conn
	channel *client.Channel
	key     crypt.PublicKey // its own
	used    time.Time
	user    address.Address // whom AUTH has proven; zero: nobody
}

// peer returns the server at a place, called anew when it was not heard for long. With
// must it has to speak CMTP 1. Nothing but KEYREQUEST is sent before it was accepted.
func (n *network) peer(ctx context.Context, where string, must bool) (*peer, error) {
	if p, ok := n.peers[where]; ok {
		if n.now().Sub(p.used) < maxIdle && (p.channel != nil || !must) {
			return p, nil
		}
		n.drop(where)
	}
	conn, channel, err := n.dialer.Open(ctx, where, must)
	if err != nil {
		return nil, err
	}
	p := &peer{where: where, plain: conn, channel: channel}
	if channel != nil {
		p.key = channel.ServerKey()
	} else if p.key, err = conn.ServerKey(); err != nil {
		conn.Close()
		return nil, err
	}
	p.used = n.now()
	n.peers[where] = p
	return p, nil
}

// drop ends the conversation with a server.
func (n *network) drop(where string) {
	if p, ok := n.peers[where]; ok {
		p.close()
		delete(n.peers, where)
	}
}

func (n *network) close() {
	for where := range n.peers {
		n.drop(where)
	}
}

func (p *peer) close() {
	if p.channel != nil {
		p.channel.Close()
	} else {
		p.plain.Close()
	}
}

// accept says that the server's key was judged.
func (p *peer) accept() {
	if p.channel != nil {
		p.channel.Accept()
	}
}

// protocol names what is spoken, with a channel or without.
func protocol(private bool) string {
	if private {
		return "CMTP 1"
	}
	return "CMTP 0.01"
}

// ask returns the key of an address; with its history where there is one.
func (p *peer) ask(a address.Address) (crypt.PublicKey, *crypt.History, error) {
	if p.channel == nil {
		key, err := p.plain.Key(a.Account.String(), a.Domain.String(), p.key)
		return key, nil, err
	}
	h, err := p.channel.History(a)
	if err != nil {
		return crypt.PublicKey{}, nil, err
	}
	return h.Current().Key, h, nil
}

// login returns the xzibit of an account.
func (p *peer) login(a address.Address) ([]byte, error) {
	if p.channel == nil {
		return p.plain.Login(a.String(), p.key)
	}
	return p.channel.Login(a)
}

// send sends a sealed letter; with a receipt where the server gives one.
func (p *peer) send(m *client.Outgoing) (*client.Sent, error) {
	if p.channel == nil {
		return nil, p.plain.Send(m.Header, m.Log, m.Body, m.Attachments, p.key)
	}
	sent, err := p.channel.Send(m.Header, m.Log, m.Body, m.Attachments)
	if err != nil {
		return nil, err
	}
	return &sent, nil
}

// isStatus reports whether err is a server's refusal of one command, after which the
// conversation goes on.
func isStatus(err error) bool {
	var status *cmtp.StatusError
	return errors.As(err, &status) && status.Status != cmtp.StatusClosing
}

// hasStatus reports whether err is the server's refusal with one of these.
func hasStatus(err error, any ...cmtp.Status) bool {
	var status *cmtp.StatusError
	if !errors.As(err, &status) {
		return false
	}
	for _, s := range any {
		if status.Status == s {
			return true
		}
	}
	return false
}
