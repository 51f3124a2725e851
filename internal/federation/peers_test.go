package federation_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"cmtpd/internal/client/clienttest"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/crypt"
	"cmtpd/internal/discovery"
	"cmtpd/internal/discovery/dnstest"
	"cmtpd/internal/federation"
	"cmtpd/internal/queue"
	"cmtpd/internal/session"
	"cmtpd/internal/trust"

	"github.com/miekg/dns"
)

// saying is a host that says one thing to everybody and waits for them to go.
func saying(t testing.TB, text string) string {
	return clienttest.Listen(t, func(c net.Conn) {
		io.WriteString(c, text)
		io.Copy(io.Discard, c)
	})
}

const (
	smtpOnly = "220-mx.b.example ESMTP\r\n220 ready\r\n"
	busy     = "421 4.3.2 too busy\r\n"
	unwanted = "554 5.7.1 not you\r\n"
)

func meet(t testing.TB, a *site, d string) (*federation.Peer, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	p, err := a.peers.Open(ctx, domain(d))
	if err == nil {
		t.Cleanup(func() { p.Close() })
	}
	return p, err
}

// unmet returns what a domain that cannot be met comes to.
func unmet(t testing.TB, a *site, d string) *federation.MeetError {
	t.Helper()
	p, err := meet(t, a, d)
	e, ok := errors.AsType[*federation.MeetError](err)
	if !ok || p != nil {
		t.Fatalf("met %+v, %v; want a *MeetError", p, err)
	}
	return e
}

// Hosts that are dead, busy, broken or not the domain's are passed over.
func TestPeers_Open_Fallback(t *testing.T) {
	w := newWorld(t)
	a := w.site("a.example", "127.0.0.2", options{}, "alice")
	b := w.serve("b.example", options{}, "bob")
	c := w.site("c.example", "127.0.0.9", options{}, "carol")
	w.publish(`b.example. 600 MX 10 dead.b.example.
b.example. 600 MX 20 busy.b.example.
b.example. 600 MX 30 smtp.b.example.
b.example. 600 MX 35 other.b.example.
b.example. 600 MX 36 cut.b.example.
b.example. 600 MX 40 mx.b.example.
dead.b.example. 600 A 127.0.0.10
busy.b.example. 600 A 127.0.0.11
smtp.b.example. 600 A 127.0.0.12
smtp.b.example. 600 A 127.0.0.13
other.b.example. 600 A 127.0.0.14
cut.b.example. 600 A 127.0.0.15
mx.b.example. 600 A 127.0.0.16`)
	w.lead("127.0.0.11", saying(t, busy))
	w.lead("127.0.0.12", saying(t, smtpOnly))
	w.lead("127.0.0.13", saying(t, smtpOnly))
	w.lead("127.0.0.14", c.addr)
	cut := clienttest.NewServer(t)
	cut.Private = true
	cut.Answer = func(c *clienttest.Conn, cmd cmtp.Command) (bool, error) {
		if cmd.Verb == cmtp.StartTLS {
			return true, errors.Join(c.Word(cmtp.Success), io.EOF)
		}
		return false, nil
	}
	w.lead("127.0.0.15", cut.Start(t))
	w.lead("127.0.0.16", b.addr)
	p, err := meet(t, a, "b.example")
	if err != nil {
		t.Fatal(err)
	}
	if p.Host != "mx.b.example" || p.Key != b.key.Public() || p.Part() != 2 || p.Addr.String() != "127.0.0.16:25" || !p.Verdict.First {
		t.Errorf("met %+v", p)
	}
	if n := w.dialed("127.0.0.12") + w.dialed("127.0.0.13"); n != 1 {
		t.Errorf("the host without CMTP was asked %d times", n)
	}
	if n := w.dialed("127.0.0.10"); n != 1 {
		t.Errorf("the dead host was dialed %d times", n)
	}
}

