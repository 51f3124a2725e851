package discovery_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"cmtpd/internal/address"
	"cmtpd/internal/config"
	"cmtpd/internal/discovery"
	"cmtpd/internal/discovery/dnstest"

	"github.com/miekg/dns"
)

const soa = "example.org. 600 SOA ns.example.org. root.example.org. 1 7200 3600 604800 300\n"

// A clock stands still until it is moved.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

// settings are the defaults with a resolver at addr, which is trusted or not.
func settings(addr string, trusted bool) *config.Config {
	c := config.Default()
	c.DNS.Resolver, c.DNS.Trusted = addr, trusted
	return c
}

func asTheyCome(int, func(i, j int)) {}

// site starts a name server and a Finder that asks it.
func site(t *testing.T, zone string, trusted bool) (*dnstest.Server, *discovery.Finder) {
	t.Helper()
	s := dnstest.Start(t, soa+zone)
	return s, discovery.New(settings(s.Addr, trusted), discovery.Options{Shuffle: asTheyCome})
}

func domain(tb testing.TB, s string) address.Domain {
	tb.Helper()
	d, err := address.ParseDomain(s)
	if err != nil {
		tb.Fatal(err)
	}
	return d
}

// show returns servers as "preference host address".
func show(r *discovery.Result) string {
	if r == nil {
		return "nothing"
	}
	var lines []string
	for _, s := range r.Servers {
		lines = append(lines, fmt.Sprintf("%d %s %s", s.Preference, s.Host, s.Addr))
	}
	return strings.Join(lines, "\n")
}

func TestFinder_Find(t *testing.T) {
	const pair = "mx1.example.org. A 192.0.2.1\nmx2.example.org. A 192.0.2.2\n"
	for _, c := range []struct{ name, zone, want string }{
		{"by preference", pair + "example.org. MX 20 mx2.example.org.\nexample.org. MX 10 mx1.example.org.",
			"10 mx1.example.org 192.0.2.1:25\n20 mx2.example.org 192.0.2.2:25"},
		{"capitals", "MX1.example.org. A 192.0.2.1\nEXAMPLE.org. MX 10 mX1.exaMPLE.org.", "10 mx1.example.org 192.0.2.1:25"},
		{"no MX", "example.org. A 192.0.2.1\nexample.org. AAAA 2001:db8::1",
			"0 example.org [2001:db8::1]:25\n0 example.org 192.0.2.1:25"},
		{"families in turns", "example.org. MX 0 m.example.org.\n" +
			"m.example.org. A 192.0.2.1\nm.example.org. A 192.0.2.2\nm.example.org. A 192.0.2.3\nm.example.org. AAAA 2001:db8::1",
			"0 m.example.org [2001:db8::1]:25\n0 m.example.org 192.0.2.1:25\n0 m.example.org 192.0.2.2:25\n0 m.example.org 192.0.2.3:25"},
		{"the domain is a CNAME with MX", pair + "example.org. CNAME other.example.org.\nother.example.org. MX 5 mx1.example.org.",
			"5 mx1.example.org 192.0.2.1:25"},
		{"the domain is a CNAME without MX", "example.org. CNAME other.example.org.\nother.example.org. A 192.0.2.7",
			"0 example.org 192.0.2.7:25"},
		{"a host is a CNAME", "example.org. MX 5 m.example.org.\nm.example.org. CNAME h.example.org.\nh.example.org. A 192.0.2.7",
			"5 m.example.org 192.0.2.7:25"},
		{"a host is missing", pair + "example.org. MX 1 gone.example.org.\nexample.org. MX 2 mx2.example.org.",
			"2 mx2.example.org 192.0.2.2:25"},
		{"a host has no address", pair + "txt.example.org. TXT x\nexample.org. MX 1 txt.example.org.\nexample.org. MX 2 mx2.example.org.",
			"2 mx2.example.org 192.0.2.2:25"},
		{"the root among others", pair + "example.org. MX 0 .\nexample.org. MX 2 mx2.example.org.", "2 mx2.example.org 192.0.2.2:25"},
		{"a host twice", pair + "example.org. MX 9 mx2.example.org.\nexample.org. MX 2 mx2.example.org.", "2 mx2.example.org 192.0.2.2:25"},
		{"an address twice", pair + "alias.example.org. CNAME mx1.example.org.\nexample.org. MX 9 alias.example.org.\nexample.org. MX 2 mx1.example.org.",
			"2 mx1.example.org 192.0.2.1:25"},
		{"addresses of no server", "example.org. A 0.0.0.0\nexample.org. A 0.1.2.3\nexample.org. A 127.0.0.1\nexample.org. A 127.9.9.9\nexample.org. A 169.254.169.254\n" +
			"example.org. A 224.0.0.1\nexample.org. A 255.255.255.255\nexample.org. A 240.0.0.1\nexample.org. AAAA ::\nexample.org. AAAA ::1\n" +
			"example.org. AAAA fe80::1\nexample.org. AAAA ff02::1\nexample.org. AAAA ::ffff:127.0.0.1\nexample.org. AAAA ::ffff:192.0.2.9",
			"0 example.org 192.0.2.9:25"},
		{"a port", "example.org. A 192.0.2.1\n_cmtp.example.org. TXT \"v=CMTP1; port=2525\"", "0 example.org 192.0.2.1:2525"},
		{"a port that does not count", "example.org. A 192.0.2.1\n_cmtp.example.org. TXT \"v=CMTP1; port=2525; port=26\"", "0 example.org 192.0.2.1:25"},
		{"a wildcard's address for the record", "example.org. A 192.0.2.1\n_cmtp.example.org. A 192.0.2.1", "0 example.org 192.0.2.1:25"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, f := site(t, c.zone, false)
			got, err := f.Find(t.Context(), domain(t, "example.org"))
			if err != nil || show(got) != c.want {
				t.Errorf("got\n%s\n%v, want\n%s", show(got), err, c.want)
			}
			if err == nil && got.Authenticated() {
				t.Error("it is authenticated")
			}
		})
	}
}

