package client

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"cmtpd/internal/channel"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/crypt"
)

// token says in a version string that CMTP 1 is spoken (docs/protocol.md section 15.1).
const token = "CMTP/1"

// ErrDowngrade: a domain that has spoken CMTP 1 does not any more, which is what
// somebody in between would make of it. The errors that wrap it name what was taken
// away (docs/protocol.md section 15.6).
var (
	ErrDowngrade = errors.New("this domain has spoken CMTP 1 before, and somebody may be keeping it from you")

	ErrGreetingStripped = fmt.Errorf("%w: the greeting does not name CMTP any more", ErrDowngrade)
	ErrVersionStripped  = fmt.Errorf("%w: the version string does not name "+token+" any more", ErrDowngrade)
	ErrStartTLSStripped = fmt.Errorf("%w: STARTTLS is not taken any more", ErrDowngrade)
	// ErrStartTLSUnanswered may also be the network's trouble, as Temporary says.
	ErrStartTLSUnanswered = fmt.Errorf("%w: STARTTLS is not answered any more", ErrDowngrade)
)

// ErrSwapped: the key that has signed the answer to STARTTLS is not the one of the
// certificate, so that two servers had a part in it.
var ErrSwapped = errors.New("who answered STARTTLS is not who finished the handshake: the certificate may have been swapped by somebody in between")

// errUnanswered: a server that offers STARTTLS, and answers before it, has not answered
// it. Somebody may have swallowed it, or put bytes behind it, at which a server hangs up.
var errUnanswered = errors.New("the server does not answer STARTTLS")

// Open connects to the server at address, host:port, and goes into a private channel
// where the server offers one. It returns either the Channel or, from a server without
// CMTP 1, the Conn. The context bounds the whole life of the connection.
//
// With must, which is for domains that have spoken CMTP 1 before, there is no Conn, but
// an error that wraps ErrDowngrade. A greeting that turns us away is still a
// GreetingError: it takes nothing away but itself.
func (d *Dialer) Open(ctx context.Context, address string, must bool) (*Conn, *Channel, error) {
	c, err := d.Connect(ctx, address)
	if err != nil {
		var greeting *GreetingError
		if must && errors.Is(err, ErrNoCMTP) && !errors.As(err, &greeting) {
			err = fmt.Errorf("%w (%w)", ErrGreetingStripped, err)
		}
		return nil, nil, err
	}
	ch, err := c.upgrade(ctx, must)
	if err != nil {
		if !c.moved {
			c.close()
		}
		return nil, nil, fmt.Errorf("connecting to %s: %w", address, cause(ctx, err))
	}
	if ch == nil {
		return c, nil, nil
	}
	return nil, ch, nil
}

// upgrade returns the channel that the server offers, or nil where it offers none and
// need not.
func (c *Conn) upgrade(ctx context.Context, must bool) (*Channel, error) {
	version, err := c.Version()
	if err != nil {
		if must && !lost(err) {
			err = fmt.Errorf("%w (%w)", ErrVersionStripped, err)
		}
		return nil, err
	}
	if !slices.Contains(strings.Fields(version), token) {
		if must {
			return nil, fmt.Errorf("%w (it is %q)", ErrVersionStripped, version)
		}
		return nil, nil
	}
	ch, err := c.StartTLS(ctx)
	switch {
	case must && errors.Is(err, errUnanswered):
		return nil, fmt.Errorf("%w (%w)", ErrStartTLSUnanswered, err)
	case must && (errors.Is(err, ErrRefused) || errors.Is(err, cmtp.ErrReply)):
		return nil, fmt.Errorf("%w (%w)", ErrStartTLSStripped, err)
	case !must && errors.Is(err, ErrRefused):
		return nil, nil
	}
	return ch, err
}

// StartTLS makes a Channel of the connection, which is the Channel's from then on.
// After ErrRefused the Conn goes on as it was, after any other error it is closed. It
// also wraps what package channel's handshake does, and ErrSwapped.
func (c *Conn) StartTLS(ctx context.Context) (*Channel, error) {
	ch, err := c.startTLS(ctx)
	if err != nil {
		if !errors.Is(err, ErrRefused) {
			c.close()
		}
		return nil, fmt.Errorf("starting a private channel: %w", err)
	}
	c.moved = true
	return ch, nil
}

func (c *Conn) startTLS(ctx context.Context) (*Channel, error) {
	if err := c.send(&cmtp.Command{Verb: cmtp.StartTLS}); err != nil {
		return nil, err
	}
	sig, err := cmtp.ReadWord(c.in)
	if lost(err) {
		return nil, fmt.Errorf("%w: %w", errUnanswered, err)
	}
	if err != nil {
		return nil, c.refusal(err, sig, nil)
	}
	// Not a byte may be carried over (docs/protocol.md section 15.2).
	inside, err := channel.Client(ctx, c.conn, c.in.Buffered(), min(c.timeout, channel.DefaultTimeout))
	if err != nil {
		return nil, err
	}
	key := inside.ServerKey()
	if !crypt.Verify(key, []byte(cmtp.Success), sig) { // section 15.4
		return nil, ErrSwapped
	}
	l := link{conn: inside, below: c.conn, in: bufio.NewReader(inside), timeout: c.timeout, stop: c.stop}
	return &Channel{link: l, key: key, binding: inside.Binding()}, nil
}
