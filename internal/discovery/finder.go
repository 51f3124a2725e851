package discovery

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"cmtpd/internal/address"
	"cmtpd/internal/config"

	"github.com/miekg/dns"
)

// A Finder finds servers. It keeps what it has learnt for as long as DNS allows.
type Finder struct {
	resolver *resolver
	port     uint16
	broken   address.Domain
	signed   address.Domain
}

// Options are what tests replace.
type Options struct {
	Now        func() time.Time                 // nil: time.Now; decides what has expired
	ResolvConf string                           // empty: /etc/resolv.conf
	Shuffle    func(n int, swap func(i, j int)) // nil: rand.Shuffle; orders equal hosts
}

// New returns a Finder that asks the resolver of c, or the system's. Nothing is
// asked yet.
func New(c *config.Config, o Options) *Finder {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.ResolvConf == "" {
		o.ResolvConf = "/etc/resolv.conf"
	}
	if o.Shuffle == nil {
		o.Shuffle = rand.Shuffle
	}
	servers := (&system{path: o.ResolvConf, now: o.Now}).servers
	if c.DNS.Resolver != "" {
		servers = func() []string { return []string{c.DNS.Resolver} }
	}
	return &Finder{
		resolver: &resolver{
			servers: servers,
			timeout: c.DNS.Timeout,
			trusted: c.DNS.Trusted,
			fresh:   reader{loopback: c.Delivery.Loopback, private: c.Delivery.Intranet, shuffle: o.Shuffle},
			now:     o.Now,
			cache:   newCache(maxCached),
			flights: newFlights(),
			running: make(chan struct{}, maxQuestions),
		},
		port:   uint16(c.Delivery.Port),
		broken: c.DNS.BrokenZone,
		signed: c.DNS.SignedZone,
	}
}

// Aside returns a Finder with the same memory, and with places of its own for its questions: whoever can make it ask what
// nobody answers takes none of f's.
func (f *Finder) Aside() *Finder {
	other := *f
	other.resolver = f.resolver.aside()
	return &other
}

// A Server is one address of one host of a domain.
type Server struct {
	Host          string // without a final dot
	Preference    uint16 // the MX record's: lower is tried first
	Addr          netip.AddrPort
	Authenticated bool // whether DNSSEC vouches for the host's addresses
}

// Published is what a domain has at _cmtp.
type Published struct {
	Record        *Record // nil: none that counts
	Ignored       error   // why what is there does not count, for the operator; wraps ErrRecord
	Authenticated bool    // whether DNSSEC vouches for what is there, or for its absence
}

// Enforced reports whether the domain asks, in a way that counts, for its own keys
// and nothing else.
func (p Published) Enforced() bool {
	return p.Record != nil && p.Record.Mode == Enforce && p.Authenticated
}

// Tested reports whether the domain asks, in a way that counts, that what Enforced would stop is
// told of and done.
func (p Published) Tested() bool {
	return p.Record != nil && p.Record.Mode == Testing && p.Authenticated
}

// A Result is what DNS says of a domain that takes mail.
type Result struct {
	Domain             address.Domain
	Servers            []Server // at least one, in the order to try them
	HostsAuthenticated bool     // whether DNSSEC vouches for which hosts they are
	Published          Published
	PassedOver         []error // hosts without an address, and why
}

// Authenticated reports whether DNSSEC vouches for all of it. For keys and policy
// Published.Authenticated is enough.
func (r *Result) Authenticated() bool {
	unproven := func(s Server) bool { return !s.Authenticated }
	return r.HostsAuthenticated && r.Published.Authenticated && !slices.ContainsFunc(r.Servers, unproven)
}

// Find returns the servers of a domain, and what it publishes. The error is an
// *Error: temporary unless DNS says that the domain does not exist, takes no mail
// or has no server.
func (f *Finder) Find(ctx context.Context, d address.Domain) (*Result, error) {
	result := &Result{Domain: d}
	var published, err error
	var hosts []host
	var both sync.WaitGroup
	both.Go(func() { result.Published, published = f.Published(ctx, d) })
	hosts, result.HostsAuthenticated, err = f.hosts(ctx, d)
	both.Wait()
	if err == nil {
		err = published
	}
	if err != nil {
		return nil, err
	}
	port := f.port
	if r := result.Published.Record; r != nil && r.Port != 0 {
		port = uint16(r.Port)
	}
	if err := f.locate(ctx, result, hosts, port); err != nil {
		return nil, err
	}
	return result, nil
}

// Published returns what a domain publishes at _cmtp. The error is an *Error and
// temporary: absence is none.
func (f *Finder) Published(ctx context.Context, d address.Domain) (Published, error) {
	name, ok := recordName(d)
	if !ok {
		return Published{}, nil
	}
	return published(f.resolver.ask(ctx, name, dns.TypeTXT))
}

// Look is Published for who has to know what is so now: it asks past what is remembered here, and
// leaves that alone. ttl is for how long a server like this one keeps the answer: at most a day,
// and 0 for one that nobody keeps.
func (f *Finder) Look(ctx context.Context, d address.Domain) (p Published, ttl time.Duration, err error) {
	name, ok := recordName(d)
	if !ok {
		return Published{}, 0, nil
	}
	before := f.resolver.now()
	a := f.resolver.resolve(ctx, question{dns.Fqdn(name), dns.TypeTXT})
	p, err = published(a)
	return p, max(a.expires.Sub(before).Truncate(time.Second), 0), err
}

