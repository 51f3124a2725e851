package federation

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"cmtpd/internal/address"
	"cmtpd/internal/trust"
)

// Bounds of meeting a known domain because of what comes in (docs/protocol.md section 21).
const (
	againPause = time.Minute // for one domain
	maxAgain   = 16          // at a time
	againKept  = 10000       // domains that were met so
	againRate  = 20          // a minute, for one client, and at once
	againHosts = 4           // addresses that are tried
)

var (
	// errVisiting: too many are met already.
	errVisiting = fmt.Errorf("%d domains are being met for what came from them already", maxAgain)
	// errLate: it was met, but not since the message came.
	errLate = errors.New("no key that its server has shown within the last minute has signed it")
	// errVisits: too many were.
	errVisits = errors.New("too many domains were met for what came from one client")
)

// meetAgain meets a server of a known domain to learn which keys it has now, and returns what is known then; late is that it
// was met for somebody else, and perhaps before the caller's question came up. It is
// asked for by whoever claims to be the domain, so for one domain that happens once in a while, and all who ask
// meanwhile get what came of it. Nothing but its history is asked for, and nothing is said of us: it may be about to
// ask the same of us. A stranger can have many domains, with addresses of somebody else's: so one client has few of them
// met, and few addresses of each.
func (p *Peers) meetAgain(ctx context.Context, d address.Domain, client netip.Addr) (now *trust.State, late bool, err error) {
	met := false // written by what lands, if it is ours
	landed := p.flights.DoChan(d.String(), func() (any, error) {
		if err, ok := p.again.get(d); ok {
			return nil, err
		}
		if !p.visits.Allow(client) {
			return nil, errVisits
		}
		select {
		case p.visiting <- struct{}{}:
			defer func() { <-p.visiting }()
		default:
			return nil, errVisiting
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), judgeTime)
		defer cancel()
		met = true
		peer, err := p.open(ctx, d, p.cfg.Aside, toLearn)
		if err == nil {
			peer.Close()
		}
		p.again.put(d, err, 1, againPause)
		return nil, err
	})
	select {
	case r := <-landed:
		if r.Err != nil {
			return nil, false, r.Err
		}
		now, err := p.cfg.Trust.Known(d)
		return now, !met, err
	case <-ctx.Done():
		return nil, false, context.Cause(ctx)
	}
}
