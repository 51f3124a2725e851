package trust_test

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"cmtpd/internal/crypt"
	"cmtpd/internal/trust"
)

// fewKeys is how many keys a drawn domain has: fewer than are remembered, so that the bounds, which
// have a test of their own, do not come into it.
const fewKeys = 5

// A sight is a sighting as it is drawn.
type sight struct {
	at          time.Time
	shown       int
	cmtp1       bool
	answer      trust.Answer
	signed      bool
	named       []int
	next        int // announced; 0 is none
	enforce     bool
	maxAge      time.Duration
	namedBy     []int // keys whose signature names the shown one
	act         string
	live, known []int // after the record was read; of those, what it named
	waits       []int // named by DNSSEC, and not taken for that
	trusted     bool
}

func drawSight(t *rapid.T) sight {
	key := rapid.IntRange(1, fewKeys)
	g := sight{
		shown: key.Draw(t, "shown"), cmtp1: rapid.IntRange(0, 9).Draw(t, "part I") > 0,
		answer: trust.Answer(rapid.IntRange(0, 3).Draw(t, "answer")), signed: rapid.Bool().Draw(t, "signed"),
	}
	if g.answer >= trust.Present {
		g.answer = trust.Present
		g.named = rapid.SliceOfNDistinct(key, 0, 3, rapid.ID[int]).Draw(t, "named")
		g.next = rapid.IntRange(0, fewKeys).Draw(t, "announced")
		g.enforce = rapid.IntRange(0, 3).Draw(t, "enforce") == 0
		g.maxAge = time.Duration(rapid.IntRange(0, 20).Draw(t, "max-age")) * day
	}
	g.namedBy = rapid.SliceOfNDistinct(key, 0, 2, rapid.ID[int]).Draw(t, "rotations")
	return g
}

func (g *sight) sighting(tb testing.TB) trust.Sighting {
	s := trust.Sighting{Shown: public(g.shown), CMTP1: g.cmtp1, Record: trust.Record{Answer: g.answer, Authenticated: g.signed, Enforce: g.enforce, MaxAge: g.maxAge}}
	for _, n := range g.named {
		s.Record.Keys = append(s.Record.Keys, public(n))
	}
	if g.next != 0 {
		s.Record.Successor = public(g.next)
	}
	for _, n := range g.namedBy {
		s.Rotations = append(s.Rotations, rotation(tb, n, g.shown))
	}
	return s
}

// A naive is the rules again, told from the whole history wherever they speak of time.
type naive struct {
	now     time.Time
	keys    map[int]trust.Provenance
	history []sight
	next    *announced
	other   *announced
	former  []followed
}

type announced struct {
	key   int
	rank  trust.Provenance
	since time.Time
	alone bool
}

type followed struct {
	old, by int
	at      time.Time
}

func has(list []int, n int) bool {
	for _, m := range list {
		if m == n {
			return true
		}
	}
	return false
}

func (m *naive) best() (p trust.Provenance) {
	for _, q := range m.keys {
		p = max(p, q)
	}
	return p
}

// enforced is the last word of DNSSEC.
func (m *naive) enforced() bool {
	for i := len(m.history) - 1; i >= 0; i-- {
		if g := m.history[i]; g.act == "forget" {
			return false
		} else if g.act == "" && g.answer == trust.Present && g.signed {
			return g.enforce && !m.now.After(g.at.Add(g.maxAge))
		}
	}
	return false
}

func (m *naive) strong() bool { return m.best() >= trust.DNSSEC || m.enforced() }

func (m *naive) spoken() bool {
	for i := len(m.history) - 1; i >= 0 && m.history[i].act != "forget"; i-- {
		if m.history[i].trusted && m.history[i].cmtp1 {
			return true
		}
	}
	return false
}

// alone is since when the shown key of the last sight has been the only one seen.
func (m *naive) alone() (since time.Time) {
	last := m.history[len(m.history)-1]
	touched := last.at
	for i := len(m.history) - 1; i >= 0; i-- {
		g := m.history[i]
		if i < len(m.history)-1 && g.trusted {
			break
		}
		if g.act != "" {
			if g.act == "forget" || g.shown == last.shown {
				break
			}
			continue
		}
		if g.shown != last.shown || touched.Sub(g.at) > trust.PendingLife {
			break
		}
		since, touched = g.at, g.at
		if len(g.known) > 0 && !has(g.named, g.shown) {
			break
		}
	}
	return since
}

