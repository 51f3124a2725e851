package discovery_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"cmtpd/internal/discovery"

	"github.com/miekg/dns"
)

// message returns an answer to a question for A of example.org.
func message(tb testing.TB, rcode int, authority string, answers ...string) *dns.Msg {
	tb.Helper()
	record := func(text string) dns.RR {
		rr, err := dns.NewRR(text)
		if err != nil {
			tb.Fatal(err)
		}
		return rr
	}
	m := new(dns.Msg).SetQuestion("example.org.", dns.TypeA)
	m.Rcode = rcode
	for _, text := range answers {
		m.Answer = append(m.Answer, record(text))
	}
	if authority != "" {
		m.Ns = []dns.RR{record(authority)}
	}
	return m
}

func TestAnswer(t *testing.T) {
	many := func(n int) (texts []string) {
		for i := range n {
			texts = append(texts, fmt.Sprintf("example.org. A 192.0.2.%d", i+1))
		}
		return texts
	}
	const soa = "example.org. SOA a. b. 1 1 1 1 1"
	for _, c := range []struct {
		name  string
		m     *dns.Msg
		addrs int
		done  bool
		err   error
	}{
		{"8 addresses", message(t, 0, "", many(8)...), 8, true, nil},
		{"9 addresses", message(t, 0, "", many(9)...), 8, true, nil},
		{"in capitals", message(t, 0, "", "EXAMPLE.org. A 192.0.2.1"), 1, true, nil},
		{"another name", message(t, 0, soa, "example.net. A 192.0.2.1"), 0, true, discovery.ErrNoData},
		{"another type", message(t, 0, soa, "example.org. AAAA 2001:db8::1"), 0, true, discovery.ErrNoData},
		{"another class", message(t, 0, soa, "example.org. CH A 192.0.2.1"), 0, true, discovery.ErrNoData},
		{"a chain in any order", message(t, 0, "", "c. A 192.0.2.1", "b. CNAME c.", "example.org. CNAME b."), 1, true, nil},
		{"a chain that ends here", message(t, 0, soa, "example.org. CNAME b."), 0, true, discovery.ErrNoData},
		{"a chain that goes on", message(t, 0, "", "example.org. CNAME b."), 0, false, nil},
		{"a chain to nowhere", message(t, dns.RcodeNameError, soa, "example.org. CNAME b."), 0, true, discovery.ErrNoName},
		{"an address of nobody", message(t, dns.RcodeNameError, "", "example.org. A 192.0.2.1"), 0, true, discovery.ErrNoName},
		{"a circle", message(t, 0, "", "example.org. CNAME b.", "b. CNAME example.org."), 0, true, discovery.ErrRefused},
	} {
		a, done, err := discovery.Read(c.m, "example.org.", dns.TypeA)
		if len(a.Addrs) != c.addrs || done != c.done || !errors.Is(err, c.err) {
			t.Errorf("%s: got %+v, %v, %v", c.name, a, done, err)
		}
	}
}

// FuzzAnswer: whatever a resolver sends, what is kept of it is within the bounds,
// there is something if and only if there is no error, and a chain that is not at
// its end has become longer.
func FuzzAnswer(f *testing.F) {
	f.Fuzz(func(t *testing.T, p []byte) {
		m := new(dns.Msg)
		if m.Unpack(p) != nil || len(m.Question) != 1 || m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError {
			return
		}
		for _, qtype := range []uint16{dns.TypeMX, dns.TypeA, dns.TypeAAAA, dns.TypeTXT} {
			a, done, err := discovery.Read(m, m.Question[0].Name, qtype)
			if len(a.Hosts) > 10 || len(a.Addrs) > 8 || a.Links > 9 || a.TTL < 0 || a.TTL > 24*time.Hour {
				t.Fatalf("beyond the bounds: %+v", a)
			}
			for _, h := range a.Hosts {
				if h == "." || h == "" {
					t.Fatalf("the root is a host: %+v", a)
				}
			}
			for _, addr := range a.Addrs {
				if !addr.IsValid() || addr.Is4In6() || addr.IsLoopback() || addr.IsUnspecified() || addr.IsMulticast() || addr.IsLinkLocalUnicast() {
					t.Fatalf("an address of no server: %s", addr)
				}
			}
			if !done && (err != nil || a.Links == 0) {
				t.Fatalf("not done after %d links: %v", a.Links, err)
			}
			if (err != nil || !done) && (len(a.Hosts)+len(a.Addrs) > 0 || a.Record != nil) {
				t.Fatalf("%v, and yet %+v", err, a)
			}
			if done && err == nil && qtype == dns.TypeMX && len(a.Hosts) == 0 {
				t.Fatal("no hosts and no error")
			}
			for _, known := range []error{discovery.ErrNoName, discovery.ErrNoData, discovery.ErrNoMail, discovery.ErrRefused} {
				if errors.Is(err, known) {
					err = nil
				}
			}
			if err != nil {
				t.Fatalf("an error of no kind: %v", err)
			}
		}
	})
}

// Whatever bytes a TXT record has come out of the library's escapes as they were.
func TestJoined(t *testing.T) {
	every := make([]byte, 256)
	for i := range every {
		every[i] = byte(i)
	}
	m := new(dns.Msg).SetQuestion("example.org.", dns.TypeTXT)
	rr, err := dns.NewRR("example.org. TXT x y")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{string(every[:255]), string(every[1:]), `a\b"c`, `\065`, `\\06`, "\x00123", ""} {
		var escaped string
		for _, c := range []byte(want) {
			escaped += fmt.Sprintf(`\%03d`, c)
		}
		rr.(*dns.TXT).Txt = []string{escaped[:len(escaped)/8*4], escaped[len(escaped)/8*4:]}
		m.Answer = []dns.RR{rr}
		p, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		got := new(dns.Msg)
		if err := got.Unpack(p); err != nil {
			t.Fatal(err)
		}
		if text := discovery.Joined(got.Answer[0].(*dns.TXT).Txt...); text != want {
			t.Errorf("got %q, want %q", text, want)
		}
	}
	for text, want := range map[string]string{`\`: `\`, `\1`: "1", `\12`: "12", `\a12`: "a12", `\1a2`: "1a2", `\12a`: "12a", `\;\"`: `;"`} {
		if got := discovery.Joined(text); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}
