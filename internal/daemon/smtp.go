package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"cmtpd/internal/config"
	"cmtpd/internal/front"
	"cmtpd/internal/relay"
)

// smtpHandler returns what serves SMTP sessions as c says: the one that there is or,
// where it is another, a new one, once the backend has shown that it can be fronted. At the start it may show
// that later. One that takes another's place may not: that one would be gone for it.
func (d *daemon) smtpHandler(ctx context.Context, c *config.Config) (front.Handler, error) {
	now := d.smtp.now.Load()
	if now != nil && c.SMTP == d.config().SMTP {
		return *now, nil
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
	err := d.askBackend(ctx, rc, now != nil)
	was := d.config().SMTP
	another := now != nil && (was.Mode != c.SMTP.Mode || was.Backend != c.SMTP.Backend || was.ProxyProtocol != c.SMTP.ProxyProtocol)
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err() // whoever asked has gone
	case another && !g.warn && errors.Is(err, relay.ErrUndecided) && !errors.Is(err, relay.ErrDeferred):
		return nil, fmt.Errorf("smtp.backend = %q does not answer with smtp.proxy_protocol = %q, and takes nobody's place before it does: %w; "+
			"cmtpd check says which PROXY header it expects, if it is there at all; a restart waits for it, and smtp.relay_check = \"warn\" takes it unasked",
			c.SMTP.Backend, c.SMTP.ProxyProtocol, err)
	}
	if g.take(err); errors.Is(err, relay.ErrWouldRelay) && !g.warn {
		return nil, fmt.Errorf("%w; tell it who its clients are (smtp.proxy_protocol) or let it trust fewer; smtp.relay_check = \"warn\" starts all the same", err)
	}
	return g, nil
}

// askBackend asks the mail server behind whether it relays for strangers; in a reload, for which somebody waits, not for long.
func (d *daemon) askBackend(ctx context.Context, rc relay.Config, reload bool) error {
	if !reload {
		return relay.CheckRelay(ctx, rc)
	}
	patience := cmp.Or(d.options.ReloadPatience, defaultReloadPatience)
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err := relay.CheckRelay(ctx, rc)
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("%w (given up after %v)", err, patience)
	}
	return err
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
