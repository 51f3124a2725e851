package identity_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cmtpd/internal/config"
	"cmtpd/internal/crypt"
	"cmtpd/internal/datadir/datadirtest"
	"cmtpd/internal/discovery"
	"cmtpd/internal/discovery/dnstest"
	"cmtpd/internal/identity"
	"cmtpd/internal/keyfile"
	"cmtpd/internal/trust"
)

// domain is one of the server's.
var domain = datadirtest.Domain("example.org")

// A rotating server has its key changed, while peers of all kinds meet it.
type rotating struct {
	t     *testing.T
	cfg   *config.Config
	zone  *dnstest.Server
	now   time.Time
	force bool
}

func newRotating(t *testing.T) *rotating {
	s := &rotating{t: t, cfg: datadirtest.Filled(t), zone: dnstest.Start(t, ""), now: time.Now()}
	s.cfg.DNS.Resolver = s.zone.Addr
	return s
}

func (s *rotating) rotation(dns bool) *identity.Rotation {
	r := identity.NewRotation(s.cfg, dns, func() time.Time { return s.now })
	r.Force = s.force
	return r
}

// publish makes what was said to be published the whole of DNS, but for domains that are left out.
func (s *rotating) publish(all []identity.DomainView, without ...string) {
	s.t.Helper()
	zone := "example.org. SOA a. b. 1 1 1 1 60\nsecond.example. SOA a. b. 1 1 1 1 60\n"
	for _, d := range all {
		if !strings.Contains(strings.Join(without, " "), d.Domain) {
			zone += d.Zone + "\n"
		}
	}
	s.zone.SetZone(s.t, zone)
}

func (s *rotating) keys() identity.KeysView {
	s.t.Helper()
	v, err := identity.Keys(s.t.Context(), s.cfg, true)
	if err != nil {
		s.t.Fatal(err)
	}
	return v
}

func (s *rotating) do(step func() (identity.StepView, error)) identity.StepView {
	s.t.Helper()
	v, err := step()
	if err != nil {
		s.t.Fatal(err)
	}
	return v
}

func (s *rotating) refused(want error, text string, step func() (identity.StepView, error)) {
	s.t.Helper()
	before := s.keys().Identity
	if _, err := step(); err == nil || want != nil && !errors.Is(err, want) || !strings.Contains(err.Error(), text) {
		s.t.Fatalf("got %v, want %v with %q", err, want, text)
	}
	if s.keys().Identity != before {
		s.t.Fatal("a refused step has changed the key")
	}
}

// switched gives the key's file the time of the switch by the test's clock.
func (s *rotating) switched() {
	s.t.Helper()
	if err := os.Chtimes(s.cfg.KeyFile(), s.now, s.now); err != nil {
		s.t.Fatal(err)
	}
}

func bg(step func(context.Context) (identity.StepView, error)) func() (identity.StepView, error) {
	return func() (identity.StepView, error) { return step(context.Background()) }
}

// sighting is what a peer sees of the server now.
func (s *rotating) sighting(record trust.Record) trust.Sighting {
	s.t.Helper()
	live, err := keyfile.Load(s.cfg.KeyFile())
	if err != nil {
		s.t.Fatal(err)
	}
	former, err := keyfile.Former(s.cfg.KeyFile())
	if err != nil {
		s.t.Fatal(err)
	}
	g := trust.Sighting{Shown: live.Public(), CMTP1: true, Record: record}
	for _, old := range former {
		r := crypt.Rotation{Domain: domain, Old: old.Public(), New: live.Public(), When: crypt.UnixTimeOf(s.now)}
		g.Rotations = append(g.Rotations, r.Sign(old, live))
	}
	return g
}