// Each way to have no server is its own error, and says whether to try again.
func TestFinder_FindErrors(t *testing.T) {
	servfail, drop := dnstest.Behaviour{Rcode: dns.RcodeServerFailure}, dnstest.Behaviour{Drop: true}
	const good = "example.org. A 192.0.2.1\n"
	const mx = "example.org. MX 1 m.example.org.\n"
	for _, c := range []struct {
		name, zone string
		at         string
		qtype      uint16
		behaviour  dnstest.Behaviour
		want       error
		temporary  bool
	}{
		{"NXDOMAIN", "", "", 0, dnstest.Behaviour{Rcode: dns.RcodeNameError}, discovery.ErrNoName, false},
		{"null MX", good + "example.org. MX 0 .", "", 0, dnstest.Behaviour{}, discovery.ErrNoMail, false},
		{"null MX, not 0", good + "example.org. MX 10 .", "", 0, dnstest.Behaviour{}, discovery.ErrNoMail, false},
		{"null MX and _cmtp unknown", good + "example.org. MX 0 .", "_cmtp.example.org", 0, servfail, discovery.ErrNoMail, false},
		{"nothing but a name", "x.example.org. A 192.0.2.1", "", 0, dnstest.Behaviour{}, discovery.ErrNoServer, false},
		{"a CNAME to nowhere", "example.org. CNAME gone.example.org.", "", 0, dnstest.Behaviour{}, discovery.ErrNoName, false},
		{"hosts are missing", mx + good, "", 0, dnstest.Behaviour{}, discovery.ErrNoServer, false},
		{"hosts are on loopback", mx + "m.example.org. A 127.0.0.1", "", 0, dnstest.Behaviour{}, discovery.ErrUnusable, false},
		{"MX: SERVFAIL", good, "example.org", dns.TypeMX, servfail, discovery.ErrRefused, true},
		{"MX: timeout", good, "example.org", dns.TypeMX, drop, discovery.ErrTimeout, true},
		{"MX: REFUSED", good, "example.org", dns.TypeMX, dnstest.Behaviour{Rcode: dns.RcodeRefused}, discovery.ErrRefused, true},
		{"_cmtp: SERVFAIL", good, "_cmtp.example.org", 0, servfail, discovery.ErrRefused, true},
		{"_cmtp: timeout", good, "_cmtp.example.org", 0, drop, discovery.ErrTimeout, true},
		{"hosts: SERVFAIL", mx, "m.example.org", 0, servfail, discovery.ErrRefused, true},
		{"hosts: A fails, no AAAA", mx + "m.example.org. TXT x", "m.example.org", dns.TypeA, servfail, discovery.ErrRefused, true},
		{"hosts: AAAA times out, no A", mx + "m.example.org. TXT x", "m.example.org", dns.TypeAAAA, drop, discovery.ErrTimeout, true},
		{"one host missing, one unknown", mx + "example.org. MX 2 n.example.org.", "n.example.org", 0, servfail, discovery.ErrRefused, true},
		{"no resolver", good, "", 0, dnstest.Behaviour{Edit: func(m *dns.Msg) { m.RecursionAvailable, m.Answer = false, nil }}, discovery.ErrRefused, true},
		{"a circle", "example.org. CNAME a.example.org.\na.example.org. CNAME example.org.", "", 0, dnstest.Behaviour{}, discovery.ErrRefused, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := dnstest.Start(t, soa+c.zone)
			if c.name == "nothing but a name" || strings.HasPrefix(c.name, "a C") || strings.HasPrefix(c.name, "a c") {
				s.SetZone(t, strings.Replace(soa, "example.org.", "org.", 1)+c.zone)
			}
			s.Set(c.behaviour, c.at, types(c.qtype)...)
			conf := settings(s.Addr, false)
			conf.DNS.Timeout = 300 * time.Millisecond
			got, err := discovery.New(conf, discovery.Options{}).Find(t.Context(), domain(t, "example.org"))
			if got != nil || !errors.Is(err, c.want) {
				t.Fatalf("got %s, %v; want %v", show(got), err, c.want)
			}
			for _, other := range []error{discovery.ErrNoName, discovery.ErrRefused, discovery.ErrTimeout, discovery.ErrNoMail} {
				if other != c.want && !errors.Is(c.want, discovery.ErrNoServer) && errors.Is(err, other) {
					t.Errorf("%v is also %v", err, other)
				}
			}
			var typed *discovery.Error
			if !errors.As(err, &typed) || typed.Temporary() != c.temporary || !strings.Contains(err.Error(), "example.org") {
				t.Errorf("%v: temporary must be %v", err, c.temporary)
			}
		})
	}
}

