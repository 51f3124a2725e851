package checkup

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"cmtpd/internal/discovery"
	"cmtpd/internal/identity"
	"cmtpd/internal/trust"
)

// lookTime bounds what is asked of DNS.
const lookTime = 5 * time.Second

// records compares what DNS says of the local domains with what is here: where their mail goes, and which keys
// they publish. It puts the resolver to the test too.
func (c *checkup) records(ctx context.Context) (found []Finding) {
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	finder := discovery.New(c.cfg, discovery.Options{})
	var validation, routes []Finding
	var silent, unknown error
	var asked sync.WaitGroup
	asked.Go(func() { validation = c.validationFindings(finder.CheckValidation(ctx)) })
	asked.Go(func() { routes, silent = c.routes(ctx, finder) })
	if s, err := identity.Read(c.cfg); err == nil { // else it was said already
		found, unknown = c.published(ctx, finder, s)
	}
	asked.Wait()
	found, silent = append(routes, found...), cmp.Or(silent, unknown)
	if silent != nil {
		found = append(found, note(fmt.Sprintf("what is published was not looked at, since DNS does not answer: %v", silent))...)
		if !c.cfg.DNS.Trusted {
			return found // whether it validates is not the question now
		}
	}
	return append(found, validation...)
}

// published compares the _cmtp records with the keys. silent is why some are not known.
func (c *checkup) published(ctx context.Context, finder *discovery.Finder, s *identity.State) (found []Finding, silent error) {
	sights := identity.Look(ctx, c.cfg, finder)
	bare := []string{}
	for i := range sights {
		for _, f := range s.Faults(&sights[i]) {
			switch f.Flaw {
			case identity.Unknown:
				silent = sights[i].Err
			case identity.Missing:
				bare = append(bare, sights[i].Domain.String())
			default:
				found = append(found, recordFinding(s, f))
			}
		}
	}
	if len(bare) > 0 {
		found = append(found, note(fmt.Sprintf("no _cmtp record is published for %s: nobody can tell its server's key from another at first contact; cmtpd key show has the records", some(bare)))...)
	}
	return append(found, c.unheard(sights)...), silent
}

// unheard notes of which domains others come to a port on which this server does not listen. That may be meant, where
// something before it passes on what comes there.
func (c *checkup) unheard(sights []identity.Sight) []Finding {
	const usual = 25
	var names []string
	for i := range sights {
		g, port := &sights[i], usual
		if r := g.Published.Record; r != nil && r.Port != 0 {
			port = r.Port
		}
		if g.Err == nil && g.Published.Ignored == nil && !c.listensOn(port) {
			names = append(names, fmt.Sprintf("%s (%d)", g.Domain, port))
		}
	}
	if len(names) == 0 {
		return nil
	}
	return []Finding{{Note: true, Text: "other servers come to a port on which this one does not listen, of " + some(names),
		Remedy: "publish port= in the record, or see that what listens there passes it on"}}
}

// listensOn reports whether others may find the server at a port, as far as its configuration tells: what is on
// loopback alone, or comes from a load balancer, is found elsewhere.
func (c *checkup) listensOn(port int) bool {
	if len(c.cfg.Listen.ProxyFrom) > 0 {
		return true
	}
	open := false
	for _, a := range slices.Concat(c.cfg.Listen.Addresses, c.cfg.Listen.CMTPOnly) {
		host, p, err := net.SplitHostPort(a)
		if ip, _ := netip.ParseAddr(host); err != nil || ip.IsLoopback() {
			continue
		}
		if open = true; p == strconv.Itoa(port) {
			return true
		}
	}
	return !open
}

// recordFinding says how heavy a fault is.
func recordFinding(s *identity.State, f identity.Fault) Finding {
	const publish = "publish what cmtpd key show --dns prints"
	switch f.Flaw {
	case identity.Ignored, identity.WrongSuccessor:
		return Finding{Text: f.Text, Remedy: publish}
	case identity.WrongKey:
		return Finding{Text: f.Text + ": who meets it for the first time may hold its mail", Remedy: publish}
	case identity.LostNamed:
		return Finding{Text: f.Text + ": who meets the domain for the first time trusts whoever has it", Remedy: publish}
	case identity.FormerNamed:
		if at := s.Since.Add(identity.RecordWait); time.Now().Before(at) {
			return Finding{Note: true, Text: f.Text,
				Remedy: "that is as it should be until " + at.UTC().Format(time.DateTime+" MST") + "; then run: " + identity.RetireCommand}
		}
		// Within a week others take it for the key that has followed it. Later they would trust it anew.
		return Finding{Note: time.Since(s.Since) < trust.Week, Text: f.Text, Remedy: "run: " + identity.RetireCommand}
	case identity.Alien:
		return Finding{Note: true, Text: f.Text, Remedy: "if it is not yours, take it out of the record"}
	case identity.NextMissing:
		return Finding{Note: true, Text: f.Text, Remedy: "run: cmtpd key rotate"}
	}
	return Finding{Note: true, Text: f.Text, Remedy: publish}
}

// validationFindings says what a test of the resolver has come to.
func (c *checkup) validationFindings(err error) []Finding {
	const own = "run an unbound or knot-resolver on this machine, name its address in dns.resolver, and set dns.trusted"
	trusted := c.cfg.DNS.Trusted
	switch {
	case err == nil && trusted:
		return nil
	case err == nil:
		return []Finding{{Note: true, Text: "the resolver validates DNSSEC, and is not believed: dns.trusted is not set",
			Remedy: "if nobody else can write on the way to it (it is on this machine), name its address in dns.resolver and set dns.trusted; else " + own}}
	case !trusted && errors.Is(err, discovery.ErrNotValidating):
		return []Finding{{Note: true, Text: "the resolver does not validate DNSSEC: nothing vouches for the key of another domain at first contact",
			Remedy: own}}
	case errors.Is(err, discovery.ErrNotValidating):
		return problem(err.Error(),
			"unset dns.trusted, or name a resolver that validates: whoever can write on the way to it is believed as if DNSSEC had vouched for it")
	}
	return note(fmt.Sprintf("whether the resolver validates could not be proved: %v", err))
}