// record is what DNS says of example.org now.
func (s *rotating) record(vouched bool) trust.Record {
	s.t.Helper()
	p, _, err := discovery.New(s.cfg, discovery.Options{}).Look(s.t.Context(), domain)
	if err != nil || p.Ignored != nil {
		s.t.Fatal(p, err)
	}
	if p.Record == nil {
		return trust.Record{Answer: trust.Absent, Authenticated: vouched}
	}
	return trust.Record{Answer: trust.Present, Authenticated: vouched, Keys: p.Record.Keys, Successor: p.Record.Successor,
		Enforce: p.Record.Mode == discovery.Enforce, MaxAge: p.Record.MaxAge}
}

// Peers are every way to have met a server at some moments and not at others.
type peers struct {
	*rotating
	kind
	states []*trust.State
	last   trust.Record // of DNS before
	lastAt time.Time    // it was last seen so
}

// meet has every peer meet the server, or not; some of them with what DNS said before, if they may still have that.
func (p *peers) meet(moment string) {
	p.t.Helper()
	now := p.record(p.vouched)
	records := []trust.Record{now}
	if !p.lastAt.IsZero() && p.now.Sub(p.lastAt) < identity.RecordWait {
		records = append(records, p.last)
	}
	had := append(p.states, &trust.State{Domain: domain})
	p.states = had[:len(had)-1]
	for _, before := range had {
		for _, record := range records {
			after, v := before.Judge(p.now, p.sighting(record))
			if !v.Trusted {
				p.t.Fatalf("%s: a peer that has known %d keys holds the mail: %v\n%+v\n%+v", moment, len(before.Keys), v, before, record)
			}
			if p.pin && v.First {
				var err error
				if after, err = after.Pin(p.now, trust.Public{PublicKey: p.sighting(record).Shown}); err != nil {
					p.t.Fatal(err)
				}
			}
			p.states = append(p.states, after)
		}
	}
	p.last, p.lastAt = now, p.now
}

// A kind of server and of peers.
type kind struct {
	name                             string
	dns, vouched, enforce, succ, pin bool
}

// At no moment of a rotation anybody who has met the server before, or meets it for the first time, holds its mail.
func TestRotation_NobodyIsLockedOut(t *testing.T) {
	for _, k := range []kind{
		{name: "without DNS"}, {name: "without DNS, pinned", pin: true},
		{name: "DNS", dns: true}, {name: "DNS, pinned", dns: true, pin: true},
		{name: "DNS, successor", dns: true, succ: true},
		{name: "DNSSEC", dns: true, vouched: true}, {name: "DNSSEC, pinned", dns: true, vouched: true, pin: true},
		{name: "DNSSEC, successor", dns: true, vouched: true, succ: true},
		{name: "DNSSEC, enforced", dns: true, vouched: true, enforce: true},
		{name: "DNSSEC, enforced, successor, pinned", dns: true, vouched: true, enforce: true, succ: true, pin: true},
	} {
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			s := newRotating(t)
			p := &peers{rotating: s, kind: k}
			file := p.begin()
			s.now = s.now.Add(time.Hour)
			prepared := s.do(func() (identity.StepView, error) { return s.rotation(k.dns).Prepare(t.Context(), file) })
			p.publishes(prepared.Domains)
			p.meet("prepared and published")
			if k.dns {
				s.refused(identity.ErrEarly, "run this again at", bg(s.rotation(true).Switch))
			}
			s.now = s.now.Add(identity.RecordWait)
			v := s.do(bg(s.rotation(k.dns).Switch))
			s.switched()
			if v.Key.Key != prepared.Next.Key || v.Former.Key != prepared.Key.Key {
				t.Fatalf("the key is %+v", v)
			}
			p.meet("switched")
			s.refused(identity.ErrEarly, "the former key may be named until", bg(s.rotation(k.dns).Retire))
			s.now = s.now.Add(identity.RecordWait)
			if k.dns {
				p.retire(v)
			}
			s.now = s.now.Add(60 * 24 * time.Hour)
			p.meet("long after")
		})
	}
}

// publishes is publish as this kind of server does it.
func (p *peers) publishes(all []identity.DomainView) {
	p.t.Helper()
	if !p.dns {
		return
	}
	for i := range all {
		if p.enforce && !strings.Contains(all[i].Zone, "mode=enforce") {
			all[i].Zone = strings.Replace(all[i].Zone, "p=", "mode=enforce; p=", 1)
		}
	}
	p.publish(all)
}

