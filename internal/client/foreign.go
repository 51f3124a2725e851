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

func (c *Channel) foreign(asked address.Address) (*crypt.Foreign, error) {
	switch {
	case asked.Domain.IsZero():
		return nil, fmt.Errorf("%w: the domain is empty", ErrParameter)
	case !c.accepted:
		return nil, ErrNotAccepted
	}
	payload, err := c.do(cmtp.KeyRequest, named(cmtp.KeyRequest, asked).Append(nil), crypt.MaxForeign)
	if err != nil {
		return nil, err
	}
	f, err := crypt.ParseForeign(payload)
	if err == nil {
		err = f.Verify(asked)
	}
	if err != nil {
		return nil, c.lied(err)
	}
	return f, nil
}
