package federation_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"cmtpd/internal/address"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/crypt"
	"cmtpd/internal/discovery"
	"cmtpd/internal/discovery/dnstest"
	"cmtpd/internal/durable"
	"cmtpd/internal/federation"
	"cmtpd/internal/session"
	"cmtpd/internal/trust"

	"github.com/miekg/dns"
)

// a site that knows b.example by its key, and how to forge.
func acquainted(t *testing.T) (w *world, a, b *site) {
	w = newWorld(t)
	a = w.site("a.example", "127.0.0.2", options{}, "alice")
	b = w.site("b.example", "127.0.0.3", options{}, "bob")
	if _, err := meet(t, a, "b.example"); err != nil {
		t.Fatal(err)
	}
	return w, a, b
}

var (
	digest  = [32]byte{1, 2, 3}
	visitor = netip.MustParseAddr("192.0.2.7")
)

// origin is a log with one entry.
func origin(key *crypt.PrivateKey, source string, d [32]byte) string {
	o := crypt.NewOrigin(d, name(source), 1, key)
	return o.String() + "\x00"
}

func TestPeers_CheckOrigin(t *testing.T) {
	w, a, b := acquainted(t)
	bobs := cmtp.Header{SourceAccount: "bob", SourceDomain: "b.example"}
	true1 := origin(b.key, "bob@b.example", digest)
	stranger := cmtp.Header{SourceAccount: "eve", SourceDomain: "x.example"}
	eve := newKey(t)
	for what, tt := range map[string]struct {
		header cmtp.Header
		log    string
		from   *federation.Remote
		want   federation.Standing
		err    error
	}{
		"Proven":           {bobs, true1, nil, federation.Proven, nil},
		"ProvenInOther":    {cmtp.Header{SourceAccount: "BOB", SourceDomain: "B.Example."}, true1, nil, federation.Proven, nil},
		"AmongOthers":      {bobs, "received x\x00" + true1 + "sender y\x00", nil, federation.Proven, nil},
		"NoEntry":          {bobs, "\x00", nil, federation.Unverified, nil},
		"NoLog":            {bobs, "", nil, federation.Unverified, nil},
		"AnotherAccount":   {cmtp.Header{SourceAccount: "bert", SourceDomain: "b.example"}, true1, nil, federation.Unverified, federation.ErrForged},
		"AnotherMessage":   {bobs, origin(b.key, "bob@b.example", [32]byte{9}), nil, federation.Unverified, federation.ErrForged},
		"AnotherKey":       {bobs, origin(eve, "bob@b.example", digest), nil, federation.Unverified, federation.ErrForged},
		"AnotherKeyProven": {bobs, origin(eve, "bob@b.example", digest), &federation.Remote{Domain: b.domain, Key: eve.Public()}, federation.Unverified, federation.ErrDistrusted},
		"AnotherProven":    {bobs, origin(eve, "bob@b.example", digest), &federation.Remote{Domain: domain("x.example"), Key: eve.Public()}, federation.Unverified, federation.ErrForged},
		"AnotherDomain":    {stranger, true1, nil, federation.Unverified, federation.ErrOrigin},
		"Two":              {bobs, true1 + true1, nil, federation.Unverified, federation.ErrOrigin},
		"Malformed":        {bobs, "origin d=b.example\x00", nil, federation.Unverified, federation.ErrOrigin},
		"MalformedToo":     {bobs, true1 + "origin\x00", nil, federation.Unverified, federation.ErrOrigin},
		"Stranger":         {stranger, origin(eve, "eve@x.example", digest), nil, federation.Unverified, nil},
		"StrangerProven":   {stranger, origin(eve, "eve@x.example", digest), &federation.Remote{Domain: domain("x.example"), Key: eve.Public()}, federation.Unverified, nil},
	} {
		t.Run(what, func(t *testing.T) {
			w.clock.add(time.Minute) // so that b is met for this one
			got, err := a.peers.CheckOrigin(t.Context(), &tt.header, []byte(tt.log), digest, tt.from, visitor)
			if got != tt.want || !errors.Is(err, tt.err) || (err == nil) != (tt.err == nil) {
				t.Errorf("%v, %v; want %v, %v", got, err, tt.want, tt.err)
			}
		})
	}
}

