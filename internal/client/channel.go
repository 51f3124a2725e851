package client

import (
	"errors"
	"fmt"
	"net"
	"time"

	"cmtpd/internal/address"
	"cmtpd/internal/channel"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/crypt"
)

// Errors of a Channel, besides cmtp.StatusError, which is the server's refusal and
// after which the Channel goes on, unless its status is cmtp.StatusClosing.
var (
	// ErrNotAccepted: the server's key was not judged yet, so nothing was sent.
	ErrNotAccepted = errors.New("the server's key has not been accepted yet")
	// ErrNotProven: what only a user may do was asked for without Auth before.
	ErrNotProven = errors.New("nobody has proven to be a user of this server in this channel")
	// ErrAltered: what came is not what the server sent, or it says so of what we sent.
	// channel.ErrTruncated says that the end is missing.
	ErrAltered = channel.ErrAltered
	// ErrUnasked: the server has sent a reply to a command that nobody gave.
	ErrUnasked = errors.New("the server sent a reply that nobody asked for")
	// ErrClosed: an error before this one, or Close, has ended the channel.
	ErrClosed = fmt.Errorf("the private channel is closed: %w", net.ErrClosed)
	// ErrParameter: a parameter could not stand in a command, so nothing was sent.
	ErrParameter = errors.New("it cannot stand in a command")
)

// A Channel is a private connection to the server that holds ServerKey, and speaks
// CMTP 1. It is for one goroutine at a time.
//
// Until the caller has judged the key and said so by Accept, only KEYREQUEST is sent
// (docs/protocol.md section 15.5). An error that is no cmtp.StatusError and not about a
// parameter closes the Channel: what follows a reply that lies or cannot be read would
// be worth nothing.
type Channel struct {
	link
	key      crypt.PublicKey
	binding  [32]byte
	accepted bool
	user     address.Address // that Auth has proven
	userKey  crypt.PublicKey // and by which key
}

// ServerKey returns the key that the server has proved to hold. Whether it is the one
// that the domain should have is for the caller to judge.
func (c *Channel) ServerKey() crypt.PublicKey { return c.key }

// Accept says that ServerKey is the right one.
func (c *Channel) Accept() { c.accepted = true }

// Close says goodbye, to a server that was accepted, and closes the connection.
func (c *Channel) Close() error {
	if c.accepted && !c.closed {
		c.send(&cmtp.Command{Verb: cmtp.Obai})
	}
	return c.close()
}

// An Answer is what the server says of one name: its history, or the
// cmtp.StatusError by which it says none.
type Answer struct {
	History *crypt.History
	Err     error
}

// History returns what the server says of the key of a name; the zero Account is the
// server itself. It is verified against the server's key, and wraps crypt.ErrStatement,
// crypt.ErrUnsigned or crypt.ErrHistory; that it holds what the caller knows from
// before is for the caller to check. It may be asked for before Accept.
func (c *Channel) History(asked address.Address) (*crypt.History, error) {
	answers, err := c.Histories(asked)
	if err != nil {
		return nil, err
	}
	return answers[0].History, answers[0].Err
}

// pipelined is how many commands are sent before their replies are read: few enough
// for the buffers of any connection, so that neither side waits for the other to read.
const pipelined = 16

// Histories is History for several names in few round trips. The answers stand in the
// order of the names. The error is one after which there are no more answers.
func (c *Channel) Histories(asked ...address.Address) ([]Answer, error) {
	for _, a := range asked {
		if a.Domain.IsZero() {
			return nil, fmt.Errorf("asking for a key: %w: the domain is empty", ErrParameter)
		}
	}
	answers := make([]Answer, 0, len(asked))
	for len(asked) > 0 {
		some := asked[:min(len(asked), pipelined)]
		asked = asked[len(some):]
		var b []byte
		for _, a := range some {
			b = named(cmtp.KeyRequest, a).Append(b)
		}
		if err := c.begin(cmtp.KeyRequest, b); err != nil {
			return nil, fmt.Errorf("asking for the key of %s: %w", some[0], err)
		}
		for _, a := range some {
			answer, err := c.answer(a)
			if err != nil {
				return nil, fmt.Errorf("asking for the key of %s: %w", a, err)
			}
			answers = append(answers, answer)
		}
	}
	return answers, nil
}