// begin comes before the rotation. It returns the file of the successor, if there is one.
func (p *peers) begin() (file string) {
	p.t.Helper()
	p.meet("nothing published")
	p.publishes(p.keys().Records)
	p.meet("at first")
	if p.succ {
		file = filepath.Join(p.t.TempDir(), "successor.key")
		p.publishes(p.do(func() (identity.StepView, error) { return p.rotation(true).Successor(p.t.Context(), file) }).Domains)
		p.meet("successor announced")
	}
	return file
}

// retire ends the rotation that has come to v.
func (p *peers) retire(v identity.StepView) {
	p.t.Helper()
	retired := p.do(bg(p.rotation(true).Retire))
	if r := retired.Domains[0].Record; strings.Contains(r, v.Former.Key) || !strings.Contains(r, v.Key.Key) || p.enforce != strings.Contains(r, "mode=enforce") {
		p.t.Errorf("retired: %+v", retired.Domains)
	}
	p.meet("to be retired")
	p.publishes(retired.Domains)
	p.meet("retired")
	if v = p.do(bg(p.rotation(true).Retire)); len(v.Domains) != 0 || v.Due != "" {
		p.t.Errorf("after that: %+v", v)
	}
}

// Another key than the announced successor is refused, and what --force says of it is so.
func TestRotation_AnotherThanTheSuccessor(t *testing.T) {
	s := newRotating(t)
	p := &peers{rotating: s, kind: kind{dns: true, vouched: true}}
	file := filepath.Join(t.TempDir(), "successor.key")
	s.publish(s.do(func() (identity.StepView, error) { return s.rotation(true).Successor(t.Context(), file) }).Domains)
	p.meet("successor announced")
	prepare := func() (identity.StepView, error) { return s.rotation(true).Prepare(t.Context(), "") }
	s.refused(identity.ErrSuccessor, "--from FILE", prepare)
	s.refused(identity.ErrSuccessor, "for seven days", func() (identity.StepView, error) { return s.rotation(false).Now("") })
	s.force = true
	s.publish(s.do(prepare).Domains)
	s.now = s.now.Add(identity.RecordWait)
	s.do(prepare)
	s.now = s.now.Add(identity.RecordWait)
	s.force = false
	s.refused(identity.ErrSuccessor, "made here", bg(s.rotation(true).Switch))
	if err := os.Remove(keyfile.SuccessorPath(s.cfg.KeyFile())); err != nil { // DNS still has it
		t.Fatal(err)
	}
	s.refused(identity.ErrSuccessor, "the record of example.org says", bg(s.rotation(true).Switch))
	s.force = true
	s.do(bg(s.rotation(true).Switch))
	for _, peer := range p.states {
		if _, v := peer.Judge(s.now, s.sighting(s.record(true))); v.Trusted {
			t.Error("a peer that knows of the successor follows another key at once")
		}
	}
}