// What cannot be met is final only where that is certain.
func TestPeers_Open_Fails(t *testing.T) {
	tests := map[string]struct {
		zone    string
		hosts   map[string]string
		set     func(*dnstest.Server)
		outcome queue.Outcome
		want    error
		text    string
	}{
		"NoName":     {outcome: queue.Permanent, want: discovery.ErrNoName},
		"NullMX":     {zone: "b.example. 600 MX 0 .", outcome: queue.Permanent, want: discovery.ErrNoMail},
		"ServFail":   {zone: "b.example. 600 MX 0 mx.b.example.", set: func(s *dnstest.Server) { s.Set(dnstest.Behaviour{Rcode: dns.RcodeServerFailure}, "b.example") }, outcome: queue.Temporary, want: discovery.ErrRefused},
		"NoRecordBy": {zone: "b.example. 600 A 127.0.0.3", set: func(s *dnstest.Server) { s.Set(dnstest.Behaviour{Rcode: dns.RcodeServerFailure}, "_cmtp.b.example") }, outcome: queue.Temporary, want: discovery.ErrRefused},
		"Dead":       {zone: "b.example. 600 A 127.0.0.3", outcome: queue.Temporary, text: "127.0.0.3"},
		"Busy":       {zone: "b.example. 600 A 127.0.0.3", hosts: map[string]string{"127.0.0.3": busy}, outcome: queue.Temporary, text: "too busy"},
		"NoCMTP":     {zone: "b.example. 600 A 127.0.0.3", hosts: map[string]string{"127.0.0.3": smtpOnly}, outcome: queue.Permanent, want: federation.ErrNoCMTP},
		"Unwanted":   {zone: "b.example. 600 A 127.0.0.3", hosts: map[string]string{"127.0.0.3": unwanted}, outcome: queue.Permanent, text: "not you"},
		"NoCMTPAndADeadBackup": {zone: "b.example. 600 MX 1 x.b.example.\nb.example. 600 MX 2 y.b.example.\nx.b.example. 600 A 127.0.0.3\ny.b.example. 600 A 127.0.0.4",
			hosts: map[string]string{"127.0.0.3": smtpOnly}, outcome: queue.Permanent, want: federation.ErrNoCMTP},
		"DeadAndABackupWithoutCMTP": {zone: "b.example. 600 MX 1 x.b.example.\nb.example. 600 MX 2 y.b.example.\nx.b.example. 600 A 127.0.0.3\ny.b.example. 600 A 127.0.0.4",
			hosts: map[string]string{"127.0.0.4": smtpOnly}, outcome: queue.Temporary},
		"NoCMTPAndADeadEqual": {zone: "b.example. 600 MX 1 x.b.example.\nb.example. 600 MX 1 y.b.example.\nx.b.example. 600 A 127.0.0.3\ny.b.example. 600 A 127.0.0.4",
			hosts: map[string]string{"127.0.0.3": smtpOnly}, outcome: queue.Temporary},
	}
	for what, tt := range tests {
		t.Run(what, func(t *testing.T) {
			w := newWorld(t)
			a := w.serve("a.example", options{})
			w.publish("%s", tt.zone)
			for ip, text := range tt.hosts {
				w.lead(ip, saying(t, text))
			}
			if tt.set != nil {
				tt.set(w.dns)
			}
			e := unmet(t, a, "b.example")
			if e.Outcome != tt.outcome || tt.want != nil && !errors.Is(e, tt.want) || !strings.Contains(e.Error(), tt.text) {
				t.Errorf("outcome %v, %v", e.Outcome, e)
			}
			if e.Temporary() != (tt.outcome != queue.Permanent) {
				t.Errorf("temporary %v", e.Temporary())
			}
		})
	}
}

// DNS that leads back to this server is a loop, whoever wrote it.
func TestPeers_Open_Loop(t *testing.T) {
	w := newWorld(t)
	a := w.site("a.example", "127.0.0.2", options{}, "alice")
	if e := unmet(t, a, "a.example"); e.Outcome != queue.Permanent || !errors.Is(e, federation.ErrOwn) {
		t.Errorf("its own domain: %v", e)
	}
	w.publish("b.example. 600 A 127.0.0.2")
	if e := unmet(t, a, "b.example"); e.Outcome != queue.Permanent || !errors.Is(e, federation.ErrLoop) {
		t.Errorf("another name of it: %v", e)
	}
	// By CMTP 0.01 too, and with a key that it had before.
	old := newKey(t)
	c := w.serve("c.example", options{meet: func(c *federation.Config) { c.Former = []crypt.PublicKey{old.Public()} }})
	s := w.fake("d.example", "127.0.0.4", false)
	s.Key = old
	w.start(s, "127.0.0.4")
	if e := unmet(t, c, "d.example"); e.Outcome != queue.Permanent || !errors.Is(e, federation.ErrLoop) {
		t.Errorf("by a former key: %v", e)
	}
}