// answer reads one reply to KEYREQUEST.
func (c *Channel) answer(asked address.Address) (Answer, error) {
	c.conn.SetReadDeadline(time.Now().Add(c.timeout))
	_, payload, err := c.reply(uint64(crypt.MaxHistory))
	var status *cmtp.StatusError
	if errors.As(err, &status) && !c.closed {
		return Answer{Err: fmt.Errorf("asking for the key of %s: %w", asked, err)}, nil
	}
	if err != nil {
		return Answer{}, err
	}
	h, err := c.history(payload, asked)
	return Answer{History: h}, err
}

// history returns the history in a payload, once it is one that the server may give
// for a name.
func (c *Channel) history(payload []byte, asked address.Address) (*crypt.History, error) {
	h, err := crypt.ParseHistory(payload)
	if err == nil {
		err = h.Verify(asked, c.key)
	}
	if err != nil {
		return nil, c.lied(err)
	}
	return h, nil
}

// lied ends the conversation with a server whose reply is not what it must be.
func (c *Channel) lied(err error) error {
	c.drop()
	return err
}

// named returns a command that begins with an account and its domain.
func named(verb cmtp.Verb, name address.Address) *cmtp.Command {
	return &cmtp.Command{Verb: verb, Params: [3][]byte{[]byte(name.Account.String()), []byte(name.Domain.String())}}
}

// do gives one command, of which b is all, and reads the reply.
func (c *Channel) do(verb cmtp.Verb, b []byte, limit int) ([]byte, error) {
	if err := c.begin(verb, b); err != nil {
		return nil, err
	}
	_, payload, err := c.reply(uint64(limit))
	return payload, err
}

// exactly is do for a payload of n bytes and no other.
func (c *Channel) exactly(verb cmtp.Verb, b []byte, n int) ([]byte, error) {
	payload, err := c.do(verb, b, n)
	if err == nil && len(payload) != n {
		err = c.lied(fmt.Errorf("%w: %d bytes, where there must be %d", cmtp.ErrReply, len(payload), n))
	}
	return payload, err
}

// begin sends commands of one kind.
func (c *Channel) begin(verb cmtp.Verb, b []byte) error {
	if err := c.ready(verb); err != nil {
		return err
	}
	if err := c.write(verb, b); err != nil {
		return c.parting(err)
	}
	return nil
}

// ready reports why a command cannot be given now.
func (c *Channel) ready(verb cmtp.Verb) error {
	switch {
	case c.closed:
		return ErrClosed
	case !c.accepted && verb != cmtp.KeyRequest:
		return ErrNotAccepted
	case c.in.Buffered() == 0:
		return nil
	}
	return c.parting(ErrUnasked)
}

// parting ends the channel for err. A server that has closed the session has perhaps
// said so, unasked.
func (c *Channel) parting(err error) error {
	c.conn.SetReadDeadline(time.Now().Add(min(c.timeout, lastWord)))
	var status *cmtp.StatusError
	if _, _, last := cmtp.ReadReply(c.in, 0); errors.As(last, &status) && status.Status == cmtp.StatusClosing {
		err = last
	}
	return c.lied(err)
}

// reply reads one reply. What is no reply, and a session that the server ends, end
// the channel.
func (c *Channel) reply(limit uint64) (cmtp.Status, []byte, error) {
	s, payload, err := cmtp.ReadReply(c.in, limit)
	var status *cmtp.StatusError
	if err != nil && (!errors.As(err, &status) || status.Status == cmtp.StatusClosing) {
		c.drop()
	}
	return s, payload, err
}