func types(qtype uint16) []uint16 {
	if qtype == 0 {
		return nil
	}
	return []uint16{qtype}
}

// A host that fails for now is passed over while another one is there, and said.
func TestFinder_Find_PassedOver(t *testing.T) {
	s, f := site(t, "example.org. MX 1 a.example.org.\nexample.org. MX 2 b.example.org.\nb.example.org. A 192.0.2.2\nb.example.org. AAAA 2001:db8::2", true)
	s.Set(dnstest.Behaviour{Rcode: dns.RcodeServerFailure}, "a.example.org")
	s.Set(dnstest.Behaviour{Rcode: dns.RcodeServerFailure}, "b.example.org", dns.TypeAAAA)
	got, err := f.Find(t.Context(), domain(t, "example.org"))
	if err != nil || show(got) != "2 b.example.org 192.0.2.2:25" || got.Servers[0].Authenticated {
		t.Fatalf("got %s, %v", show(got), err)
	}
	if len(got.PassedOver) != 1 || !errors.Is(got.PassedOver[0], discovery.ErrRefused) || !strings.Contains(got.PassedOver[0].Error(), "a.example.org") {
		t.Errorf("passed over: %v", got.PassedOver)
	}
}

// Equal hosts come in random order, and never before better ones.
func TestFinder_Find_Order(t *testing.T) {
	zone := "example.org. MX 5 best.example.org.\nbest.example.org. A 192.0.2.100\nexample.org. MX 15 last.example.org.\nlast.example.org. A 192.0.2.101\n"
	for i := range 4 {
		zone += fmt.Sprintf("example.org. MX 10 m%d.example.org.\nm%d.example.org. A 192.0.2.%d\n", i, i, i+1)
	}
	s := dnstest.Start(t, soa+zone)
	f := discovery.New(settings(s.Addr, false), discovery.Options{})
	orders := make(map[string]bool)
	for range 200 {
		got, err := f.Find(t.Context(), domain(t, "example.org"))
		if err != nil || len(got.Servers) != 6 || got.Servers[0].Host != "best.example.org" || got.Servers[5].Host != "last.example.org" {
			t.Fatalf("got %s, %v", show(got), err)
		}
		orders[show(got)] = true
	}
	if len(orders) < 20 { // of 24, each of which is missed once in 5,000 runs
		t.Errorf("%d of 24 orders were seen", len(orders))
	}
	if n := s.Count("example.org", dns.TypeMX); n != 1 {
		t.Errorf("asked %d times", n)
	}
}