// Who is on the way to a domain that is known and leads back, for which it takes no key, does not end its mail.
func TestPeers_Open_Loop_Known(t *testing.T) {
	w, a, _ := acquainted(t)
	w.lead("127.0.0.3", a.addr)
	if e := unmet(t, a, "b.example"); e.Outcome != queue.Temporary || !errors.Is(e, federation.ErrLoop) {
		t.Errorf("known: %v, outcome %v", e, e.Outcome)
	}
	key := newKey(t)
	c := w.serve("c.example", options{finder: w.finder(true)})
	record := &discovery.Record{Keys: []crypt.PublicKey{key.Public()}, Mode: discovery.Enforce, MaxAge: discovery.DefaultMaxAge}
	w.publish("e.example. 600 A 127.0.0.5\n_cmtp.e.example. 600 TXT %q", record.String())
	w.dns.Set(dnstest.Behaviour{AD: true}, "")
	w.lead("127.0.0.5", c.addr)
	if e := unmet(t, c, "e.example"); e.Outcome != queue.Temporary || !errors.Is(e, federation.ErrLoop) {
		t.Errorf("enforcing: %v, outcome %v", e, e.Outcome)
	}
}

// A swapped key holds the mail, and hears nothing but the question for keys.
func TestPeers_Open_Swapped(t *testing.T) {
	w := newWorld(t)
	a := w.site("a.example", "127.0.0.2", options{}, "alice")
	s := w.start(w.fake("b.example", "127.0.0.3", true), "127.0.0.3")
	if _, err := meet(t, a, "b.example"); err != nil {
		t.Fatal(err)
	}
	thief := clienttest.NewServer(t)
	thief.Private = true
	w.lead("127.0.0.3", thief.Start(t))
	e := unmet(t, a, "b.example")
	if e.Outcome != queue.Distrusted || e.Verdict.Why != trust.Changed || !errors.Is(e, federation.ErrDistrusted) {
		t.Errorf("%+v", e)
	}
	_, err := a.deliver("b.example", a.queued("alice", "bob@b.example", "", 100))
	if r := failure(t, err); r.Outcome != queue.Distrusted || r.Text != trust.Changed.Text() {
		t.Errorf("the queue is told %+v", r)
	}
	thief.Wait()
	if v := []cmtp.Verb{cmtp.Ohai, cmtp.StartTLS, cmtp.KeyRequest}; !slices.Equal(thief.Verbs(), slices.Concat(v, v)) {
		t.Errorf("the thief heard %v", thief.Verbs())
	}
	w.lead("127.0.0.3", s.Start(t))
	if p, err := meet(t, a, "b.example"); err != nil || p.Verdict.First {
		t.Errorf("the true one: %+v, %v", p, err)
	}
}

// A key that the old one names follows it.
func TestPeers_Open_Rotated(t *testing.T) {
	w := newWorld(t)
	a := w.site("a.example", "127.0.0.2", options{}, "alice")
	old := w.site("b.example", "127.0.0.3", options{}, "bob")
	if _, err := meet(t, a, "b.example"); err != nil {
		t.Fatal(err)
	}
	b := w.serve("b.example", options{edit: func(c *session.Config) { c.Former = []*crypt.PrivateKey{old.key} }}, "bob")
	w.lead("127.0.0.3", b.addr)
	if p, err := meet(t, a, "b.example"); err != nil || p.Key != b.key.Public() {
		t.Errorf("%+v, %v", p, err)
	}
}

