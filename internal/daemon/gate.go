package daemon

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"cmtpd/internal/netbuf"
	"cmtpd/internal/relay"
)

// askAgain is how long an answer that opened nothing is believed.
const askAgain = time.Second

// A gate keeps SMTP sessions from a mail server behind that has not shown yet
// that it does not relay for strangers. One that is away when the daemon starts
// is asked again when the first session needs it: a mail server that starts
// later is no reason to be closed, and no reason to be open either.
type gate struct {
	cfg   relay.Config
	relay *relay.Relay
	warn  bool // front it even if it relays
	log   *slog.Logger

	mu    sync.Mutex  // held while the mail server is asked, so it is asked once
	asked time.Time   // under mu
	open  atomic.Bool // set under mu
}

// Serve implements front.Handler.
func (g *gate) Serve(ctx context.Context, c *netbuf.Conn) {
	if !g.isOpen(ctx) {
		g.relay.TurnAway(c)
		return
	}
	g.relay.Serve(ctx, c)
}

func (g *gate) isOpen(ctx context.Context) bool {
	came := time.Now()
	g.mu.Lock()
	defer g.mu.Unlock()
	// Who waited while somebody else asked takes that answer.
	if !g.open.Load() && came.Sub(g.asked) >= askAgain {
		g.take(relay.CheckRelay(ctx, g.cfg)) // the log has the answer
	}
	return g.open.Load()
}

// take opens the gate for a mail server that does not take a stranger's mail, as relay.CheckRelay says. The caller holds mu, or
// is the only one who knows g.
func (g *gate) take(err error) {
	g.asked = time.Now()
	switch {
	case err == nil:
		g.open.Store(true)
		g.log.Info("the mail server behind refuses to relay for strangers", "backend", g.cfg.Backend)
	case errors.Is(err, relay.ErrDeferred):
		g.open.Store(true)
		g.log.Warn("the mail server behind does not relay for strangers now, and does not refuse for good", "backend", g.cfg.Backend, "err", err)
	case errors.Is(err, relay.ErrWouldRelay):
		g.open.Store(g.warn)
		g.log.Error("the mail server behind relays for strangers", "backend", g.cfg.Backend, "fronted", g.warn, "err", err)
	default:
		g.open.Store(g.warn)
		g.log.Error("the mail server behind cannot be asked whether it relays for strangers; unless fronted all the same, SMTP is put off until it can",
			"backend", g.cfg.Backend, "fronted", g.warn, "err", err)
	}
}
