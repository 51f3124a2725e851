package session_test

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"cmtpd/internal/address"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/config"
	"cmtpd/internal/federation"
	"cmtpd/internal/session"
	"cmtpd/internal/spool"
)

// wide is an Elsewhere that has met the domains of .known, which had mail, and of .met, and remembers nothing of any name.
type wide struct{ session.Elsewhere }

func (wide) Kept(d address.Domain) bool { return strings.HasSuffix(d.String(), ".known") }

func (w wide) met(d address.Domain) bool { return w.Kept(d) || strings.HasSuffix(d.String(), ".met") }

func (w wide) Lookup(_ context.Context, name address.Address, may federation.Permit) (*federation.Foreign, error) {
	if err := may(w.met(name.Domain)); err != nil {
		return nil, err
	}
	return &federation.Foreign{Payload: []byte("x")}, nil
}

func (w wide) Refresh(ctx context.Context, name address.Address, may federation.Permit) (*federation.Foreign, error) {
	return w.Lookup(ctx, name, may)
}

func (wide) CheckOrigin(context.Context, *cmtp.Header, []byte, [32]byte, *federation.Remote, netip.Addr) (federation.Standing, error) {
	return federation.Unverified, nil
}

func (wide) Added(spool.ID, string) {}

// travels starts a server whose accounts may have that done elsewhere; later lets time go by.
func travels(t *testing.T, l session.AbroadLimits) (s *server, a *session.Abroad, later func(time.Duration)) {
	now := time.Unix(1_800_000_000, 0)
	a = session.NewAbroad(l, func() time.Time { return now })
	s = serve(t, setup{edit: func(cfg *session.Config) { cfg.Elsewhere, cfg.Abroad = wide{}, a }})
	return s, a, func(d time.Duration) { now = now.Add(d) }
}

func (s *server) user(name string) *insider {
	c := s.inside()
	c.auth(name+"@cref.example", vectorKey(s.tb, name))
	return c
}

// tooOften expects a refusal that says how long it lasts.
func (c *insider) tooOften(command, wait string) {
	c.tb.Helper()
	if got := c.want(cmtp.StatusTooOften, command); !strings.HasSuffix(string(got), "Try again in "+wait+".") {
		c.tb.Errorf("refused with %q, want a wait of %s", got, wait)
	}
}

// An account has so many questions put to other servers, on whatever connection; what is refused costs nothing, and nobody
// else pays.
func TestServer_Abroad_Lookups(t *testing.T) {
	s, a, later := travels(t, session.AbroadLimits{Lookups: 6, LookupBurst: 3, NewDomains: 1, NewDomainBurst: 100})
	alice := s.user("alice")
	for i := range 3 {
		alice.want(cmtp.StatusDone, key(fmt.Sprint("user", i), "b.known"))
	}
	alice.tooOften(key("user3", "b.known"), "10s")
	s.user("alice").tooOften(key("user3", "c.example"), "10s")
	s.user("bob").want(cmtp.StatusDone, key("user3", "b.known"))
	later(9 * time.Second)
	alice.tooOften(key("user3", "b.known"), "1s")
	later(time.Second)
	alice.want(cmtp.StatusDone, key("user3", "b.known"))
	alice.tooOften(key("user3", "b.known"), "10s")
	alice.want(cmtp.StatusDone, key("bob", "cref.example")) // is asked of nobody
	s.tally.saw(t, nil, refusal{cmtp.StatusTooOften, session.LookupRate})
	a.SetLimits(session.AbroadLimits{Lookups: 6, LookupBurst: 4, NewDomains: 1, NewDomainBurst: 100})
	alice.want(cmtp.StatusDone, key("user3", "b.known"))
}