// Forget drops what DNS has said of a domain, and of the hosts that it is known to have, also that it has failed: the
// next Find and Published ask anew.
func (f *Finder) Forget(d address.Domain) {
	mx := questionOf(d.String(), dns.TypeMX)
	forgotten := []question{mx}
	if name, ok := recordName(d); ok {
		forgotten = append(forgotten, questionOf(name, dns.TypeTXT))
	}
	hosts := []host{{name: mx.name}}
	if a := f.resolver.cache.peek(mx); a != nil {
		hosts = append(hosts, a.hosts...)
	}
	for _, h := range hosts {
		forgotten = append(forgotten, questionOf(h.name, dns.TypeAAAA), questionOf(h.name, dns.TypeA))
	}
	f.resolver.forget(forgotten)
}

// recordName returns the name of a domain's record. It is false where there can be none.
func recordName(d address.Domain) (name string, ok bool) {
	name = "_cmtp." + d.String()
	return name, len(name) <= address.MaxDomainLength
}

func published(a *answer) (Published, error) {
	if isTemporary(a.err) {
		return Published{}, a.err
	}
	return Published{a.record, a.ignored, a.authenticated}, nil
}

// hosts returns the hosts of a domain in the order to try them.
func (f *Finder) hosts(ctx context.Context, d address.Domain) ([]host, bool, error) {
	a := f.resolver.ask(ctx, d.String(), dns.TypeMX)
	switch {
	case errors.Is(a.err, ErrNoData):
		return []host{{name: dns.Fqdn(d.String())}}, a.authenticated, nil
	case errors.Is(a.err, ErrNoName), errors.Is(a.err, ErrNoMail):
		return nil, false, domainError(d, errors.Unwrap(a.err))
	case a.err != nil:
		return nil, false, a.err
	}
	return inOrder(a.hosts, f.resolver.fresh.shuffle), a.authenticated, nil
}

// addresses looks up all hosts side by side, the first ones first: no more than maxAtOnce questions are under way.
func (f *Finder) addresses(ctx context.Context, hosts []host) (v6, v4 []*answer) {
	v6, v4 = make([]*answer, len(hosts)), make([]*answer, len(hosts))
	places := make(chan struct{}, maxAtOnce)
	var all sync.WaitGroup
	ask := func(into **answer, h host, qtype uint16) {
		places <- struct{}{}
		all.Go(func() {
			defer func() { <-places }()
			*into = f.resolver.ask(ctx, h.name, qtype)
		})
	}
	for i, h := range hosts {
		ask(&v6[i], h, dns.TypeAAAA)
		ask(&v4[i], h, dns.TypeA)
	}
	all.Wait()
	return v6, v4
}

// locate fills in the servers.
func (f *Finder) locate(ctx context.Context, result *Result, hosts []host, port uint16) error {
	v6, v4 := f.addresses(ctx, hosts)
	for i, h := range hosts {
		addrs := inTurns(v6[i].addrs, v4[i].addrs)
		if len(addrs) == 0 {
			result.PassedOver = append(result.PassedOver, noAddress(h, v6[i], v4[i]))
		}
		for _, a := range addrs {
			server := Server{shown(h.name), h.preference, netip.AddrPortFrom(a, port), v6[i].authenticated && v4[i].authenticated}
			known := func(s Server) bool { return s.Addr == server.Addr }
			if len(result.Servers) < maxAddresses && !slices.ContainsFunc(result.Servers, known) {
				result.Servers = append(result.Servers, server)
			}
		}
	}
	if len(result.Servers) > 0 {
		return nil
	}
	return nowhere(result.Domain, result.PassedOver)
}

// inTurns returns one address of each family after the other, at most maxPerHost
// (RFC 8305 section 4).
func inTurns(v6, v4 []netip.Addr) (addrs []netip.Addr) {
	for i := range max(len(v6), len(v4)) {
		if i < len(v6) {
			addrs = append(addrs, v6[i])
		}
		if i < len(v4) {
			addrs = append(addrs, v4[i])
		}
	}
	return addrs[:min(len(addrs), maxPerHost)]
}

// noAddress says why a host has none. What is not known weighs more than what is
// known not to be.
func noAddress(h host, v6, v4 *answer) error {
	for _, a := range []*answer{v6, v4} {
		if isTemporary(a.err) {
			return a.err
		}
	}
	for _, a := range []*answer{v6, v4} {
		if a.err == nil {
			return &Error{shown(h.name), "A and AAAA", ErrUnusable}
		}
	}
	return &Error{shown(h.name), "A and AAAA", errors.Unwrap(v4.err)}
}

// nowhere is the error of a domain none of whose hosts has an address.
func nowhere(d address.Domain, why []error) error {
	if i := slices.IndexFunc(why, isTemporary); i >= 0 {
		return domainError(d, why[i])
	}
	more := ""
	if len(why) > 1 {
		more = " (and " + strconv.Itoa(len(why)-1) + " more)"
	}
	return domainError(d, fmt.Errorf("%w: %w%s", ErrNoServer, why[0], more))
}
