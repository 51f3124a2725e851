package dnstest

import (
	"fmt"
	"strings"

	"github.com/miekg/dns"
)

// A zone is records by lower-case name.
type zone map[string][]dns.RR

func parseZone(text string) (zone, error) {
	z := make(zone)
	p := dns.NewZoneParser(strings.NewReader(text), ".", "")
	p.SetDefaultTTL(3600)
	for rr, ok := p.Next(); ok; rr, ok = p.Next() {
		name := strings.ToLower(rr.Header().Name)
		z[name] = append(z[name], rr)
	}
	if err := p.Err(); err != nil {
		return nil, fmt.Errorf("dnstest: the zone: %w", err)
	}
	return z, nil
}

// exists reports whether a name is there, be it only as the end of longer ones.
func (z zone) exists(name string) bool {
	if _, ok := z[name]; ok {
		return true
	}
	for other := range z {
		if strings.HasSuffix(other, "."+name) {
			return true
		}
	}
	return false
}

// answer fills in what the zone has for m's question, along CNAMEs but not in
// circles. Of absence it says so, with the SOA that stands above the name.
func (z zone) answer(m *dns.Msg, partial bool) {
	name, qtype := strings.ToLower(m.Question[0].Name), m.Question[0].Qtype
	for range 16 {
		next := ""
		for _, rr := range z[name] {
			if rr.Header().Rrtype == qtype {
				m.Answer = append(m.Answer, rr)
			} else if cname, ok := rr.(*dns.CNAME); ok {
				m.Answer = append(m.Answer, rr)
				next = strings.ToLower(cname.Target)
			}
		}
		if next == "" || partial {
			break
		}
		name = next
	}
	last := len(m.Answer) - 1
	if last >= 0 && (m.Answer[last].Header().Rrtype == qtype || partial) {
		return
	}
	if !z.exists(name) {
		m.Rcode = dns.RcodeNameError
	}
	if soa := z.soa(name); soa != nil {
		m.Ns = []dns.RR{soa}
	}
}

// soa returns the SOA of the zone that a name is in, if there is one.
func (z zone) soa(name string) dns.RR {
	for {
		for _, rr := range z[name] {
			if rr.Header().Rrtype == dns.TypeSOA {
				return rr
			}
		}
		_, above, ok := strings.Cut(name, ".")
		if !ok || above == "" {
			return nil
		}
		name = above
	}
}