// A domain's hosts and addresses are capped, and a greedy host leaves room for the
// next.
func TestFinder_Find_Caps(t *testing.T) {
	manyHosts := func(n int) (zone string) {
		for i := range n {
			zone += fmt.Sprintf("example.org. MX %d m%d.example.org.\nm%d.example.org. A 192.0.2.%d\n", 100-i, i, i, i+1)
		}
		return zone
	}
	manyAddrs := func(host string, n int) (zone string) {
		for i := range n {
			zone += fmt.Sprintf("%s. A 192.0.%d.%d\n%s. AAAA 2001:db8::%x:%x\n", host, len(host), i+1, host, len(host), i+1)
		}
		return zone
	}
	count := func(zone string) (hosts, addrs int, first string) {
		_, f := site(t, zone, false)
		got, err := f.Find(t.Context(), domain(t, "example.org"))
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, s := range got.Servers {
			if !slices.Contains(names, s.Host) {
				names = append(names, s.Host)
			}
		}
		return len(names), len(got.Servers), names[0]
	}
	if h, a, first := count(manyHosts(10)); h != 10 || a != 10 || first != "m9.example.org" {
		t.Errorf("10 hosts: %d, %d, %s", h, a, first)
	}
	if h, a, first := count(manyHosts(11)); h != 10 || a != 10 || first != "m10.example.org" {
		t.Errorf("11 hosts: %d, %d, %s", h, a, first)
	}
	if _, a, _ := count(manyAddrs("example.org", 4)); a != 8 {
		t.Errorf("a host with 8 addresses: %d", a)
	}
	if _, a, _ := count(manyAddrs("example.org", 5)); a != 8 {
		t.Errorf("a host with 10 addresses: %d", a)
	}
	three := "example.org. MX 1 a.example.org.\nexample.org. MX 2 bb.example.org.\nexample.org. MX 3 ccc.example.org.\n"
	if h, a, _ := count(three + manyAddrs("a.example.org", 4) + manyAddrs("bb.example.org", 4) + manyAddrs("ccc.example.org", 2)); h != 3 || a != 20 {
		t.Errorf("20 addresses: %d hosts, %d", h, a)
	}
	if h, a, _ := count(three + manyAddrs("a.example.org", 9) + manyAddrs("bb.example.org", 4) + manyAddrs("ccc.example.org", 3)); h != 3 || a != 20 {
		t.Errorf("24 addresses: %d hosts, %d", h, a)
	}
}

// Servers on loopback are for those who ask for them.
func TestFinder_Find_Loopback(t *testing.T) {
	s := dnstest.Start(t, soa+"example.org. A 127.0.0.2\nexample.org. AAAA ::1\nexample.org. A 0.0.0.0")
	conf := settings(s.Addr, false)
	conf.Delivery.Loopback, conf.Delivery.Port = true, 2525
	got, err := discovery.New(conf, discovery.Options{}).Find(t.Context(), domain(t, "example.org"))
	if want := "0 example.org [::1]:2525\n0 example.org 127.0.0.2:2525"; err != nil || show(got) != want {
		t.Errorf("got %s, %v", show(got), err)
	}
}