// A new key that the domain publishes is judged before a message is called forged.
func TestPeers_CheckOrigin_Published(t *testing.T) {
	w, a, _ := acquainted(t)
	next := newKey(t)
	bobs := cmtp.Header{SourceAccount: "bob", SourceDomain: "b.example"}
	log := []byte(origin(next, "bob@b.example", digest))
	check := func(a *site, want federation.Standing, wantErr error) {
		t.Helper()
		got, err := a.peers.CheckOrigin(t.Context(), &bobs, log, digest, nil, visitor)
		if got != want || !errors.Is(err, wantErr) || (err == nil) != (wantErr == nil) {
			t.Errorf("%v, %v; want %v, %v", got, err, want, wantErr)
		}
	}
	w.dns.Set(dnstest.Behaviour{Rcode: dns.RcodeServerFailure}, "_cmtp.b.example")
	a = w.again(a, false)
	check(a, federation.Unverified, federation.ErrDistrusted)
	w.dns.Set(dnstest.Behaviour{AD: true}, "_cmtp.b.example")
	record := &discovery.Record{Keys: []crypt.PublicKey{next.Public()}, Mode: discovery.None, MaxAge: discovery.DefaultMaxAge}
	w.publish("_cmtp.b.example. 600 TXT %q", record.String())
	a = w.again(a, false) // plain DNS replaces no key at once
	check(a, federation.Unverified, federation.ErrDistrusted)
	a = w.again(a, true) // DNSSEC does
	check(a, federation.Proven, nil)
}

// again returns a site with nothing but its memory of DNS gone.
func (w *world) again(s *site, trusted bool) *site {
	fresh := *s
	fresh.peers = federation.New(federation.Config{Domains: []address.Domain{s.domain}, Key: s.key, Finder: w.finder(trusted), Trust: s.trust, Now: w.clock.now})
	return &fresh
}

// rotate gives the server of a site another key, with its former one's word for it.
func (w *world) rotate(s *site, ip string) *site {
	w.t.Helper()
	next := w.serve(s.domain.String(), options{edit: func(cfg *session.Config) { cfg.Former = []*crypt.PrivateKey{s.key} }})
	w.lead(ip, next.addr)
	return next
}

// A server that has changed its key in order, or a message of its, is believed without being met before, and
// without a word of DNS. For a claim nobody is met more than once a minute.
func TestPeers_JudgePeer_Rotated(t *testing.T) {
	bobs := cmtp.Header{SourceAccount: "bob", SourceDomain: "b.example"}
	for name, judge := range map[string]func(a, b *site) (federation.Standing, error){
		"proof": func(a, b *site) (federation.Standing, error) {
			return a.peers.JudgePeer(t.Context(), federation.Remote{Domain: b.domain, Key: b.key.Public()}, visitor)
		},
		"entry": func(a, b *site) (federation.Standing, error) {
			return a.peers.CheckOrigin(t.Context(), &bobs, []byte(origin(b.key, "bob@b.example", digest)), digest, nil, visitor)
		},
	} {
		t.Run(name, func(t *testing.T) {
			w, a, b := acquainted(t)
			strange := *b
			strange.key = newKey(t)
			if _, err := judge(a, &strange); err == nil {
				t.Error("a stranger is believed")
			}
			next, dials := w.rotate(b, "127.0.0.3"), w.dialed("127.0.0.3")
			if _, err := judge(a, next); err == nil {
				t.Error("the server was met twice in a minute")
			}
			w.clock.add(time.Minute)
			for range 3 {
				if got, err := judge(a, next); got != federation.Proven || err != nil {
					t.Errorf("the new key: %v, %v", got, err)
				}
			}
			if _, err := judge(a, b); err == nil {
				t.Error("the old key is believed")
			}
			if n := w.dialed("127.0.0.3") - dials; n != 1 {
				t.Errorf("%d connections", n)
			}
			w.clock.add(time.Minute)
			w.lead("127.0.0.3", "127.0.0.1:1")
			if _, err := judge(a, &strange); !errors.Is(err, federation.ErrDistrusted) {
				t.Errorf("where the server cannot be met: %v", err)
			}
		})
	}
}

