package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"syscall"
	"time"

	"cmtpd/internal/config"
	"cmtpd/internal/front"
	"cmtpd/internal/relay"
)

// filesBeside is how many files the daemon opens besides client connections and
// their backends: listeners, logs, spool segments, large messages on their way, refused connections.
const filesBeside = 768

// checkFiles refuses to start when the open-file limit is too low for the
// connections that the configuration promises: running out of files in the
// middle of the day hits the spool as well as strangers.
func checkFiles(c *config.Config) error {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("asking for the open-file limit: %w", err)
	}
	need := uint64(c.Limits.MaxConnections) + filesBeside
	if c.SMTP.Mode == config.Relay { // each connection may have another behind it
		need += uint64(c.Limits.MaxConnections + relay.Files())
	}
	if limit.Cur >= need {
		return nil
	}
	return fmt.Errorf("limits.max_connections = %d needs an open-file limit of %d, and it is %d: raise it (LimitNOFILE= in the service's unit, or ulimit -n) or lower max_connections",
		c.Limits.MaxConnections, need, limit.Cur)
}

// smtpHandler returns what serves SMTP sessions as c says: the one that there is or,
// where it is another, a new one, once the backend has shown that it can be fronted.
func (d *daemon) smtpHandler(ctx context.Context, c *config.Config) (front.Handler, error) {
	if h := d.smtp.now.Load(); h != nil && c.SMTP == d.config().SMTP {
		return *h, nil
	}
	if c.SMTP.Mode == config.Refuse {
		return relay.Refuse{Hostname: c.Hostname.String(), Log: d.log, Ended: d.metrics.Relayed}, nil
	}
	rc := relay.Config{
		Hostname: c.Hostname.String(), Backend: c.SMTP.Backend, Proxy: c.SMTP.ProxyProtocol,
		ConnectTimeout: c.SMTP.ConnectTimeout, IdleTimeout: c.SMTP.IdleTimeout, SessionTimeout: c.SMTP.SessionTimeout,
		Log: d.log, Ended: d.metrics.Relayed,
	}
	g := &gate{cfg: rc, relay: relay.New(rc), warn: c.SMTP.RelayCheck == config.WarnBackend, log: d.log}
	if err := g.check(ctx); errors.Is(err, relay.ErrWouldRelay) && !g.warn {
		return nil, fmt.Errorf("%w; tell it who its clients are (smtp.proxy_protocol) or let it trust fewer; smtp.relay_check = \"warn\" starts all the same", err)
	}
	return g, nil
}

// serveHTTP returns a function that serves l until its context ends.
func serveHTTP(srv *http.Server, l net.Listener) func(context.Context) error {
	return func(ctx context.Context) error {
		stop := context.AfterFunc(ctx, func() {
			grace, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			defer cancel()
			if srv.Shutdown(grace) != nil {
				srv.Close()
			}
		})
		defer stop()
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	}
}