// An account has so many domains met that nobody here has met, by look-ups and letters together. One that was counted is free
// for a day, and one that is known always.
func TestServer_Abroad_Mail(t *testing.T) {
	s, _, later := travels(t, session.AbroadLimits{Lookups: 100, LookupBurst: 100, NewDomains: 2, NewDomainBurst: 3})
	letter := func(from, domain string) string {
		h := to("eve@" + domain)
		h.SourceAccount, h.SourceDomain = from, "cref.example"
		return "MAIL\x00" + message(t, h, sealed(from+domain, 100))
	}
	alice := s.user("alice")
	alice.want(cmtp.StatusDone, key("eve", "one.example"))
	alice.want(cmtp.StatusQueued, letter("alice", "one.example"))
	alice.want(cmtp.StatusQueued, letter("alice", "two.example"))
	alice.want(cmtp.StatusDone, key("eve", "three.example"))
	for range 3 {
		alice.tooOften(letter("alice", "four.example"), "30m0s")
		alice.tooOften(key("eve", "five.example"), "30m0s")
	}
	alice.want(cmtp.StatusDone, key("eve", "two.example"))
	alice.want(cmtp.StatusQueued, letter("alice", "six.known"))
	s.user("bob").want(cmtp.StatusQueued, letter("bob", "four.example"))
	s.tally.saw(t, nil, refusal{cmtp.StatusTooOften, session.NewDomainsRate})
	later(30 * time.Minute)
	alice.want(cmtp.StatusQueued, letter("alice", "four.example"))
	alice.tooOften(letter("alice", "five.example"), "30m0s")
	later(23*time.Hour + 30*time.Minute - 1)
	for _, d := range []string{"one", "a", "b", "c"} { // one is free to its last moment
		alice.want(cmtp.StatusDone, key("eve", d+".example"))
	}
	later(1)
	alice.tooOften(key("eve", "one.example"), "30m0s")
}

// Who may have no further domain met has lost no question by trying: others' keys are still to be had.
func TestServer_Abroad_RefusedTwice(t *testing.T) {
	s, _, _ := travels(t, session.AbroadLimits{Lookups: 1, LookupBurst: 2, NewDomains: 1, NewDomainBurst: 1})
	alice := s.user("alice")
	alice.want(cmtp.StatusDone, key("eve", "one.example"))
	for range 3 {
		alice.tooOften(key("eve", "two.example"), "1h0m0s")
	}
	alice.want(cmtp.StatusDone, key("eve", "b.known"))
	alice.tooOften(key("eve", "c.known"), "1m0s")
}

// The defaults are those of the configuration.
func TestDefaults(t *testing.T) {
	l := config.Default().Limits
	abroad := session.AbroadLimits{Lookups: l.LookupRate, LookupBurst: l.LookupBurst, NewDomains: l.NewDomainsRate, NewDomainBurst: l.NewDomainsBurst}
	sending := session.SendingLimits{Messages: l.MailRate, Burst: l.MailBurst, Day: int64(l.MailPerDay)}
	if session.DefaultAbroad != abroad || session.DefaultSending != sending {
		t.Errorf("%+v and %+v, want %+v and %+v", session.DefaultAbroad, session.DefaultSending, abroad, sending)
	}
}

// A domain that is known without having had mail, since it has come by itself, costs an account nothing to ask for, but a
// letter keeps it for good: whoever has domains could else fill what is remembered.
func TestServer_Abroad_Kept(t *testing.T) {
	s, _, _ := travels(t, session.AbroadLimits{Lookups: 100, LookupBurst: 100, NewDomains: 2, NewDomainBurst: 2})
	letter := func(domain string) string {
		h := to("eve@" + domain)
		h.SourceAccount, h.SourceDomain = "alice", "cref.example"
		return "MAIL\x00" + message(t, h, sealed(domain, 100))
	}
	alice := s.user("alice")
	for i := range 4 {
		alice.want(cmtp.StatusDone, key("eve", fmt.Sprintf("d%d.met", i)))
	}
	alice.want(cmtp.StatusQueued, letter("d0.met"))
	alice.want(cmtp.StatusQueued, letter("d1.met"))
	alice.tooOften(letter("d2.met"), "30m0s")
	alice.want(cmtp.StatusQueued, letter("b.known"))
	s.tally.saw(t, nil, refusal{cmtp.StatusTooOften, session.NewDomainsRate})
}

// What is remembered of who was charged is bounded, whoever has how many domains.
func TestAbroad_Bounded(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	a := session.NewAbroad(session.AbroadLimits{Lookups: 1, LookupBurst: 1, NewDomains: 1, NewDomainBurst: 1 << 20}, func() time.Time { return now })
	for i := range session.MaxCharged + 100 {
		if err := a.Meet([16]byte{1}, fmt.Sprintf("d%d.example", i)); err != nil {
			t.Fatal(err)
		}
		if n := a.Charged(); n != min(i+1, session.MaxCharged) {
			t.Fatalf("after %d domains %d are remembered", i+1, n)
		}
	}
}