// A message by a key that is new since the domain was met is not called forged for good, whoever has had the domain met
// just before; and one that nobody of the domain has signed is.
func TestPeers_CheckOrigin_JustChanged(t *testing.T) {
	w, a, b := acquainted(t)
	bobs := cmtp.Header{SourceAccount: "bob", SourceDomain: "b.example"}
	check := func(s *site) error {
		_, err := a.peers.CheckOrigin(t.Context(), &bobs, []byte(origin(s.key, "bob@b.example", digest)), digest, nil, visitor)
		return err
	}
	if _, err := a.peers.JudgePeer(t.Context(), federation.Remote{Domain: b.domain, Key: newKey(t).Public()}, visitor); err == nil {
		t.Fatal("a stranger is believed")
	}
	next := w.rotate(b, "127.0.0.3")
	if err := check(next); !errors.Is(err, federation.ErrDistrusted) || errors.Is(err, federation.ErrForged) {
		t.Errorf("within a minute: %v", err)
	}
	w.clock.add(time.Minute)
	if err := check(next); err != nil {
		t.Errorf("after it: %v", err)
	}
	w.clock.add(time.Minute)
	if err := check(b); !errors.Is(err, federation.ErrForged) {
		t.Errorf("by the former key: %v", err)
	}
	if err := check(b); !errors.Is(err, federation.ErrDistrusted) {
		t.Errorf("by the former key again: %v", err)
	}
}

// Who has known domains of their own, at addresses of somebody else's, has few of them met, and few addresses of each,
// whether by claims or by entries.
func TestPeers_JudgePeer_Visits(t *testing.T) {
	w, a, _ := acquainted(t)
	key := newKey(t)
	addrs := ""
	for i := range 8 {
		addrs += fmt.Sprintf("victim.example. 600 A 127.0.0.%d\n", 100+i)
	}
	w.publish("%s", addrs)
	dials := func() (n int) {
		for i := range 8 {
			n += w.dialed(fmt.Sprintf("127.0.0.%d", 100+i))
		}
		return n
	}
	claim := func(i int, from netip.Addr) error {
		d := domain(fmt.Sprintf("e%d.example", i))
		if known, err := a.trust.Known(d); known == nil || err != nil {
			w.publish("%s. 600 MX 10 victim.example.", d)
			if _, err := a.trust.Judge(t.Context(), d, trust.Sighting{Shown: key.Public(), CMTP1: true, Record: trust.Record{Answer: trust.Absent}}); err != nil {
				t.Fatal(err)
			}
		}
		if i%2 == 0 {
			_, err := a.peers.JudgePeer(t.Context(), federation.Remote{Domain: d, Key: newKey(t).Public()}, from)
			return err
		}
		h := cmtp.Header{SourceAccount: "x", SourceDomain: d.String()}
		_, err := a.peers.CheckOrigin(t.Context(), &h, []byte(origin(newKey(t), "x@"+d.String(), digest)), digest, nil, from)
		return err
	}
	const most, each = 20, 4
	for i := range most + 5 {
		if err := claim(i, visitor); !errors.Is(err, federation.ErrDistrusted) {
			t.Errorf("claim %d: %v", i, err)
		}
		if n := dials(); n != each*min(i+1, most) {
			t.Fatalf("after claim %d: %d connections", i, n)
		}
	}
	claim(most, netip.MustParseAddr("192.0.2.8"))
	if n := dials(); n != each*(most+1) {
		t.Errorf("another client: %d connections", n)
	}
	w.clock.add(time.Minute / most)
	claim(most+1, visitor)
	claim(most+2, visitor)
	if n := dials(); n != each*(most+2) {
		t.Errorf("a moment later: %d connections", n)
	}
}

// A countingFinder counts what it is asked.
type countingFinder struct {
	federation.Finder
	asked atomic.Int32
}

func (c *countingFinder) Find(ctx context.Context, d address.Domain) (*discovery.Result, error) {
	c.asked.Add(1)
	return c.Finder.Find(ctx, d)
}

func (c *countingFinder) Published(ctx context.Context, d address.Domain) (discovery.Published, error) {
	c.asked.Add(1)
	return c.Finder.Published(ctx, d)
}

