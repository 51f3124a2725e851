package trust_test

import (
	"bytes"
	"encoding/json"
	"sync"
	"testing"
	"time"

	"cmtpd/internal/address"
	"cmtpd/internal/crypt"
	"cmtpd/internal/trust"
)

const day = 24 * time.Hour

var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func domain(tb testing.TB, name string) address.Domain {
	tb.Helper()
	d, err := address.ParseDomain(name)
	if err != nil {
		tb.Fatal(err)
	}
	return d
}

// secret returns the secret key number n; the public half is public(n).
func secret(n int) *crypt.PrivateKey {
	k, err := crypt.PrivateKeyFromSeed(bytes.Repeat([]byte{byte(n)}, crypt.SeedSize))
	if err != nil {
		panic(err)
	}
	return k
}

// publics and signedRotations are made once: the model asks for thousands.
var publics, signedRotations sync.Map

func public(n int) crypt.PublicKey {
	k, ok := publics.Load(n)
	if !ok {
		k, _ = publics.LoadOrStore(n, secret(n).Public())
	}
	return k.(crypt.PublicKey)
}

// rotation is signed by both keys, for example.org unless another domain is named.
func rotation(tb testing.TB, from, to int, name ...string) crypt.SignedRotation {
	tb.Helper()
	r := crypt.Rotation{Domain: domain(tb, append(name, "example.org")[0]), Old: public(from), New: public(to), When: 1}
	s, ok := signedRotations.Load(r)
	if !ok {
		s, _ = signedRotations.LoadOrStore(r, r.Sign(secret(from), secret(to)))
	}
	return s.(crypt.SignedRotation)
}

func rotations(r ...crypt.SignedRotation) func(*trust.Sighting) {
	return func(g *trust.Sighting) { g.Rotations = r }
}

// plain and signed are records that name keys.
func plain(keys ...int) func(*trust.Sighting) { return record(false, keys) }

func signed(keys ...int) func(*trust.Sighting) { return record(true, keys) }

func record(vouched bool, keys []int) func(*trust.Sighting) {
	return func(g *trust.Sighting) {
		g.Record = trust.Record{Answer: trust.Present, Authenticated: vouched}
		for _, k := range keys {
			g.Record.Keys = append(g.Record.Keys, public(k))
		}
	}
}

func successor(n int) func(*trust.Sighting) {
	return func(g *trust.Sighting) { g.Record.Successor = public(n) }
}

func enforce(maxAge time.Duration) func(*trust.Sighting) {
	return func(g *trust.Sighting) { g.Record.Enforce, g.Record.MaxAge = true, maxAge }
}

func unknown(g *trust.Sighting) { g.Record = trust.Record{} }

func absentSigned(g *trust.Sighting) {
	g.Record = trust.Record{Answer: trust.Absent, Authenticated: true}
}

func without(g *trust.Sighting) { g.CMTP1 = false }

// A world is a domain that is met, and a clock.
type world struct {
	t     *testing.T
	state *trust.State
	now   time.Time
}

func newWorld(t *testing.T) *world {
	return &world{t, &trust.State{Domain: domain(t, "example.org")}, start}
}

func (w *world) wait(d time.Duration) *world { w.now = w.now.Add(d); return w }

// meet meets a server that shows a key, in the channel and with no record unless told
// otherwise. What is remembered has to survive its file, and what was remembered before
// must not change.
func (w *world) meet(shown int, with ...func(*trust.Sighting)) trust.Verdict {
	w.t.Helper()
	g := trust.Sighting{Shown: public(shown), CMTP1: true, Record: trust.Record{Answer: trust.Absent}}
	for _, f := range with {
		f(&g)
	}
	before, _ := json.Marshal(w.state)
	next, v := w.state.Judge(w.now, g)
	if after, _ := json.Marshal(w.state); !bytes.Equal(before, after) {
		w.t.Fatalf("a state has changed under whoever holds it: %s, %s", before, after)
	}
	w.take(next)
	return v
}

func (w *world) take(next *trust.State) {
	w.t.Helper()
	data, err := trust.Encode(next)
	if err == nil {
		_, err = trust.Recode(next.Domain, data)
	}
	if err != nil {
		w.t.Fatalf("the file of %+v: %v", next, err)
	}
	w.state = next
}

func (w *world) trusted(v trust.Verdict, p trust.Provenance) {
	w.t.Helper()
	if !v.Trusted || v.Provenance != p {
		w.t.Fatalf("got %v, want it trusted by %v", v, p)
	}
}

// held wants a hold; until counts from now, 0 is never.
func (w *world) held(v trust.Verdict, why trust.Reason, until time.Duration) {
	w.t.Helper()
	var want time.Time
	if until != 0 {
		want = w.now.Add(until)
	}
	if v.Trusted || v.Why != why || !v.Until.Equal(want) {
		w.t.Fatalf("got %v (%s, until %v), want it held for %s until %v", v, v.Why, v.Until, why, want)
	}
}

func (w *world) pin(n int) {
	w.t.Helper()
	next, err := w.state.Pin(w.now, trust.Public{PublicKey: public(n)})
	if err != nil {
		w.t.Fatal(err)
	}
	w.take(next)
}
