package discovery_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"cmtpd/internal/discovery"
	"cmtpd/internal/discovery/dnstest"

	"github.com/miekg/dns"
)

func TestFinder_CheckValidation(t *testing.T) {
	const zones = "org. SOA a. b. 1 1 1 1 1\ndnssec-failed.org. SOA a. b. 1 1 1 1 1\n"
	servfail := dns.RcodeServerFailure
	// refuses what is broken, unless it is told not to validate.
	refuses := func(m *dns.Msg) {
		if !m.CheckingDisabled {
			m.Rcode, m.Answer = servfail, nil
		}
	}
	for _, c := range []struct {
		name           string
		signed, broken dnstest.Behaviour
		want           error
		text           string
	}{
		{"a validating one", dnstest.Behaviour{AD: true}, dnstest.Behaviour{Edit: refuses}, nil, ""},
		{"no AD", dnstest.Behaviour{}, dnstest.Behaviour{Edit: refuses}, discovery.ErrNotValidating, "org"},
		{"answers for the broken zone", dnstest.Behaviour{AD: true}, dnstest.Behaviour{}, discovery.ErrNotValidating, "NOERROR"},
		{"vouches for the broken zone", dnstest.Behaviour{AD: true}, dnstest.Behaviour{AD: true}, discovery.ErrNotValidating, "NOERROR"},
		{"denies the broken zone", dnstest.Behaviour{AD: true}, dnstest.Behaviour{Rcode: dns.RcodeNameError}, discovery.ErrNotValidating, "NXDOMAIN"},
		{"cannot reach the broken zone", dnstest.Behaviour{AD: true}, dnstest.Behaviour{Rcode: servfail}, discovery.ErrRefused, "proves nothing"},
		{"cannot reach the signed zone", dnstest.Behaviour{Rcode: servfail}, dnstest.Behaviour{Edit: refuses}, discovery.ErrRefused, "SERVFAIL"},
		{"silent", dnstest.Behaviour{Drop: true}, dnstest.Behaviour{Edit: refuses}, discovery.ErrTimeout, ""},
		{"silent for the broken zone", dnstest.Behaviour{AD: true}, dnstest.Behaviour{Drop: true}, discovery.ErrTimeout, ""},
		{"no signed zone", dnstest.Behaviour{AD: true, Rcode: dns.RcodeNameError}, dnstest.Behaviour{Edit: refuses}, discovery.ErrNoData, "signed_zone"},
		{"no broken zone", dnstest.Behaviour{AD: true}, dnstest.Behaviour{Edit: func(m *dns.Msg) {
			refuses(m)
			m.Answer = nil
		}}, discovery.ErrNoData, "broken_zone"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := dnstest.Start(t, zones)
			s.Set(c.signed, "org")
			s.Set(c.broken, "dnssec-failed.org")
			conf := settings(s.Addr, false)
			conf.DNS.Timeout = 300 * time.Millisecond
			f := discovery.New(conf, discovery.Options{})
			for range 2 { // nothing comes from memory
				before := s.Count("", 0)
				err := f.CheckValidation(t.Context())
				if !errors.Is(err, c.want) || err != nil && !strings.Contains(err.Error(), c.text) {
					t.Errorf("got %v, want %v with %q", err, c.want, c.text)
				}
				if s.Count("", 0) == before {
					t.Error("it was not asked")
				}
			}
		})
	}
}
