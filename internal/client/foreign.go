package client

import (
	"fmt"

	"cmtpd/internal/address"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/crypt"
)

// Foreign asks one's own server about a name of another server's domain, which it answers
// to a proven user only. The answer is verified under the other server's key in it, which
// Trust says how far to believe; that it holds what the caller knows from before is for
// the caller to check.
func (c *Channel) Foreign(asked address.Address) (*crypt.Foreign, error) {
	f, err := c.foreign(asked)
	if err != nil {
		return nil, fmt.Errorf("asking for the key of %s: %w", asked, err)
	}
	return f, nil
}

// Either is Foreign for a name of which the caller does not know whether its domain is
// the server's own: then the answer is a history, verified as History does.
func (c *Channel) Either(asked address.Address) (*crypt.History, *crypt.Foreign, error) {
	h, f, err := c.either(asked)
	if err != nil {
		return nil, nil, fmt.Errorf("asking for the key of %s: %w", asked, err)
	}
	return h, f, nil
}

func (c *Channel) either(asked address.Address) (*crypt.History, *crypt.Foreign, error) {
	payload, err := c.about(asked)
	if err != nil {
		return nil, nil, err
	}
	if len(payload) > 0 && payload[0] == 0 { // a history's first byte is no trust (sections 17.3 and 19.1)
		h, err := c.history(payload, asked)
		return h, nil, err
	}
	f, err := c.said(payload, asked)
	return nil, f, err
}

func (c *Channel) foreign(asked address.Address) (*crypt.Foreign, error) {
	payload, err := c.about(asked)
	if err != nil {
		return nil, err
	}
	return c.said(payload, asked)
}

// about asks an accepted server about a name of any domain.
func (c *Channel) about(asked address.Address) ([]byte, error) {
	switch {
	case asked.Domain.IsZero():
		return nil, fmt.Errorf("%w: the domain is empty", ErrParameter)
	case !c.accepted:
		return nil, ErrNotAccepted
	}
	return c.do(cmtp.KeyRequest, named(cmtp.KeyRequest, asked).Append(nil), crypt.MaxForeign)
}

// said returns what another server has said of a name, once it may say so.
func (c *Channel) said(payload []byte, asked address.Address) (*crypt.Foreign, error) {
	f, err := crypt.ParseForeign(payload)
	if err == nil {
		err = f.Verify(asked)
	}
	if err != nil {
		return nil, c.lied(err)
	}
	return f, nil
}
