package checkup

import (
	"context"
	"errors"
	"fmt"
	"time"

	"cmtpd/internal/config"
	"cmtpd/internal/relay"
)

// backendTime bounds what is asked of the mail server behind. It is more than one that
// waits for a PROXY header in vain takes to say so.
const backendTime = 15 * time.Second

// backend plays a stranger to the mail server behind, as the daemon does at its start.
func (c *checkup) backend(ctx context.Context) []Finding {
	if c.cfg.SMTP.Mode != config.Relay {
		return nil
	}
	smtp := c.cfg.SMTP
	err := c.stranger(ctx, smtp.ProxyProtocol)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, relay.ErrWouldRelay):
		return problem(fmt.Sprintf("%s: %v", smtp.Backend, err),
			"let it expect a PROXY header and name its version in smtp.proxy_protocol, or let it trust fewer networks (Postfix: mynetworks)")
	case errors.Is(err, relay.ErrDeferred):
		return note(fmt.Sprintf("%s: %v; a Postfix says 454 with defer_unauth_destination, which is Debian's default: it relays for nobody, and reject_unauth_destination in its place in smtpd_relay_restrictions makes that certain", smtp.Backend, err))
	}
	if other := c.speaksInstead(ctx); other != "" {
		return problem(fmt.Sprintf("%s does not answer as with smtp.proxy_protocol = %q, which is configured, but as with %q", smtp.Backend, smtp.ProxyProtocol, other),
			"set smtp.proxy_protocol to what it expects; never \"none\" for one that trusts this host: better let it expect a PROXY header (docs/operations.md, In front of a mail server)")
	}
	return problem(fmt.Sprintf("%s: %v", smtp.Backend, err),
		"start it, or correct smtp.backend; SMTP clients are put off until it answers")
}

// stranger asks the backend to relay, in one way of saying who asks.
func (c *checkup) stranger(ctx context.Context, proxy config.ProxyProtocol) error {
	ctx, cancel := context.WithTimeout(ctx, backendTime)
	defer cancel()
	return relay.CheckRelay(ctx, relay.Config{Hostname: c.cfg.Hostname.String(), Backend: c.cfg.SMTP.Backend, Proxy: proxy,
		ConnectTimeout: min(c.cfg.SMTP.ConnectTimeout, backendTime)})
}

// speaksInstead returns the way in which the backend does answer, if it is not the configured one. One that waits for
// a header in vain takes long to say so, so the first answer ends the others.
func (c *checkup) speaksInstead(ctx context.Context) config.ProxyProtocol {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ways := []config.ProxyProtocol{config.ProxyV2, config.ProxyV1, config.ProxyNone}
	answers := make(chan config.ProxyProtocol, len(ways))
	for _, way := range ways {
		go func() {
			if err := c.stranger(ctx, way); err != nil && !errors.Is(err, relay.ErrWouldRelay) && !errors.Is(err, relay.ErrDeferred) {
				way = ""
			}
			answers <- way
		}()
	}
	for range ways {
		if way := <-answers; way != "" && way != c.cfg.SMTP.ProxyProtocol {
			return way
		}
	}
	return ""
}
