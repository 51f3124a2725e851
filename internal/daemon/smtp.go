package daemon

import (
	"context"
	"errors"
	"fmt"

	"cmtpd/internal/config"
	"cmtpd/internal/front"
	"cmtpd/internal/relay"
)

// smtpHandler returns what serves SMTP sessions as c says: the one that there is or,
// where it is another, a new one, once the backend has shown that it can be fronted.
func (d *daemon) smtpHandler(ctx context.Context, c *config.Config) (front.Handler, error) {
	if h := d.smtp.now.Load(); h != nil && c.SMTP == d.config().SMTP {
		return *h, nil
	}
	if c.SMTP.Mode == config.Refuse {
		return relay.Refuse{Hostname: c.Hostname.String(), Log: d.log, Ended: d.relayed}, nil
	}
	rc := relay.Config{
		Hostname: c.Hostname.String(), Backend: c.SMTP.Backend, Proxy: c.SMTP.ProxyProtocol,
		ConnectTimeout: c.SMTP.ConnectTimeout, IdleTimeout: c.SMTP.IdleTimeout, SessionTimeout: c.SMTP.SessionTimeout,
		Log: d.log, Ended: d.relayed,
	}
	g := &gate{cfg: rc, relay: relay.New(rc), warn: c.SMTP.RelayCheck == config.WarnBackend, log: d.log}
	if err := g.check(ctx); errors.Is(err, relay.ErrWouldRelay) && !g.warn {
		return nil, fmt.Errorf("%w; tell it who its clients are (smtp.proxy_protocol) or let it trust fewer; smtp.relay_check = \"warn\" starts all the same", err)
	}
	return g, nil
}

// relayed is told how each SMTP session has ended.
func (d *daemon) relayed(e relay.End) {
	d.metrics.Relayed(e)
	switch e.Outcome {
	case relay.Unavailable:
		d.putOff.Store(true)
	case relay.Passed, relay.Refused:
		d.putOff.Store(false)
	}
}

// smtpWaits reports whether SMTP clients are told to come again, as far as is known: the mail server behind has not
// been found fit yet, or the last session did not reach it.
func (d *daemon) smtpWaits() bool {
	g, relays := (*d.smtp.now.Load()).(*gate)
	return relays && (!g.open.Load() || d.putOff.Load())
}