// A domain that has spoken CMTP 1 is held when it is met without, and that is remembered.
func TestPeers_Open_Downgraded(t *testing.T) {
	for what, host := range map[string]func(*world) string{
		"Greeting": func(w *world) string { return saying(w.t, smtpOnly) },
		"Version":  func(w *world) string { return clienttest.NewServer(w.t).Start(w.t) },
		"StartTLS": func(w *world) string {
			s := clienttest.NewServer(w.t)
			s.Private = true
			s.Answer = func(c *clienttest.Conn, cmd cmtp.Command) (bool, error) {
				if cmd.Verb != cmtp.StartTLS {
					return false, nil
				}
				return true, c.Word(cmtp.Failure)
			}
			return s.Start(w.t)
		},
	} {
		t.Run(what, func(t *testing.T) {
			w := newWorld(t)
			a := w.site("a.example", "127.0.0.2", options{}, "alice")
			w.start(w.fake("b.example", "127.0.0.3", true), "127.0.0.3")
			if _, err := meet(t, a, "b.example"); err != nil {
				t.Fatal(err)
			}
			w.lead("127.0.0.3", host(w))
			e := unmet(t, a, "b.example")
			if e.Outcome != queue.Distrusted || e.Verdict.Why != trust.Downgraded || e.Verdict.Since.IsZero() {
				t.Errorf("%+v", e)
			}
			known, err := a.trust.Known(domain("b.example"))
			if err != nil || known.Without.IsZero() || len(known.Keys) != 1 {
				t.Errorf("remembered is %+v, %v", known, err)
			}
			// One that turns us away takes nothing away but itself.
			w.lead("127.0.0.3", saying(t, unwanted))
			if e := unmet(t, a, "b.example"); e.Outcome != queue.Temporary {
				t.Errorf("turned away: %+v", e)
			}
		})
	}
}

// A domain that enforces is met by its own keys and CMTP 1, or not at all.
func TestPeers_Open_Enforced(t *testing.T) {
	w := newWorld(t)
	s := w.fake("b.example", "127.0.0.3", true)
	record := &discovery.Record{Keys: []crypt.PublicKey{s.Key.Public()}, Mode: discovery.Enforce, MaxAge: discovery.DefaultMaxAge}
	w.publish("_cmtp.b.example. 600 TXT %q", record.String())
	w.dns.Set(dnstest.Behaviour{AD: true}, "_cmtp.b.example")
	finder := w.finder(true)
	a := w.site("a.example", "127.0.0.2", options{finder: finder}, "alice")
	w.lead("127.0.0.3", saying(t, smtpOnly))
	if e := unmet(t, a, "b.example"); e.Outcome != queue.Distrusted || !strings.Contains(e.Error(), "it enforces its keys, and mx.b.example is met without CMTP 1") {
		t.Errorf("without CMTP: %+v", e)
	}
	w.lead("127.0.0.3", clienttest.NewServer(t).Start(t))
	if e := unmet(t, a, "b.example"); e.Outcome != queue.Distrusted {
		t.Errorf("by CMTP 0.01: %+v", e)
	}
	thief := clienttest.NewServer(t)
	thief.Private = true
	w.lead("127.0.0.3", thief.Start(t))
	if e := unmet(t, a, "b.example"); e.Outcome != queue.Distrusted || e.Verdict.Trusted {
		t.Errorf("by another key: %+v", e)
	}
	w.lead("127.0.0.3", s.Start(t))
	if p, err := meet(t, a, "b.example"); err != nil || p.Verdict.Provenance != trust.DNSSEC {
		t.Errorf("by its own: %+v, %v", p, err)
	}
}

// A domain that tries enforcing out is met as if it did not, and each time that it would have mattered
// is told of. It does not count where nobody vouches for it.
func TestPeers_Open_Testing(t *testing.T) {
	for _, vouched := range []bool{true, false} {
		w := newWorld(t)
		s := w.fake("b.example", "127.0.0.3", true)
		old := clienttest.NewServer(t)
		old.Key = s.Key
		record := &discovery.Record{Keys: []crypt.PublicKey{s.Key.Public()}, Mode: discovery.Testing, MaxAge: discovery.DefaultMaxAge}
		w.publish("_cmtp.b.example. 600 TXT %q", record.String())
		w.dns.Set(dnstest.Behaviour{AD: vouched}, "_cmtp.b.example")
		told, lines := 0, new(strings.Builder)
		a := w.site("a.example", "127.0.0.2", options{finder: w.finder(true), meet: func(c *federation.Config) {
			c.Tested, c.Log = func() { told++ }, slog.New(slog.NewTextHandler(lines, nil))
		}}, "alice")
		check := func(what string, want int) {
			t.Helper()
			if !vouched {
				want = 0
			}
			if n := strings.Count(lines.String(), "mode=enforce"); told != want || n != want {
				t.Errorf("vouched for: %v, %s: told %d times, %d lines, want %d:\n%s", vouched, what, told, n, want, lines)
			}
		}
		w.lead("127.0.0.3", saying(t, smtpOnly))
		if e := unmet(t, a, "b.example"); e.Outcome != queue.Permanent || !errors.Is(e, federation.ErrNoCMTP) {
			t.Errorf("without CMTP: %+v", e)
		}
		check("without CMTP", 1)
		w.lead("127.0.0.3", old.Start(t))
		if p, err := meet(t, a, "b.example"); err != nil || p.Part() != 1 {
			t.Errorf("by CMTP 0.01: %+v, %v", p, err)
		}
		check("by CMTP 0.01", 2)
		w.lead("127.0.0.3", s.Start(t))
		if p, err := meet(t, a, "b.example"); err != nil || p.Part() != 2 {
			t.Errorf("by CMTP 1: %+v, %v", p, err)
		}
		check("by CMTP 1", 2)
	}
}

