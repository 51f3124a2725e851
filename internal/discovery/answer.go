package discovery

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// Bounds of what one answer may bring (docs/protocol.md section 23.8).
const (
	maxLinks     = 8  // CNAMEs in a row
	maxHosts     = 10 // of a domain
	maxPerHost   = 8  // addresses of a host
	maxAddresses = 20 // of a domain

	maxTTL     = 24 * time.Hour
	failureTTL = 30 * time.Second
)

// A host is what an MX record names.
type host struct {
	name       string // with a final dot
	preference uint16
}

// An answer is what came of one question: what is used of it, and no more, since
// it is kept. Nobody changes it.
type answer struct {
	hosts   []host       // MX: lowest preference first, without the root
	addrs   []netip.Addr // A, AAAA: those that a server can have
	record  *Record      // TXT: the one that counts
	ignored error        // TXT: why none counts, though there is one

	authenticated bool
	err           error // *Error: why there are no data; nil otherwise
	expires       time.Time
}

// A reader makes one answer out of the messages that a chain of CNAMEs takes.
type reader struct {
	question
	loopback bool                             // whether addresses of this host count
	private  bool                             // whether those of private networks do
	shuffle  func(n int, swap func(i, j int)) // see Options

	name  string        // where the chain has led
	links int           // how many CNAMEs that took
	ttl   time.Duration // the least so far
	answer
}

// read takes one message of a resolver, which has the code NOERROR or NXDOMAIN. It
// reports whether the chain ends here; if not, r.name is the next to ask for.
func (r *reader) read(m *dns.Msg) (done bool, err error) {
	r.authenticated = r.authenticated && m.AuthenticatedData
	before := r.links
	records, err := r.follow(m.Answer)
	if err != nil {
		return true, err
	}
	switch {
	case m.Rcode == dns.RcodeNameError:
		r.absence(m.Ns)
		return true, ErrNoName
	case len(records) > 0:
		return true, r.take(records)
	case r.links > before && !slices.ContainsFunc(m.Ns, isSOA):
		return false, nil // the resolver left the rest of the chain to us
	}
	r.absence(m.Ns)
	return true, ErrNoData
}

// follow goes along the CNAMEs of a message, in whatever order they stand, and
// returns the records that are asked for at their end.
func (r *reader) follow(section []dns.RR) (records []dns.RR, err error) {
	for {
		next := ""
		for _, rr := range section {
			h := rr.Header()
			if h.Class != dns.ClassINET || !strings.EqualFold(h.Name, r.name) {
				continue
			}
			if cname, ok := rr.(*dns.CNAME); ok {
				next = strings.ToLower(cname.Target)
				r.live(h.Ttl)
			} else if h.Rrtype == r.qtype {
				records = append(records, rr)
				r.live(h.Ttl)
			}
		}
		if len(records) > 0 || next == "" {
			return records, nil
		}
		if r.links++; r.links > maxLinks {
			return nil, fmt.Errorf("%w: there are more than %d CNAMEs in a row, or they lead in a circle", ErrRefused, maxLinks)
		}
		r.name = next
	}
}

func isSOA(rr dns.RR) bool { _, ok := rr.(*dns.SOA); return ok }

// live bounds how long the answer is kept.
func (r *reader) live(ttl uint32) { r.ttl = min(r.ttl, time.Duration(ttl)*time.Second) }

// absence bounds how long nothing is kept: RFC 2308 section 5.
func (r *reader) absence(authority []dns.RR) {
	i := slices.IndexFunc(authority, isSOA)
	if i < 0 {
		r.ttl = 0
		return
	}
	soa := authority[i].(*dns.SOA)
	r.live(min(soa.Hdr.Ttl, soa.Minttl))
}

// take keeps of the records what is used.
func (r *reader) take(records []dns.RR) error {
	switch r.qtype {
	case dns.TypeMX:
		return r.takeHosts(records)
	case dns.TypeTXT:
		r.takeRecord(records)
	default:
		r.takeAddrs(records)
	}
	return nil
}

// takeHosts keeps the most preferred hosts, any of those that are equal.
func (r *reader) takeHosts(records []dns.RR) error {
	for _, rr := range records {
		mx := rr.(*dns.MX)
		name := strings.ToLower(mx.Mx)
		if name == "." || name == "" {
			continue // null MX, RFC 7505
		}
		r.hosts = append(r.hosts, host{name, mx.Preference})
	}
	if len(r.hosts) == 0 {
		return ErrNoMail
	}
	r.hosts = inOrder(r.hosts, r.shuffle)
	var once []host
	for _, h := range r.hosts {
		if !slices.ContainsFunc(once, func(o host) bool { return o.name == h.name }) {
			once = append(once, h)
		}
		if len(once) == maxHosts {
			break
		}
	}
	r.hosts = once
	return nil
}