// What strangers and users have asked takes no places from what is to be delivered.
func TestPeers_Aside(t *testing.T) {
	w, a, b := acquainted(t)
	finder, aside := &countingFinder{Finder: w.finder(false)}, &countingFinder{Finder: w.finder(false)}
	a.peers = federation.New(federation.Config{
		Domains: []address.Domain{a.domain}, Key: a.key, Finder: finder, Aside: aside, Trust: a.trust, Now: w.clock.now,
		Dialer: &discovery.Dialer{DialContext: w.dial},
	})
	stranger := federation.Remote{Domain: b.domain, Key: newKey(t).Public()}
	if _, err := a.peers.JudgePeer(t.Context(), stranger, visitor); !errors.Is(err, federation.ErrDistrusted) {
		t.Errorf("a stranger: %v", err)
	}
	if _, err := federation.NewKeys(federation.KeysConfig{Peers: a.peers}).Lookup(t.Context(), name("bob@b.example"), nil); err != nil {
		t.Errorf("a key: %v", err)
	}
	if n, m := finder.asked.Load(), aside.asked.Load(); n != 0 || m != 4 { // the record twice, and two meetings
		t.Errorf("%d questions among those of deliveries, %d aside", n, m)
	}
	if _, err := meet(t, a, "b.example"); err != nil {
		t.Error(err)
	}
	if n, m := finder.asked.Load(), aside.asked.Load(); n != 1 || m != 4 {
		t.Errorf("to deliver: %d questions, %d aside", n, m)
	}
}

// Who claims one domain after the other, and publishes a key for each, is believed, and takes no more than half of the room.
func TestPeers_JudgePeer_Many(t *testing.T) {
	w, a, _ := acquainted(t)
	var err error
	if a.trust, err = trust.Open(t.TempDir(), trust.Options{FS: durable.OS, Now: w.clock.now, MaxDomains: 8}); err != nil {
		t.Fatal(err)
	}
	a = w.again(a, true)
	key := newKey(t).Public()
	record := &discovery.Record{Keys: []crypt.PublicKey{key}, Mode: discovery.None, MaxAge: discovery.DefaultMaxAge}
	w.dns.Set(dnstest.Behaviour{AD: true}, "")
	for i := range 12 {
		d := fmt.Sprintf("e%d.example", i)
		w.publish("_cmtp.%s. 600 TXT %q", d, record.String())
		if got, err := a.peers.JudgePeer(t.Context(), federation.Remote{Domain: domain(d), Key: key}, visitor); got != federation.Proven || err != nil {
			t.Errorf("%s: %v, %v", d, got, err)
		}
	}
	if n := a.trust.Stats().Domains; n != 4 {
		t.Errorf("%d domains are remembered", n)
	}
	if d := domain("e0.example"); !a.peers.Met(d) || a.peers.Kept(d) {
		t.Error("who has come by themselves is met, and not kept")
	}
}

// A claim teaches nothing.
func TestPeers_JudgePeer(t *testing.T) {
	w, a, b := acquainted(t)
	eve, own := newKey(t).Public(), a.key.Public()
	published := newKey(t).Public()
	record := &discovery.Record{Keys: []crypt.PublicKey{published}, Mode: discovery.None, MaxAge: discovery.DefaultMaxAge}
	w.publish("_cmtp.x.example. 600 TXT %q\n_cmtp.w.example. 600 TXT %q", record.String(), record.String())
	for what, tt := range map[string]struct {
		domain string
		key    crypt.PublicKey
		want   federation.Standing
		err    error
	}{
		"Known":      {"b.example", b.key.Public(), federation.Proven, nil},
		"AnotherKey": {"b.example", eve, federation.Unverified, federation.ErrDistrusted},
		"Unknown":    {"y.example", eve, federation.Unverified, nil},
		"NotNamed":   {"w.example", eve, federation.Unverified, nil},
		"Published":  {"x.example", published, federation.Proven, nil},
		"Own":        {"a.example", own, federation.Unverified, federation.ErrDistrusted},
		"OwnKey":     {"z.example", own, federation.Unverified, federation.ErrDistrusted},
	} {
		t.Run(what, func(t *testing.T) {
			d := domain(tt.domain)
			before, err := a.trust.Known(d)
			if err != nil {
				t.Fatal(err)
			}
			got, err := a.peers.JudgePeer(t.Context(), federation.Remote{Domain: d, Key: tt.key}, visitor)
			if got != tt.want || !errors.Is(err, tt.err) || (err == nil) != (tt.err == nil) {
				t.Errorf("%v, %v; want %v, %v", got, err, tt.want, tt.err)
			}
			after, err := a.trust.Known(d)
			if err != nil {
				t.Fatal(err)
			}
			if what == "AnotherKey" { // the domain's own server was met for it
				if len(after.Keys) != 1 || after.Keys[0].Key != before.Keys[0].Key || len(after.Pending) != 0 {
					t.Errorf("it is remembered: %+v", after)
				}
			} else if what != "Published" && after != before {
				t.Errorf("it is remembered: %+v", after)
			}
		})
	}
}