// vouched is since when DNSSEC has named a key without a break; zero if it does not.
func (m *naive) vouched(key int) (since time.Time) {
	touched := m.now
	for i := len(m.history) - 1; i >= 0; i-- {
		g := m.history[i]
		if g.act == "forget" || g.act != "" && g.shown == key || has(g.live, key) {
			break
		}
		if g.act != "" {
			continue
		}
		if has(g.waits, key) || g.shown == key && !g.trusted {
			if touched.Sub(g.at) > trust.PendingLife {
				break
			}
			touched = g.at
		}
		if g.answer == trust.Unknown {
			continue
		}
		if g.answer != trust.Present || !g.signed || !has(g.named, key) {
			break
		}
		if has(g.waits, key) {
			since = g.at
		}
	}
	return since
}

func (m *naive) settle(key int) {
	var rest []followed
	for _, f := range m.former {
		if f.old != key {
			rest = append(rest, f)
		}
	}
	m.former = rest
	if m.next != nil && m.next.key == key {
		m.next = nil
	}
	if m.other != nil && m.other.key == key {
		m.other = nil
	}
}

// judge returns whether the key is trusted, by what, and if not, until when by itself.
func (m *naive) judge(g sight) (ok bool, by trust.Provenance, until time.Time) {
	first := len(m.keys) == 0
	if m.spoken() && !g.cmtp1 {
		m.advance(g.at)
		return false, 0, time.Time{}
	}
	if first && g.answer == trust.Unknown {
		return false, 0, time.Time{}
	}
	m.advance(g.at)
	g.at = m.now
	var named []int
	for _, k := range g.named {
		for _, f := range m.former {
			if f.old == k && m.now.Sub(f.at) < trust.Week {
				k = f.by
			}
		}
		if !has(named, k) {
			named = append(named, k)
		}
	}
	g.named = named
	m.history = append(m.history, g)
	last := &m.history[len(m.history)-1]
	m.read(last, first)
	for k := range m.keys {
		last.live = append(last.live, k)
		if has(last.named, k) {
			last.known = append(last.known, k)
		}
	}
	if ok = m.shown(last, first); ok {
		last.trusted = true
		by = m.keys[g.shown]
		m.settle(g.shown)
	} else {
		if !m.strong() {
			until = m.alone().Add(trust.Week)
		}
		if v := m.vouched(g.shown); !v.IsZero() && m.best() < trust.Operator && (until.IsZero() || v.Add(trust.Week).Before(until)) {
			until = v.Add(trust.Week)
		}
	}
	m.learn(last, first)
	return ok, by, until
}

func (m *naive) advance(at time.Time) {
	if at.After(m.now) {
		m.now = at
	}
}

func (m *naive) read(g *sight, first bool) {
	vouched := g.answer == trust.Present && g.signed
	switch {
	case g.answer != trust.Present || m.best() == trust.Operator:
	case vouched && len(g.named) > 0:
		keys := make(map[int]trust.Provenance)
		for _, k := range g.named {
			if _, known := m.keys[k]; !known && !first && m.next != nil && m.next.rank == trust.DNSSEC {
				if k == m.next.key {
					continue
				}
				g.waits = append(g.waits, k)
				if m.now.Sub(m.vouched(k)) < trust.Week {
					continue
				}
			}
			keys[k] = trust.DNSSEC
		}
		if len(keys) > 0 {
			m.keys = keys
			for k := range keys {
				m.settle(k)
			}
		}
	case !m.strong():
		for _, k := range g.named {
			if p, known := m.keys[k]; known || first {
				m.keys[k] = max(p, trust.DNS)
				m.settle(k)
			}
		}
	}
	if g.answer != trust.Unknown && m.strong() {
		if m.next != nil && m.next.rank < trust.DNSSEC {
			m.next = nil
		}
		if m.other != nil && m.other.rank < trust.DNSSEC {
			m.other = nil
		}
	}
}