// inOrder returns hosts by preference, equal ones in random order (RFC 5321
// section 5.1).
func inOrder(hosts []host, shuffle func(n int, swap func(i, j int))) []host {
	hosts = slices.Clone(hosts)
	shuffle(len(hosts), func(i, j int) { hosts[i], hosts[j] = hosts[j], hosts[i] })
	slices.SortStableFunc(hosts, func(a, b host) int { return cmp.Compare(a.preference, b.preference) })
	return hosts
}

func (r *reader) takeAddrs(records []dns.RR) {
	for _, rr := range records {
		var a netip.Addr
		switch rr := rr.(type) {
		case *dns.A:
			a, _ = netip.AddrFromSlice(rr.A)
		case *dns.AAAA:
			a, _ = netip.AddrFromSlice(rr.AAAA)
		}
		a = a.Unmap()
		if len(r.addrs) < maxPerHost && r.isUsable(a) && !slices.Contains(r.addrs, a) {
			r.addrs = append(r.addrs, a)
		}
	}
}

// isUsable reports whether a can be the address of somebody's server. Link-local
// ones are services of a cloud's host.
func (r *reader) isUsable(a netip.Addr) bool {
	switch {
	case !a.IsValid(), a.IsUnspecified(), a.IsMulticast(), a.IsLinkLocalUnicast():
		return false
	case a.Is4() && (a.As4()[0] == 0 || a.As4()[0] >= 240): // this network, reserved, broadcast
		return false
	}
	if v4, ok := within(a); ok && !r.isUsable(v4) {
		return false
	}
	return (r.loopback || !a.IsLoopback()) && (r.private || !isPrivate(a))
}

// isPrivate reports whether a is of a network that nobody outside reaches: one on which services trust whoever
// can connect to them.
func isPrivate(a netip.Addr) bool {
	return a.IsPrivate() || slices.ContainsFunc(private, func(p netip.Prefix) bool { return p.Contains(a) })
}

// private are networks beside those of RFC 1918 and RFC 4193.
var private = []netip.Prefix{
	netip.MustParsePrefix("100.64.0.0/10"),  // RFC 6598, behind a provider's NAT
	netip.MustParsePrefix("192.0.0.0/24"),   // RFC 6890, between a host and its provider
	netip.MustParsePrefix("198.18.0.0/15"),  // RFC 2544, of laboratories
	netip.MustParsePrefix("64:ff9b:1::/48"), // RFC 8215, to whatever IPv4 network this one translates to
	netip.MustParsePrefix("fec0::/10"),      // RFC 3879, of a site
}

var (
	translated = netip.MustParsePrefix("64:ff9b::/96") // RFC 6052
	compatible = netip.MustParsePrefix("::/96")        // RFC 4291 section 2.5.5.1
	relayed    = netip.MustParsePrefix("2002::/16")    // RFC 3056
)

// within returns the IPv4 address that an IPv6 address leads to.
func within(a netip.Addr) (v4 netip.Addr, ok bool) {
	b := a.As16()
	switch {
	case translated.Contains(a), compatible.Contains(a) && !a.IsLoopback():
		return netip.AddrFrom4([4]byte(b[12:])), true
	case relayed.Contains(a):
		return netip.AddrFrom4([4]byte(b[2:6])), true
	}
	return v4, false
}

// takeRecord keeps the only _cmtp record, or why there is none that counts.
func (r *reader) takeRecord(records []dns.RR) {
	n := 0
	for _, rr := range records {
		text := joined(rr.(*dns.TXT).Txt)
		record, err := ParseRecord(text)
		if errors.Is(err, ErrNotARecord) {
			continue
		}
		if n++; n > 1 {
			r.record, r.ignored = nil, wrong("there are several, and which one is meant nobody can tell: leave one")
			return
		}
		r.record, r.ignored = record, err
	}
}

// joined returns the bytes of a TXT record, which the library holds as they are
// written in zone files: \DDD and \X for what is not plain (RFC 1035 section 5.1).
func joined(parts []string) string {
	s := strings.Join(parts, "")
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] != '\\' || i+1 == len(s):
			b.WriteByte(s[i])
		case i+3 < len(s) && isDigit(s[i+1]) && isDigit(s[i+2]) && isDigit(s[i+3]):
			b.WriteByte((s[i+1]-'0')*100 + (s[i+2]-'0')*10 + (s[i+3] - '0'))
			i += 3
		default:
			b.WriteByte(s[i+1])
			i++
		}
	}
	return b.String()
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }
