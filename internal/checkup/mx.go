package checkup

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"cmtpd/internal/address"
	"cmtpd/internal/discovery"
	"cmtpd/internal/identity"
)

// A route is what DNS says of where the mail of one local domain goes.
type route struct {
	domain address.Domain
	result *discovery.Result
	err    error
}

// routes looks whether the mail of the local domains comes to this machine. silent is why something is not known.
func (c *checkup) routes(ctx context.Context, finder *discovery.Finder) (found []Finding, silent error) {
	all := make([]route, len(c.cfg.Domains))
	var asked sync.WaitGroup
	for i, d := range c.cfg.Domains {
		asked.Go(func() {
			all[i].domain = d
			all[i].result, all[i].err = finder.Find(ctx, d)
		})
	}
	asked.Wait()
	own := discovery.OwnAddresses()
	var elsewhere []string
	for _, r := range all {
		var failed *discovery.Error
		switch {
		case errors.As(r.err, &failed) && failed.Temporary():
			silent = r.err
		case r.err != nil:
			found = append(found, Finding{Text: "nobody can send mail to " + r.domain.String() + ": " + r.err.Error(),
				Remedy: c.publishRoute(r.domain, r.err)})
		default:
			found = append(found, hostFindings(r)...)
			here := func(s discovery.Server) bool { return slices.Contains(own, s.Addr.Addr()) }
			if len(own) > 0 && !slices.ContainsFunc(r.result.Servers, here) {
				s := r.result.Servers[0]
				elsewhere = append(elsewhere, fmt.Sprintf("%s (%s, %s)", r.domain, s.Host, s.Addr.Addr()))
			}
		}
	}
	if len(elsewhere) > 0 {
		found = append(found, Finding{Note: true, Text: "the mail hosts in DNS have no address of this machine, of " + some(elsewhere),
			Remedy: "that is as it should be behind a load balancer or an address translation that passes the port on; else publish this machine's address"})
	}
	return found, silent
}

// publishRoute says which records are missing, as lines of a zone file.
func (c *checkup) publishRoute(d address.Domain, err error) string {
	host := fmt.Sprintf("%s. %d IN A (this machine's address)", c.cfg.Hostname, identity.RecordTTL)
	if errors.Is(err, discovery.ErrNoServer) {
		return "publish an address of the host, as in: " + host
	}
	return fmt.Sprintf("publish: %s. %d IN MX 10 %s. and %s", d, identity.RecordTTL, c.cfg.Hostname, host)
}

// hostFindings tells of hosts of a domain that nobody can reach.
func hostFindings(r route) (found []Finding) {
	for _, err := range r.result.PassedOver {
		var failed *discovery.Error
		if errors.As(err, &failed) && failed.Temporary() {
			continue // it may be there
		}
		found = append(found, Finding{Text: fmt.Sprintf("a mail host of %s cannot be reached: %v", r.domain, err),
			Remedy: "publish its address, or take it out of the MX records"})
	}
	return found
}