func (m *naive) shown(g *sight, first bool) bool {
	if _, known := m.keys[g.shown]; known {
		pinned := m.best() == trust.Operator
		for _, k := range slices.Sorted(maps.Keys(m.keys)) {
			if k == g.shown || !has(g.namedBy, k) || !pinned && g.answer == trust.Present && g.signed && has(g.named, k) {
				continue
			}
			m.keys[g.shown] = max(m.keys[g.shown], m.keys[k])
			delete(m.keys, k)
			m.former = append(m.former, followed{k, g.shown, m.now})
		}
		return true
	}
	if len(m.keys) == 0 && !m.enforced() {
		m.keys[g.shown] = trust.FirstContact
		return true
	}
	var by []int // known keys that name it
	for k := range m.keys {
		if has(g.namedBy, k) {
			by = append(by, k)
		}
	}
	isNext := m.next != nil && m.next.key == g.shown
	if m.next == nil && len(by) > 0 || isNext && (m.next.alone || len(by) > 0) {
		p := trust.Provenance(0)
		if isNext {
			p = max(m.next.rank, m.best()*b(len(m.keys) > 0))
		}
		for k, q := range m.keys {
			stays := !isNext || g.answer == trust.Present && g.signed && has(g.named, k)
			if stays && !has(by, k) {
				continue
			}
			p = max(p, q)
			delete(m.keys, k)
			m.former = append(m.former, followed{k, g.shown, m.now})
		}
		m.keys[g.shown] = p
		return true
	}
	if !m.strong() && g.answer != trust.Unknown && m.now.Sub(m.alone()) >= trust.Week {
		m.keys = map[int]trust.Provenance{g.shown: trust.FirstContact}
		if has(g.named, g.shown) {
			m.keys[g.shown] = trust.DNS
		}
		m.next, m.other = nil, nil
		return true
	}
	return false
}

func b(yes bool) trust.Provenance {
	if yes {
		return 1
	}
	return 0
}

func (m *naive) learn(g *sight, first bool) {
	rank := trust.DNS
	if g.signed {
		rank = trust.DNSSEC
	}
	_, known := m.keys[g.next]
	switch {
	case g.answer == trust.Unknown || m.best() == trust.Operator || rank == trust.DNS && m.strong() || m.next != nil && m.next.rank > rank:
	case g.answer == trust.Absent || known || g.next == 0:
		m.other = nil
	case m.next == nil || m.next.rank < rank:
		m.next, m.other = &announced{g.next, rank, m.now, first || rank == trust.DNSSEC}, nil
	case m.next.key == g.next:
		m.next.alone = m.next.alone || rank == trust.DNSSEC
		m.other = nil
	case m.other == nil || m.other.key != g.next:
		m.other = &announced{g.next, rank, m.now, false}
	case m.now.Sub(m.other.since) >= trust.Week:
		m.next, m.other = &announced{g.next, rank, m.now, rank == trust.DNSSEC}, nil
	}
}

func (m *naive) do(act string, key int, at time.Time) {
	if act == "forget" {
		m.now = at
		m.keys = make(map[int]trust.Provenance)
	} else {
		m.advance(at)
		keys := map[int]trust.Provenance{key: trust.Operator}
		for k, p := range m.keys {
			if act == "pin" && p == trust.Operator {
				keys[k] = p
			}
		}
		m.keys = keys
	}
	m.next, m.other, m.former = nil, nil, nil
	m.history = append(m.history, sight{act: act, shown: key, at: m.now})
}

// The rules and their naive restatement agree on every verdict of every history.
func TestJudge_Model(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := &world{t: t, state: &trust.State{Domain: domain(t, "example.org")}, now: start}
		m := &naive{keys: make(map[int]trust.Provenance)}
		for range rapid.IntRange(1, 40).Draw(rt, "length") {
			w.wait(time.Duration(rapid.SampledFrom([]int{0, 1, 24, 72, 7 * 24, 32 * 24, -48}).Draw(rt, "hours")) * time.Hour)
			if act := rapid.IntRange(0, 60).Draw(rt, "act"); act < 3 {
				drawAct(rt, w, m, act)
				continue
			}
			g := drawSight(rt)
			g.at = w.now
			v := w.meet(g.shown, func(s *trust.Sighting) { *s = g.sighting(t) })
			ok, by, until := m.judge(g)
			if v.Trusted != ok || v.Provenance != by || !v.Until.Equal(until) {
				rt.Fatalf("%+v: got %v (until %v), the model says %v, %v, until %v", g, v, v.Until, ok, by, until)
			}
		}
	})
}