// Those in private networks are, too: what is outside of them, by one address, is for everybody.
func TestFinder_Find_Private(t *testing.T) {
	for _, c := range []struct{ before, first, last, behind string }{
		{"9.255.255.255", "10.0.0.0", "10.255.255.255", "11.0.0.0"},
		{"172.15.255.255", "172.16.0.0", "172.31.255.255", "172.32.0.0"},
		{"192.167.255.255", "192.168.0.0", "192.168.255.255", "192.169.0.0"},
		{"100.63.255.255", "100.64.0.0", "100.127.255.255", "100.128.0.0"},
		{"191.255.255.255", "192.0.0.0", "192.0.0.255", "192.0.1.0"},
		{"198.17.255.255", "198.18.0.0", "198.19.255.255", "198.20.0.0"},
		{"fbff::1", "fc00::1", "fdff::1", "fe00::1"},
		{"64:ff9b:0:1::1", "64:ff9b:1::", "64:ff9b:1:ffff::1", "64:ff9b:2::"},
		{"fe00::2", "fec0::1", "feff::1", "2001:db8::1"},
		{"64:ff9b::9ff:ffff", "64:ff9b::a00:0", "64:ff9b::aff:ffff", "64:ff9b::b00:0"}, // 10.0.0.0/8, translated
		{"2002:9ff:ffff::1", "2002:a00::1", "2002:aff:ffff::1", "2002:b00::1"},
	} {
		for _, private := range []bool{false, true} {
			for i, addr := range []string{c.before, c.first, c.last, c.behind} {
				kind := "A"
				if strings.Contains(addr, ":") {
					kind = "AAAA"
				}
				s := dnstest.Start(t, soa+"example.org. "+kind+" "+addr)
				conf := settings(s.Addr, false)
				conf.Delivery.Intranet = private
				_, err := discovery.New(conf, discovery.Options{}).Find(t.Context(), domain(t, "example.org"))
				if want := private || i == 0 || i == 3; (err == nil) != want || !want && !errors.Is(err, discovery.ErrUnusable) {
					t.Errorf("%s, allowed %v: %v, want %v", addr, private, err, want)
				}
			}
		}
	}
}

// What leads to an address of no server is none either.
func TestFinder_Find_Within(t *testing.T) {
	for addr, want := range map[string]bool{
		"64:ff9b::a9fe:a9fe": false, "64:ff9b::7f00:1": false, "64:ff9b::e000:1": false, "64:ff9b::c000:201": true, "64:ff9b:0:0:0:1:7f00:1": true,
		"2002:7f00:1::1": false, "2002:a9fe:a9fe::1": false, "2002:c000:201::1": true, "2003:7f00:1::1": true,
		"::7f00:1": false, "::a9fe:a9fe": false, "::c000:201": true,
	} {
		_, f := site(t, "example.org. AAAA "+addr, false)
		if _, err := f.Find(t.Context(), domain(t, "example.org")); (err == nil) != want || !want && !errors.Is(err, discovery.ErrUnusable) {
			t.Errorf("%s: %v, want %v", addr, err, want)
		}
	}
}

// AD counts of each part by itself, and only from a trusted resolver.
func TestFinder_Authenticated(t *testing.T) {
	_, key := testKey(t, 1)
	zone := "example.org. MX 1 m.example.org.\nm.example.org. A 192.0.2.1\nm.example.org. AAAA 2001:db8::1\n" +
		"_cmtp.example.org. TXT \"v=CMTP1; mode=enforce; p=" + key + "\"\n"
	for _, c := range []struct {
		name                      string
		without                   []string // questions whose answer has no AD
		trusted                   bool
		hosts, record, addrs, all bool
	}{
		{"all", nil, true, true, true, true, true},
		{"untrusted", nil, false, false, false, false, false},
		{"MX", []string{"example.org MX"}, true, false, true, true, false},
		{"_cmtp", []string{"_cmtp.example.org TXT"}, true, true, false, true, false},
		{"A", []string{"m.example.org A"}, true, true, true, false, false},
		{"AAAA", []string{"m.example.org AAAA"}, true, true, true, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, f := site(t, zone, c.trusted)
			s.Set(dnstest.Behaviour{AD: true}, "")
			for _, w := range c.without {
				name, qtype, _ := strings.Cut(w, " ")
				s.Set(dnstest.Behaviour{}, name, dns.StringToType[qtype])
			}
			got, err := f.Find(t.Context(), domain(t, "example.org"))
			if err != nil {
				t.Fatal(err)
			}
			if got.HostsAuthenticated != c.hosts || got.Published.Authenticated != c.record || got.Servers[0].Authenticated != c.addrs ||
				got.Authenticated() != c.all || got.Published.Enforced() != c.record {
				t.Errorf("got %+v", got)
			}
			for _, q := range s.Queries() {
				if opt := q.Msg.IsEdns0(); opt == nil || !opt.Do() || opt.UDPSize() != 1232 || !q.Msg.AuthenticatedData || q.Msg.CheckingDisabled || !q.Msg.RecursionDesired {
					t.Errorf("asked %v", q.Msg)
				}
			}
		})
	}
}