// A record that one of two domains lacks, or that DNS cannot tell of, keeps the key where it is.
func TestRotation_Switch_Records(t *testing.T) {
	s := newRotating(t)
	s.refused(identity.ErrStep, "--prepare", bg(s.rotation(true).Switch))
	s.refused(identity.ErrStep, "--prepare", bg(s.rotation(true).Retire))
	at := s.now
	prepare := func() (identity.StepView, error) { return s.rotation(true).Prepare(t.Context(), "") }
	first := s.do(prepare)
	if again := s.do(prepare); again.Next.Key != first.Next.Key {
		t.Error("to prepare again makes another key")
	}
	s.refused(identity.ErrStep, "--switch", bg(s.rotation(true).Retire))
	s.refused(identity.ErrRecords, "second.example publishes no _cmtp record", bg(s.rotation(true).Switch))
	s.publish(first.Domains, "second.example")
	s.refused(identity.ErrRecords, "second.example publishes no _cmtp record", bg(s.rotation(true).Switch))
	s.publish(first.Domains)
	s.zone.Set(dnstest.Behaviour{Rcode: 2}, "_cmtp.second.example")
	s.refused(identity.ErrRecords, "not known what second.example publishes", bg(s.rotation(true).Switch))
	s.zone.Set(dnstest.Behaviour{}, "_cmtp.second.example")
	early := s.rotation(true)
	early.Wait = time.Minute
	s.refused(identity.ErrWait, "--wait must be as long", bg(early.Switch))

	// The wait counts from when the last of them was seen, and anew when one was not there.
	s.now = at.Add(2 * time.Hour)
	s.refused(identity.ErrEarly, "run this again at", bg(s.rotation(true).Switch))
	s.publish(first.Domains, "example.org")
	s.refused(identity.ErrRecords, "example.org publishes no _cmtp record", bg(s.rotation(true).Switch))
	s.publish(first.Domains)
	s.now = at.Add(identity.RecordWait + time.Hour)
	s.refused(identity.ErrEarly, "run this again at", bg(s.rotation(true).Switch))
	if err := os.WriteFile(s.cfg.KeyFile()+".seen", []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.now = at.Add(2*identity.RecordWait + 2*time.Hour)
	s.refused(identity.ErrEarly, "run this again at", bg(s.rotation(true).Switch))
	s.now = s.now.Add(identity.RecordWait)
	if v := s.do(bg(s.rotation(true).Switch)); v.Key.Key != first.Next.Key {
		t.Errorf("the key is %+v", v.Key)
	}
	s.refused(identity.ErrStep, "no next key is prepared", bg(s.rotation(true).Switch))
}

func TestRotation_Switch_Unpublished(t *testing.T) {
	s := newRotating(t)
	prepare := func() (identity.StepView, error) { return s.rotation(true).Prepare(t.Context(), "") }
	s.publish(s.do(prepare).Domains, "second.example")
	s.do(prepare)
	s.now = s.now.Add(identity.RecordWait)
	r := s.rotation(true)
	r.Unpublished = s.cfg.Domains[1:]
	s.do(bg(r.Switch))
}

// A switch that was cut short when the new key was in its place ends with the same command.
func TestRotation_Interrupted(t *testing.T) {
	s := newRotating(t)
	s.do(func() (identity.StepView, error) { return s.rotation(false).Prepare(t.Context(), "") })
	next, err := os.ReadFile(keyfile.NextPath(s.cfg.KeyFile()))
	if err != nil {
		t.Fatal(err)
	}
	v := s.do(bg(s.rotation(false).Switch))
	if err := os.WriteFile(keyfile.NextPath(s.cfg.KeyFile()), next, 0o600); err != nil {
		t.Fatal(err)
	}
	s.refused(identity.ErrStep, "cut short", bg(s.rotation(true).Retire))
	s.refused(identity.ErrStep, "cut short", func() (identity.StepView, error) { return s.rotation(true).Prepare(t.Context(), "") })
	if now := s.do(bg(s.rotation(true).Status)); !strings.Contains(now.Due, "--switch") {
		t.Errorf("%+v", now)
	}
	if again := s.do(bg(s.rotation(true).Switch)); again.Key != v.Key {
		t.Errorf("%+v", again)
	}
	if keys := s.keys(); len(keys.Former) != 1 || keys.Next != nil {
		t.Errorf("%+v", keys)
	}
}

// What is printed keeps what the domain publishes for itself: its policy, and other servers' keys.
func TestKeys_Records(t *testing.T) {
	s := newRotating(t)
	other := crypt.PublicKey{}
	if k, err := crypt.GenerateKey(); err == nil {
		other = k.Public()
	}
	published := &discovery.Record{Keys: []crypt.PublicKey{other}, Port: 2525, Mode: discovery.Testing, MaxAge: time.Hour}
	s.zone.SetZone(t, identity.ZoneLine(domain, published.String()))
	d := s.keys().Records[0]
	r, err := discovery.ParseRecord(d.Record)
	if err != nil || len(r.Keys) != 2 || r.Keys[1] != other || r.Port != 2525 || r.Mode != discovery.Testing || r.MaxAge != time.Hour {
		t.Errorf("%+v, %v", r, err)
	}
	if d.DNS.Right || len(d.DNS.Faults) != 1 || !strings.Contains(d.DNS.Faults[0], "other keys than the server's") {
		t.Errorf("%+v", d.DNS)
	}
}

// A record longer than a string of DNS is split, and comes back whole.
func TestZoneLine(t *testing.T) {
	r := &discovery.Record{Mode: discovery.None, MaxAge: discovery.DefaultMaxAge}
	for range discovery.MaxKeys {
		k, err := crypt.GenerateKey()
		if err != nil {
			t.Fatal(err)
		}
		r.Keys = append(r.Keys, k.Public())
	}
	line := identity.ZoneLine(domain, r.String())
	if !strings.HasPrefix(line, `_cmtp.example.org. 3600 IN TXT "v=CMTP1; `) || strings.Count(line, `"`) != 4 {
		t.Error(line)
	}
	s := newRotating(t)
	s.zone.SetZone(t, line)
	if p, _, err := discovery.New(s.cfg, discovery.Options{}).Look(t.Context(), domain); err != nil || p.Record == nil || p.Record.String() != r.String() {
		t.Errorf("%+v, %v", p, err)
	}
}

func TestRotation_Successor_Refuses(t *testing.T) {
	s := newRotating(t)
	dir := t.TempDir()
	make := func(out string) func() (identity.StepView, error) {
		return func() (identity.StepView, error) { return s.rotation(false).Successor(t.Context(), out) }
	}
	s.refused(nil, "is stolen with the key", make(s.cfg.DataDir+"/successor.key"))
	taken := filepath.Join(dir, "taken")
	if err := os.WriteFile(taken, []byte("a letter"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.refused(keyfile.ErrFormat, "nothing is written over it", make(taken))
	first := s.do(make(filepath.Join(dir, "first")))
	if again := s.do(make(filepath.Join(dir, "first"))); again.Successor.Key != first.Successor.Key {
		t.Error("the same command makes another successor")
	}
	s.refused(identity.ErrSuccessor, "--force makes another", make(filepath.Join(dir, "second")))
	s.force = true
	if second := s.do(make(filepath.Join(dir, "second"))); second.Successor.Key == first.Successor.Key {
		t.Error("--force has made no other successor")
	}
	s.do(func() (identity.StepView, error) {
		return s.rotation(false).Prepare(t.Context(), filepath.Join(dir, "second"))
	})
	s.refused(identity.ErrStep, "a rotation is under way", make(filepath.Join(dir, "third")))
	s.do(bg(s.rotation(false).Switch))
	if v := s.keys(); v.Successor != nil {
		t.Errorf("the successor has come: %+v", v)
	}
	s.refused(identity.ErrStep, "has or had", func() (identity.StepView, error) {
		return s.rotation(false).Prepare(t.Context(), filepath.Join(dir, "second"))
	})
}

// What was seen of a next key that was given up counts for no other.
func TestRotation_GivenUp(t *testing.T) {
	s := newRotating(t)
	prepare := func() (identity.StepView, error) { return s.rotation(true).Prepare(t.Context(), "") }
	first := s.do(prepare)
	s.publish(first.Domains)
	s.do(prepare)
	if err := os.Remove(keyfile.NextPath(s.cfg.KeyFile())); err != nil {
		t.Fatal(err)
	}
	s.now = s.now.Add(identity.RecordWait)
	second := s.do(prepare)
	if second.Next.Key == first.Next.Key {
		t.Fatal("the same key is prepared again")
	}
	s.publish(second.Domains)
	s.refused(identity.ErrEarly, "run this again at", bg(s.rotation(true).Switch))
}