func drawAct(rt *rapid.T, w *world, m *naive, act int) {
	key := rapid.IntRange(1, fewKeys).Draw(rt, "key")
	switch act {
	case 0:
		w.pin(key)
		m.do("pin", key, w.now)
	case 1:
		w.take(w.state.Forget(w.now))
		m.do("forget", 0, w.now)
	case 2:
		f, err := trust.ParseFingerprint(public(key).String())
		if err != nil {
			rt.Fatal(err)
		}
		if next, err := w.state.Accept(w.now, f); err == nil {
			w.take(next)
			m.do("accept", key, w.now)
		}
	}
}

// An attacker who has the network and plain DNS, and neither an old key nor DNSSEC nor the operator,
// is never trusted for a domain that one of these vouches for, and for no other within seven days after
// the domain's own server was met, however often the clock is set back and right again in between.
func TestJudge_Attacker(t *testing.T) {
	const mallory = fewKeys + 1
	for _, by := range []trust.Provenance{trust.FirstContact, trust.DNS, trust.DNSSEC, trust.Operator} {
		for _, enforced := range []bool{false, true} {
			t.Run(fmt.Sprintf("%v/%v", by, enforced), func(t *testing.T) {
				rapid.Check(t, func(rt *rapid.T) { attack(t, rt, by, enforced, mallory) })
			})
		}
	}
}

func attack(t *testing.T, rt *rapid.T, by trust.Provenance, enforced bool, mallory int) {
	w := &world{t: t, state: &trust.State{Domain: domain(t, "example.org")}, now: start}
	honest := map[trust.Provenance]func(*trust.Sighting){trust.FirstContact: unknownButAbsent, trust.DNS: plain(1), trust.DNSSEC: signed(1), trust.Operator: plain(1)}[by]
	announces := successor(rapid.SampledFrom([]int{2, 1}).Draw(rt, "successor")) // its own key announces nothing
	w.meet(1, honest, announces)
	if by == trust.Operator {
		w.pin(1)
	}
	if enforced {
		w.meet(1, signed(), enforce(trust.MaxEnforce))
	}
	truth, met := w.now, w.now
	for range rapid.IntRange(1, 60).Draw(rt, "length") {
		truth = truth.Add(time.Duration(rapid.IntRange(0, 60).Draw(rt, "hours")) * time.Hour)
		w.now = truth
		if rapid.IntRange(0, 9).Draw(rt, "honest") == 0 {
			if w.meet(1, honest, announces).Trusted { // until the domain is lost
				met = truth
			}
			continue
		}
		w.now = truth.Add(-time.Duration(rapid.SampledFrom([]int{0, 0, 0, 1, 30, 900}).Draw(rt, "set back")) * day)
		g := drawSight(rt)
		g.shown, g.cmtp1, g.signed = mallory, true, false
		g.namedBy = nil
		s := g.sighting(t)
		if rapid.Bool().Draw(rt, "names herself") {
			s.Record.Keys = append(s.Record.Keys, public(mallory))
		}
		if rapid.Bool().Draw(rt, "announces herself") {
			s.Record.Successor = public(mallory)
		}
		forged := rotation(t, mallory, mallory)
		forged.Old = public(1)
		s.Rotations = []crypt.SignedRotation{forged, rotation(t, 3, mallory)}
		v := w.meet(mallory, func(into *trust.Sighting) { *into = s })
		if v.Trusted && (by >= trust.DNSSEC || enforced || truth.Sub(met) < trust.Week) {
			rt.Fatalf("%v after the domain was met: %v", truth.Sub(met), v)
		}
		if v.Trusted {
			return
		}
	}
}