// Along a chain that takes several questions, every answer has to be vouched for.
func TestFinder_Authenticated_Chain(t *testing.T) {
	_, key := testKey(t, 1)
	zone := "_cmtp.example.org. CNAME a.example.org.\na.example.org. CNAME b.example.org.\nb.example.org. TXT \"v=CMTP1; p=" + key + "\"\n"
	for _, without := range []string{"", "_cmtp.example.org", "a.example.org", "b.example.org"} {
		s, f := site(t, zone, true)
		s.Set(dnstest.Behaviour{AD: true, Partial: true}, "")
		if without != "" {
			s.Set(dnstest.Behaviour{Partial: true}, without)
		}
		got, err := f.Published(t.Context(), domain(t, "example.org"))
		if err != nil || got.Record == nil || got.Authenticated != (without == "") {
			t.Errorf("without %q: got %+v, %v", without, got, err)
		}
	}
}

// The absence of MX and _cmtp records can be vouched for too.
func TestFinder_Authenticated_Absence(t *testing.T) {
	s, f := site(t, "example.org. A 192.0.2.1\n", true)
	s.Set(dnstest.Behaviour{AD: true}, "")
	got, err := f.Find(t.Context(), domain(t, "example.org"))
	if err != nil || !got.Authenticated() || got.Published.Record != nil || got.Published.Enforced() {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestFinder_Published(t *testing.T) {
	_, key := testKey(t, 1)
	good := "v=CMTP1; k=ed25519; p=" + key
	for _, c := range []struct {
		name, zone string
		found      bool
		ignored    string
	}{
		{"none", "", false, ""},
		{"one", txt(good), true, ""},
		{"in pieces", txt(good[:5], good[5:20], "", good[20:]), true, ""},
		{"among others", txt("v=spf1 -all") + txt(good) + txt("x") + txt(""), true, ""},
		{"only others", txt("v=spf1 -all") + txt("v=CMTP2"), false, ""},
		{"two", txt(good) + txt("v=CMTP1; port=26"), false, "several"},
		{"a good and a bad one", txt(good) + txt("v=CMTP1; port=0"), false, "several"},
		{"a bad one", txt("v=CMTP1; port=0"), false, "port"},
		{"escapes", txt(good+`; x=\"a\\b\097`) + txt(`a\255\\`), true, ""},
		{"a control in escapes", txt(good + `; x=\010`), false, "0x0a"},
		{"an escaped semicolon is one", txt(good + `\; port=0`), false, "port"},
		{"a CNAME", "_cmtp.example.org. CNAME k.example.org.\nk.example.org. TXT \"" + good + "\"\n", true, ""},
		{"long", txt(good, "; x="+strings.Repeat("y", 250), strings.Repeat("y", 255)), true, ""},
		{"too long", txt(append([]string{good + "; x="}, slices.Repeat([]string{strings.Repeat("y", 250)}, 8)...)...), false, "2048"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, f := site(t, c.zone, false)
			got, err := f.Published(t.Context(), domain(t, "example.org"))
			if err != nil || (got.Record != nil) != c.found || (got.Ignored != nil) != (c.ignored != "") || got.Authenticated {
				t.Fatalf("got %+v, %v", got, err)
			}
			if c.ignored != "" && (!errors.Is(got.Ignored, discovery.ErrRecord) || !strings.Contains(got.Ignored.Error(), c.ignored)) {
				t.Errorf("ignored: %v", got.Ignored)
			}
			if c.found && got.Record.String() != good {
				t.Errorf("got %s", got.Record)
			}
		})
	}
}

func txt(parts ...string) string {
	return "_cmtp.example.org. TXT \"" + strings.Join(parts, `" "`) + "\"\n"
}

// Below a domain of the longest name there is no room for the record.
func TestFinder_Published_LongDomain(t *testing.T) {
	label := strings.Repeat("a", 61)
	for _, c := range []struct {
		name  string
		asked int
	}{
		{strings.Join([]string{label, label, label, label}, "."), 1},            // 247 bytes
		{strings.Join([]string{label, label, label, label[1:] + "bc"}, "."), 0}, // 248 bytes
	} {
		s, f := site(t, "", false)
		got, err := f.Published(t.Context(), domain(t, c.name))
		if err != nil || got.Record != nil || s.Count("", 0) != c.asked {
			t.Errorf("%d bytes: got %+v, %v, asked %d times", len(c.name), got, err, s.Count("", 0))
		}
	}
}
