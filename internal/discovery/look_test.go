package discovery_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"cmtpd/internal/discovery"
	"cmtpd/internal/discovery/dnstest"

	"github.com/miekg/dns"
)

// What was remembered hides nothing from Look, and Look changes nothing that is remembered.
func TestFinder_Look(t *testing.T) {
	s, f := site(t, "", false)
	d := domain(t, "example.org")
	if p, err := f.Published(t.Context(), d); err != nil || p.Record != nil {
		t.Fatalf("before: %+v, %v", p, err)
	}
	if p, ttl, err := f.Look(t.Context(), d); err != nil || p.Record != nil || ttl != 5*time.Minute {
		t.Errorf("absence: %+v for %v, %v", p, ttl, err)
	}
	s.SetZone(t, soa+"_cmtp.example.org. 120 TXT \"v=CMTP1; port=2525\"\n")
	if p, ttl, err := f.Look(t.Context(), d); err != nil || p.Record == nil || p.Record.Port != 2525 || ttl != 2*time.Minute {
		t.Errorf("the record: %+v for %v, %v", p, ttl, err)
	}
	if p, err := f.Published(t.Context(), d); err != nil || p.Record != nil {
		t.Errorf("what was remembered has changed: %+v, %v", p, err)
	}
	s.SetZone(t, soa+"_cmtp.example.org. 864000 TXT \"v=CMTP1; port=x\"\n")
	if p, ttl, err := f.Look(t.Context(), d); err != nil || !errors.Is(p.Ignored, discovery.ErrRecord) || ttl != 24*time.Hour {
		t.Errorf("a record that does not count: %+v for %v, %v", p, ttl, err)
	}
	s.Set(dnstest.Behaviour{Rcode: dns.RcodeServerFailure}, "_cmtp.example.org")
	if _, _, err := f.Look(t.Context(), d); !errors.Is(err, discovery.ErrRefused) {
		t.Errorf("SERVFAIL: %v", err)
	}
	s.Set(dnstest.Behaviour{Drop: true}, "_cmtp.example.org")
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, _, err := f.Look(ctx, d); !errors.Is(err, discovery.ErrTimeout) {
		t.Errorf("silence: %v", err)
	}
}
