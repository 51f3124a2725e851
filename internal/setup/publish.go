package setup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"cmtpd/internal/address"
	"cmtpd/internal/config"
	"cmtpd/internal/discovery"
	"cmtpd/internal/identity"
)

// Published is what DNS should have that it has not.
type Published struct {
	Zone  []string `json:"zone"`  // lines of a zone file
	Notes []string `json:"notes"` // what is there already, or is not known
}

// Publish says what to publish for the server that cfg describes, at these addresses of the machine; with
// dns only what is missing. It takes no longer than a few seconds.
func Publish(ctx context.Context, cfg *config.Config, own []netip.Addr, dns bool) (*Published, error) {
	p := &Published{Zone: []string{}, Notes: []string{}}
	if dns {
		ctx, cancel := context.WithTimeout(ctx, lookTime)
		defer cancel()
		p.ways(ctx, cfg, own)
	} else {
		p.Notes = append(p.Notes, "DNS was not asked: see that MX records lead to "+cfg.Hostname.String())
	}
	v, err := identity.Keys(ctx, cfg, dns)
	if errors.Is(err, fs.ErrNotExist) {
		p.Notes = append(p.Notes, "The _cmtp records name the server's key, which is not made yet: cmtpd key show has them once it is.")
		return p, nil
	}
	if err != nil {
		return nil, err
	}
	for _, d := range v.Records {
		if d.DNS != nil && d.DNS.Right {
			p.Notes = append(p.Notes, "DNS has the _cmtp record of "+d.Domain+" already.")
			continue
		}
		if d.DNS != nil && d.DNS.Record != "" {
			p.Notes = append(p.Notes, d.DNS.Faults...)
		}
		p.Zone = append(p.Zone, d.Zone)
	}
	return p, nil
}

// ways adds the records without which nobody finds the server.
func (p *Published) ways(ctx context.Context, cfg *config.Config, own []netip.Addr) {
	finder := discovery.New(cfg, discovery.Options{})
	names := append([]address.Domain{cfg.Hostname}, cfg.Domains...)
	results, errs := make([]*discovery.Result, len(names)), make([]error, len(names))
	var all sync.WaitGroup
	for i, d := range names {
		all.Go(func() { results[i], errs[i] = finder.Find(ctx, d) })
	}
	all.Wait()
	host := cfg.Hostname.String()
	if isAbsent(errs[0]) {
		p.Zone = append(p.Zone, addressRecords(host, own)...)
	}
	for i, d := range cfg.Domains {
		result, err := results[i+1], errs[i+1]
		leads := func(s discovery.Server) bool { return strings.EqualFold(s.Host, host) }
		switch mx := fmt.Sprintf("%s. %d IN MX 10 %s.", d, identity.RecordTTL, host); {
		case isAbsent(err):
			p.Zone = append(p.Zone, mx)
		case err != nil:
			p.Notes = append(p.Notes, fmt.Sprintf("It is not known where mail for %s goes: %v", d, err))
		case !slices.ContainsFunc(result.Servers, leads):
			p.Notes = append(p.Notes, fmt.Sprintf("Mail for %s goes to %s by DNS. Unless that is this machine, it needs: %s", d, result.Servers[0].Host, mx))
		}
	}
}

// isAbsent reports whether DNS has said that there is no way to a name.
func isAbsent(err error) bool {
	return errors.Is(err, discovery.ErrNoName) || errors.Is(err, discovery.ErrNoServer) || errors.Is(err, discovery.ErrNoData)
}

func addressRecords(host string, own []netip.Addr) (lines []string) {
	for _, a := range own {
		kind := "AAAA"
		if a.Is4() {
			kind = "A"
		}
		lines = append(lines, fmt.Sprintf("%s. %d IN %s %s", host, identity.RecordTTL, kind, a))
	}
	if lines == nil {
		return []string{fmt.Sprintf("; %s. %d IN A (the address at which others reach this machine)", host, identity.RecordTTL)}
	}
	return lines
}

// PublicAddresses returns this machine's addresses at which others can reach it.
func PublicAddresses() []netip.Addr {
	return slices.DeleteFunc(discovery.OwnAddresses(), func(ip netip.Addr) bool { return !ip.IsGlobalUnicast() || ip.IsPrivate() })
}
