package trust_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"cmtpd/internal/address"
	"cmtpd/internal/durable"
	"cmtpd/internal/durable/durabletest"
	"cmtpd/internal/trust"
)

// A shop is a store with a clock and a log.
type shop struct {
	*trust.Store
	t   *testing.T
	now time.Time
	log bytes.Buffer
}

func openShop(t *testing.T, fsys durable.FS, dir string, most int) *shop {
	t.Helper()
	s := &shop{t: t, now: start}
	var err error
	s.Store, err = trust.Open(dir, trust.Options{FS: fsys, Now: func() time.Time { return s.now }, Log: slog.New(slog.NewTextHandler(&s.log, nil)), MaxDomains: most})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func sighting(shown int, with ...func(*trust.Sighting)) trust.Sighting {
	g := trust.Sighting{Shown: public(shown), CMTP1: true, Record: trust.Record{Answer: trust.Absent}}
	for _, f := range with {
		f(&g)
	}
	return g
}

func (s *shop) meet(name string, shown int, with ...func(*trust.Sighting)) trust.Verdict {
	s.t.Helper()
	v, err := s.Judge(context.Background(), domain(s.t, name), sighting(shown, with...))
	if err != nil {
		s.t.Fatal(err)
	}
	return v
}

func (s *shop) pinned(name string, n int) {
	s.t.Helper()
	if err := s.Pin(domain(s.t, name), trust.Public{PublicKey: public(n)}); err != nil {
		s.t.Fatal(err)
	}
}

func print(t *testing.T, n int) trust.Fingerprint {
	t.Helper()
	f, err := trust.ParseFingerprint(public(n).String())
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestStore_Files(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data", "trust")
	s := openShop(t, durable.OS, dir, 0)
	s.meet("example.org", 1, signed(1))
	path := filepath.Join(dir, trust.FileName(domain(t, "example.org")))
	info, err := os.Stat(path)
	if err != nil || info.Mode() != 0o600 {
		t.Fatalf("%v, %v", info, err)
	}
	if filepath.Base(path) != "bfabc37432958b063360d3ad6461c9c4735ae7f8edd46592a5e0f01452b2e4b5.json" {
		t.Errorf("it is named %s", path)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", info, err)
	}
	left := filepath.Join(dir, "."+filepath.Base(path)+".XYZ.tmp")
	own := filepath.Join(dir, "README.json")
	for _, p := range []string{left, own} {
		if err := os.WriteFile(p, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s = openShop(t, durable.OS, dir, 0)
	if v := s.meet("example.org", 2); v.Trusted || v.Why != trust.Vouched {
		t.Errorf("after opening again: %v", v)
	}
	if _, err := os.Stat(left); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what a write has left: %v", err)
	}
	if _, err := os.Stat(own); err != nil {
		t.Error(err)
	}
	if all, err := trust.Read(dir, durable.OS, start); err != nil || len(all) != 1 || len(all[0].Holding) != 1 {
		t.Errorf("%+v, %v", all, err)
	}
	if all, err := trust.Read(dir+"none", durable.OS, start); err != nil || len(all) != 0 {
		t.Errorf("%+v, %v", all, err)
	}
}

// What was merely seen again is written once a day, enforce as long as three quarters are left.
func TestStore_Judge_Writes(t *testing.T) {
	fsys := durabletest.New()
	s := openShop(t, fsys, "/trust", 0)
	writes := func(name string, n int, with ...func(*trust.Sighting)) (yes bool) {
		before := fsys.Calls()
		s.meet(name, n, with...)
		return fsys.Calls() > before
	}
	for i, step := range []struct {
		name string
		wait time.Duration
		n    int
		with func(*trust.Sighting)
		want bool
	}{
		{"example.org", 0, 1, unknown, false}, {"example.org", 0, 1, plain(1), true}, {"example.org", day - 1, 1, plain(1), false},
		{"example.org", 1, 1, plain(1), true}, {"example.org", 1, 1, plain(1), false}, {"example.org", 1, 2, unknown, true},
		{"example.org", 1, 2, unknown, false}, {"example.org", 1, 1, unknown, true}, {"example.org", 1, 1, unknown, false},
		{"example.com", 0, 1, func(g *trust.Sighting) { signed(1)(g); enforce(time.Hour)(g) }, true},
		{"example.com", 15 * time.Minute, 1, func(g *trust.Sighting) { signed(1)(g); enforce(time.Hour)(g) }, false},
		{"example.com", 1, 1, func(g *trust.Sighting) { signed(1)(g); enforce(time.Hour)(g) }, true},
	} {
		if s.now = s.now.Add(step.wait); writes(step.name, step.n, step.with) != step.want {
			t.Errorf("step %d: written or not, want %v", i, step.want)
		}
	}
}

// Every way in which a file can be wrong holds its domain, says so, and stops nobody else.
func TestStore_Damaged(t *testing.T) {
	fsys := durabletest.New()
	s := openShop(t, fsys, "/trust", 0)
	s.meet("example.org", 1)
	s.meet("example.com", 1)
	path := "/trust/" + trust.FileName(domain(t, "example.org"))
	good, err := durable.ReadFile(fsys, path, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	body := good[:bytes.Index(good, []byte(",\n  \"sum\""))]
	change := func(old, new string) []byte {
		if !bytes.Contains(body, []byte(old)) {
			t.Fatalf("there is no %s in %s", old, body)
		}
		return trust.Sum(bytes.Replace(body, []byte(old), []byte(new), 1))
	}
	flipped := bytes.Clone(good)
	flipped[bytes.Index(good, []byte("2026"))+3] ^= 2
	for what, data := range map[string][]byte{
		"empty": nil, "cut": good[:len(good)-1], "a bit": flipped, "more": append(bytes.Clone(good), '\n'), "no sum": body,
		"another's":      change("example.org", "example.net"),
		"no domain":      change(`"domain": "example.org"`, `"domain": "-"`),
		"another form":   change(`"format": 1`, `"format": 2`),
		"unknown key":    change(`"cmtp1": true`, `"cmtp1": true, "cmtp2": true`),
		"spaces":         change(`"cmtp1": true`, `"cmtp1":  true`),
		"no provenance":  change(`"first_contact"`, `""`),
		"a short key":    change(`"key": "`, `"key": "AA`),
		"another zone":   change(`Z"`, `+01:00"`),
		"too long":       append(bytes.Clone(good), bytes.Repeat([]byte(" "), 64<<10)...),
		"not JSON":       trust.Sum([]byte("hello")),
		"null":           trust.Sum([]byte("null")),
		"keys that wait": change(`"cmtp1": true`, `"cmtp1": true, "pending": [{}]`),
	} {
		t.Run(what, func(t *testing.T) {
			if err := durable.WriteFile(fsys, path, data, 0o600); err != nil {
				t.Fatal(err)
			}
			s := openShop(t, fsys, "/trust", 0)
			if v := s.meet("example.org", 1); v.Trusted || v.Why != trust.Damaged {
				t.Errorf("%v", v)
			}
			if v := s.meet("example.org", 1); v.Trusted || strings.Count(s.log.String(), "domain=example.org") != 1 {
				t.Errorf("again: %v, and the log says %s", v, s.log.String())
			}
			if v := s.meet("example.com", 1); !v.Trusted || v.First {
				t.Errorf("another domain: %v", v)
			}
			if _, err := s.Known(domain(t, "example.org")); !errors.Is(err, trust.ErrDamaged) {
				t.Errorf("Known: %v", err)
			}
			if st := s.Stats(); st.Domains != 2 || st.Held != 1 || st.Damaged != 1 {
				t.Errorf("%+v", st)
			}
			if log := s.log.String(); !strings.Contains(log, path) || !strings.Contains(log, "held") {
				t.Errorf("the log says %s", log)
			}
			all, err := s.List()
			if err != nil || len(all) != 2 || all[0].Damage == "" || all[0].File != path {
				t.Errorf("%+v, %v", all, err)
			}
			if err := s.Forget(domain(t, "example.org")); err != nil {
				t.Fatal(err)
			}
			if v := s.meet("example.org", 2); !v.Trusted || !v.First {
				t.Errorf("once forgotten: %v", v)
			}
		})
	}
}

func TestStore_Operator(t *testing.T) {
	fsys := durabletest.New()
	s := openShop(t, fsys, "/trust", 0)
	org := domain(t, "example.org")
	for _, err := range []error{s.Accept(org, print(t, 1)), s.Forget(org)} {
		if !errors.Is(err, trust.ErrUnknown) {
			t.Errorf("a stranger: %v", err)
		}
	}
	if _, err := s.Show(org); !errors.Is(err, trust.ErrUnknown) {
		t.Errorf("a stranger: %v", err)
	}
	s.pinned("example.org", 1)
	if v := s.meet("example.org", 2, signed(2)); v.Trusted || v.Why != trust.Pinned {
		t.Errorf("%v", v)
	}
	if err := s.Accept(org, print(t, 3)); !errors.Is(err, trust.ErrNotHeld) {
		t.Errorf("a key that nobody has shown: %v", err)
	}
	if err := s.Accept(org, print(t, 2)); err != nil {
		t.Fatal(err)
	}
	s = openShop(t, fsys, "/trust", 0)
	if v := s.meet("example.org", 2); !v.Trusted || v.Provenance != trust.Operator {
		t.Errorf("%v", v)
	}
	if v := s.meet("example.org", 1); v.Trusted {
		t.Errorf("%v", v)
	}
	e, err := s.Show(org)
	if err != nil || len(e.State.Actions) != 2 || len(e.Holding) != 1 {
		t.Errorf("%+v, %v", e, err)
	}
	if s.now = s.now.Add(trust.PendingLife + 1); s.Stats().Held != 0 {
		t.Error("a hold of a month ago still counts")
	}
}

// A change and a new hold have one line in the log, however many messages there are.
func TestStore_Log(t *testing.T) {
	s := openShop(t, durabletest.New(), "/trust", 0)
	lines := func(want ...string) {
		t.Helper()
		got := strings.Split(strings.TrimSuffix(s.log.String(), "\n"), "\n")
		s.log.Reset()
		if len(got) != len(want) {
			t.Fatalf("%d lines, want %d: %q", len(got), len(want), got)
		}
		for i := range want {
			if !strings.Contains(got[i], want[i]) || !strings.Contains(got[i], "domain=example.org") {
				t.Errorf("%q does not say %q", got[i], want[i])
			}
		}
	}
	again := func(n int, with ...func(*trust.Sighting)) {
		for range 3 {
			s.meet("example.org", n, with...)
			s.now = s.now.Add(time.Minute)
		}
	}
	again(1, plain(1), successor(5))
	lines("is trusted", "announced a successor", "speaks CMTP 1")
	again(2)
	lines("level=WARN msg=\"a server's key is held\"")
	again(2, rotations(rotation(t, 1, 2)))
	lines("old key may be stolen")
	again(1, without)
	lines("a domain is held")
	again(5)
	lines("is trusted", "trusted no longer", "speaks CMTP 1 again")
	s.pinned("example.org", 5)
	lines("somebody else", "operator has decided")
	if n := s.Stats().Changes; n != 11 {
		t.Errorf("%d changes", n)
	}
	for range 20 { // more than are remembered
		s.now = s.now.Add(time.Second)
		s.pinned("example.org", 5)
		lines("operator has decided")
	}
}

func TestStore_MaxDomains(t *testing.T) {
	const most = 12
	fsys := durabletest.New()
	s := openShop(t, fsys, "/trust", most)
	next := func() { s.now = s.now.Add(time.Minute) }
	s.meet("dnssec.example", 1, signed(1))
	s.pinned("pinned.example", 1)
	s.meet("enforce.example", 1, signed(), enforce(day))
	s.meet("held.example", 1)
	s.meet("held.example", 2)
	for i := range most - 4 {
		next()
		s.meet(fmt.Sprintf("d%d.example", i), 1)
	}
	next()
	s.meet("d0.example", 1) // so d1 is the least recently seen one
	count := func(want int) {
		t.Helper()
		names, err := fsys.ReadDir("/trust")
		if n := s.Stats().Domains; n != want || len(names) != want || err != nil {
			t.Fatalf("%d domains, %d files, %v; want %d", n, len(names), err, want)
		}
	}
	known := func(name string) bool { state, err := s.Known(domain(t, name)); return err == nil && state != nil }
	if count(most); !known("d1.example") {
		t.Error("one was forgotten at the limit")
	}
	next()
	s.meet("one.more.example", 1)
	if count(most); known("d1.example") || !known("d0.example") {
		t.Error("not the least recently seen one was forgotten")
	}
	for i := range 3 * most {
		next()
		s.meet(fmt.Sprintf("e%d.example", i), 1)
		if s.meet("d0.example", 1).First {
			t.Fatal("a domain was forgotten that was seen since it was chosen")
		}
	}
	for _, name := range []string{"dnssec.example", "pinned.example", "enforce.example", "held.example", "d0.example"} {
		if !known(name) {
			t.Errorf("%s was forgotten", name)
		}
	}
	if s = openShop(t, fsys, "/trust", 5); s.Stats().Domains != 5 {
		t.Errorf("%d domains after opening with a lower limit", s.Stats().Domains)
	}
	s = openShop(t, fsys, "/trust", 4)
	count(4)
	_, err := s.Judge(context.Background(), domain(t, "f.example"), sighting(1))
	if err2 := s.Pin(domain(t, "f.example"), trust.Public{PublicKey: public(1)}); !errors.Is(err, trust.ErrFull) || !errors.Is(err2, trust.ErrFull) {
		t.Errorf("beyond what may be forgotten: %v, %v", err, err2)
	}
	count(4)
}

// Who comes with as many domains as anybody can have, in signed zones too, is believed, has nobody forgotten, and
// leaves room.
func TestStore_MaxDomains_Claimed(t *testing.T) {
	const most = 12
	s := openShop(t, durabletest.New(), "/trust", most)
	claimed := func(g *trust.Sighting) { g.Claimed = true }
	s.meet("bank.example", 1)
	for i := range 3 * most {
		s.now = s.now.Add(time.Minute)
		if v := s.meet(fmt.Sprintf("e%d.example", i), 2, signed(2), claimed); !v.Trusted || v.Provenance != trust.DNSSEC {
			t.Fatalf("claim %d: %v", i, v)
		}
		if n := s.Stats().Domains; n != min(i+2, most/2) {
			t.Fatalf("after claim %d: %d domains", i, n)
		}
	}
	for i := range most / 2 {
		if v := s.meet(fmt.Sprintf("d%d.example", i), 1); !v.First {
			t.Errorf("%v", v)
		}
	}
	if v := s.meet("bank.example", 3); v.Trusted {
		t.Error("a domain was forgotten")
	}
	s.now = s.now.Add(time.Minute)
	s.meet("e0.example", 2, signed(2), claimed) // what is known of it goes on being kept
	if e, err := s.Show(domain(t, "e0.example")); err != nil || !e.State.Latest.Equal(s.now) {
		t.Errorf("%+v, %v", e, err)
	}
}

// A user who has ever more domains looked up, in signed zones too, has none forgotten that had mail or is pinned,
// however long ago, and nothing that is held; and keeps others out for no longer than a month.
func TestStore_MaxDomains_LookedUp(t *testing.T) {
	const most = 12
	fsys := durabletest.New()
	s := openShop(t, fsys, "/trust", most)
	mail := func(g *trust.Sighting) { g.Mail = true }
	s.meet("bank.example", 1)
	s.meet("bank.example", 1, mail)
	s.meet("signed.example", 1, signed(1), mail)
	s.pinned("pinned.example", 1)
	s.now = s.now.Add(365 * day)
	s.meet("held.example", 1)
	s.meet("held.example", 2, mail) // is held, so it had none
	for i := range 2 * most {
		s.now = s.now.Add(time.Minute)
		s.meet(fmt.Sprintf("p%d.example", i), 1)
	}
	full := func(name string, want error) {
		t.Helper()
		if _, err := s.Judge(context.Background(), domain(t, name), sighting(1)); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
	}
	for i := range most - 4 {
		s.now = s.now.Add(time.Minute)
		s.meet(fmt.Sprintf("s%d.example", i), 1, signed(1))
	}
	full("one.more.example", trust.ErrFull)
	if st := s.Stats(); st.Domains != most || st.Full != 1 {
		t.Errorf("%+v", st)
	}
	s.now = s.now.Add(29 * day)
	s.meet("s0.example", 1, signed(1)) // all others are not seen again
	full("one.more.example", trust.ErrFull)
	s.now = s.now.Add(2 * day)
	for i := range most - 4 { // in the place of all but bank, signed and pinned, and of s0, which was seen of late
		s.meet(fmt.Sprintf("t%d.example", i), 1, signed(1), func(g *trust.Sighting) { g.Mail = i == 0 })
	}
	full("one.more.example", trust.ErrFull)
	s = openShop(t, fsys, "/trust", 5) // what had mail is known for that after a start, too
	s.now = start.Add(800 * day)
	for i := range most {
		s.now = s.now.Add(31 * day)
		if v := s.meet(fmt.Sprintf("u%d.example", i), 1, signed(1)); !v.First {
			t.Errorf("%v", v)
		}
	}
	for name, want := range map[string]bool{"bank.example": true, "signed.example": true, "pinned.example": true, "t0.example": true, "held.example": false, "s0.example": false} {
		if state, err := s.Known(domain(t, name)); err != nil || (state != nil) != want {
			t.Errorf("%s: %+v, %v, want %v", name, state, err, want)
		}
	}
}

func TestStore_Judge_Ended(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	s := openShop(t, durabletest.New(), "/trust", 0)
	if _, err := s.Judge(ctx, domain(t, "example.org"), sighting(1)); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

// Many meet few domains at once, of which not all fit: nobody is a first contact twice while a
// domain is remembered, and of two keys that race for a first contact one is held.
func TestStore_Concurrent(t *testing.T) {
	s, err := trust.Open("/trust", trust.Options{FS: durabletest.New(), MaxDomains: 20})
	if err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	var firsts sync.Map
	for i := range 16 {
		group.Go(func() {
			for j := range 40 {
				d := domain(t, fmt.Sprintf("d%d.example", j%10))
				judge(t, s, d, i%2+1, signed(1), &firsts)
				judge(t, s, domain(t, fmt.Sprintf("x%d-%d.example", i, j)), 1, plain(1), new(sync.Map))
				_, _ = s.List()
				_ = s.Stats()
			}
		})
	}
	group.Wait()
	if n := s.Stats().Domains; n > 20+64 {
		t.Errorf("%d domains", n)
	}
	for j := range 10 {
		if state, err := s.Known(domain(t, fmt.Sprintf("d%d.example", j))); err != nil || state == nil || len(state.Keys) != 1 {
			t.Errorf("domain %d: %+v, %v", j, state, err)
		}
	}
}

func judge(t *testing.T, s *trust.Store, d address.Domain, n int, record func(*trust.Sighting), firsts *sync.Map) {
	v, err := s.Judge(context.Background(), d, sighting(n, record))
	if err != nil {
		t.Error(err)
	}
	if v.First {
		if _, again := firsts.LoadOrStore(d, n); again {
			t.Errorf("%s had two first contacts", d)
		}
	}
	if v.Trusted && n != 1 {
		t.Errorf("%s trusts another key than DNSSEC names", d)
	}
}