// Whoever does not believe our proof may still take mail.
func TestPeers_Open_ProofRefused(t *testing.T) {
	w := newWorld(t)
	a := w.site("a.example", "127.0.0.2", options{}, "alice")
	s := w.fake("b.example", "127.0.0.3", true)
	s.Answer = func(c *clienttest.Conn, cmd cmtp.Command) (bool, error) {
		if cmd.Verb != cmtp.Auth {
			return false, nil
		}
		return true, c.Fail(cmtp.StatusWrongProof, "who are you?")
	}
	w.start(s, "127.0.0.3")
	if r, err := a.deliver("b.example", a.queued("alice", "bob@b.example", "", 100)); err != nil || r[0].Outcome != queue.Delivered {
		t.Errorf("%+v, %v", r, err)
	}
}

// A server that says nothing costs the time that it is given, and leaves some for the next.
func TestPeers_Open_Slow(t *testing.T) {
	w := newWorld(t)
	a := w.site("a.example", "127.0.0.2", options{}, "alice")
	w.publish("b.example. 600 A 127.0.0.3")
	w.lead("127.0.0.3", saying(t, ""))
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	began := time.Now()
	_, err := a.peers.Open(ctx, domain("b.example"))
	if e, ok := errors.AsType[*federation.MeetError](err); !ok || e.Outcome != queue.Temporary || time.Since(began) > patience/2 {
		t.Errorf("after %v: %v", time.Since(began), err)
	}
}

// A host that says nothing leaves time for the next one.
func TestPeers_Open_Share(t *testing.T) {
	w := newWorld(t)
	a := w.site("a.example", "127.0.0.2", options{meet: func(c *federation.Config) { c.HostTime = time.Millisecond }}, "alice")
	b := w.serve("b.example", options{}, "bob")
	w.publish("b.example. 600 MX 1 x.b.example.\nb.example. 600 MX 2 y.b.example.\nx.b.example. 600 A 127.0.0.3\ny.b.example. 600 A 127.0.0.4")
	w.lead("127.0.0.3", saying(t, ""))
	w.lead("127.0.0.4", b.addr)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	p, err := a.peers.Open(ctx, b.domain)
	if err != nil {
		t.Fatal(err)
	}
	if p.Close(); p.Host != "y.b.example" {
		t.Errorf("met %s", p.Host)
	}
}

// The connection outlives the context of its opening.
func TestPeers_Open_Outlives(t *testing.T) {
	w := newWorld(t)
	a := w.site("a.example", "127.0.0.2", options{}, "alice")
	w.site("b.example", "127.0.0.3", options{}, "bob")
	d := federation.NewDeliverer(a.peers, a.spool, "mx")
	ctx, cancel := context.WithCancel(t.Context())
	o, err := d.Open(ctx, "b.example")
	cancel()
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	item := a.queued("alice", "bob@b.example", "", 100)
	if r, err := o.Send(t.Context(), []queue.Item{item}); err != nil || r[0].Outcome != queue.Delivered {
		t.Errorf("%+v, %v", r, err)
	}
	ctx, cancel = context.WithCancel(t.Context())
	cancel()
	if r, err := o.Send(ctx, []queue.Item{item}); err == nil {
		t.Errorf("after the end: %+v", r)
	}
	if _, err := d.Open(t.Context(), "no domain"); failure(t, err).Outcome != queue.Permanent {
		t.Errorf("no domain: %v", err)
	}
}
