package trust_test

import (
	"testing"
	"time"

	"cmtpd/internal/crypt"
	"cmtpd/internal/trust"
)

func TestJudge_FirstContact(t *testing.T) {
	for name, tt := range map[string]struct {
		with func(*trust.Sighting)
		want trust.Provenance
	}{
		"no record":          {func(*trust.Sighting) {}, trust.FirstContact},
		"no record, DNSSEC":  {absentSigned, trust.FirstContact},
		"a record of no key": {plain(), trust.FirstContact},
		"plain DNS":          {plain(2, 1), trust.DNS},
		"DNSSEC":             {signed(1), trust.DNSSEC},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			v := w.meet(1, tt.with)
			if w.trusted(v, tt.want); !v.First {
				t.Error("it is not said to be the first contact")
			}
			if v = w.wait(time.Hour).meet(1, unknown); v.First {
				t.Error("the second contact is said to be the first")
			}
			w.trusted(v, tt.want)
		})
	}
}

// A record that names other keys outranks what a server shows at first contact.
func TestJudge_FirstContact_RecordNamesOther(t *testing.T) {
	w := newWorld(t)
	w.held(w.meet(1, plain(2)), trust.Changed, trust.Week)
	w.trusted(w.meet(2), trust.DNS)
	w = newWorld(t)
	w.held(w.meet(1, signed(2)), trust.Vouched, 0)
	w.trusted(w.meet(2), trust.DNSSEC)
}

// A failure of DNS is no absence: with a record the answer might have been another.
func TestJudge_FirstContact_DNSFails(t *testing.T) {
	w := newWorld(t)
	before := w.state
	w.held(w.meet(1, unknown), trust.Unanswered, 0)
	if w.state != before {
		t.Error("something was remembered")
	}
}

func TestJudge_Unusable(t *testing.T) {
	w := newWorld(t)
	before := w.state
	next, v := w.state.Judge(w.now, trust.Sighting{CMTP1: true, Record: trust.Record{Answer: trust.Absent}})
	if v.Trusted || v.Why != trust.Unusable || next != before {
		t.Errorf("%v", v)
	}
	v = w.meet(1, func(g *trust.Sighting) {
		g.Record = trust.Record{Answer: trust.Present, Authenticated: true, Keys: []crypt.PublicKey{{1: 9}}}
	})
	w.trusted(v, trust.FirstContact)
}

func TestJudge_ProvenanceRises(t *testing.T) {
	w := newWorld(t)
	w.trusted(w.meet(1), trust.FirstContact)
	w.trusted(w.meet(1, plain(1)), trust.DNS)
	w.trusted(w.meet(1), trust.DNS)
	w.trusted(w.meet(1, signed(1)), trust.DNSSEC)
	w.trusted(w.meet(1, plain(1)), trust.DNSSEC)
	w.trusted(w.meet(1, plain(2)), trust.DNSSEC)
	w.trusted(w.meet(1, absentSigned), trust.DNSSEC)
	w.trusted(w.wait(400*day).meet(1), trust.DNSSEC)
	w.pin(1)
	w.trusted(w.meet(1, signed(2)), trust.Operator)
}

// DNSSEC outranks what came from plain DNS or first contact, and its own earlier word.
func TestJudge_DNSSECNamesAnother(t *testing.T) {
	for name, first := range map[string]func(*trust.Sighting){"first contact": unknownButAbsent, "DNS": plain(1), "DNSSEC": signed(1)} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.meet(1, first)
			w.trusted(w.meet(2, signed(2)), trust.DNSSEC)
			w.held(w.meet(1), trust.Vouched, 0)
			w.held(w.meet(1, signed(2)), trust.Vouched, 0)
		})
	}
}

func unknownButAbsent(g *trust.Sighting) { g.Record = trust.Record{Answer: trust.Absent} }

// What plain DNS names counts no more than what the network shows.
func TestJudge_DNSNamesAnother(t *testing.T) {
	w := newWorld(t)
	w.meet(1)
	w.held(w.meet(2, plain(2)), trust.Changed, trust.Week)
	w.held(w.meet(2, plain(1, 2)), trust.Changed, trust.Week)
	w.wait(trust.Week)
	w.trusted(w.meet(2, plain(2)), trust.DNS)
}

func TestJudge_Rotation(t *testing.T) {
	for name, first := range map[trust.Provenance]func(*trust.Sighting){
		trust.FirstContact: unknownButAbsent, trust.DNS: plain(1), trust.DNSSEC: signed(1),
	} {
		t.Run(name.String(), func(t *testing.T) {
			w := newWorld(t)
			w.meet(1, first)
			w.trusted(w.meet(2, unknown, rotations(rotation(t, 1, 2))), name)
			if v := w.meet(1, unknown); v.Trusted || v.Why != trust.Replaced {
				t.Errorf("the old key: %v", v)
			}
			w.trusted(w.meet(3, unknown, rotations(rotation(t, 1, 3), rotation(t, 2, 3))), name)
		})
	}
}

func TestJudge_Rotation_Worthless(t *testing.T) {
	forged := rotation(t, 1, 2)
	forged.OldSignature = rotation(t, 3, 2).OldSignature
	for name, r := range map[string]crypt.SignedRotation{
		"by a stranger": rotation(t, 3, 2), "to another": rotation(t, 1, 3), "of another domain": rotation(t, 1, 2, "example.com"), "forged": forged,
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.meet(1)
			w.held(w.meet(2, rotations(r)), trust.Changed, trust.Week)
		})
	}
	t.Run("by a former key", func(t *testing.T) {
		w := newWorld(t)
		w.meet(1)
		w.meet(2, rotations(rotation(t, 1, 2)))
		w.held(w.meet(3, rotations(rotation(t, 1, 3))), trust.Changed, trust.Week)
	})
}

// A record that still names the old key stands for the new one, for a week.
func TestJudge_Rotation_RecordLate(t *testing.T) {
	w := newWorld(t)
	w.meet(1, signed(1))
	w.meet(2, signed(1), rotations(rotation(t, 1, 2)))
	w.trusted(w.wait(trust.Week-1).meet(2, signed(1)), trust.DNSSEC)
	w.held(w.meet(1, signed(1)), trust.Replaced, 0)
	w.held(w.wait(1).meet(2, signed(1)), trust.Vouched, 0)
	w.trusted(w.meet(1, signed(1)), trust.DNSSEC)
}

// Who meets a domain while its record names the old key and the next one knows both; the old one's word that the
// next one has followed it ends it, before the switch and after it, whatever plain DNS goes on to name.
func TestJudge_Rotation_UnderWay(t *testing.T) {
	switched := rotations(rotation(t, 1, 2))
	for name, meet := range map[string]func(w *world){
		"met before the switch":     func(w *world) { w.meet(1, plain(1, 2)) },
		"met after the switch":      func(w *world) { w.meet(2, plain(1, 2), switched) },
		"met before, and published": func(w *world) { w.meet(1, plain(2, 1)); w.meet(1, plain(1, 2)) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			meet(w)
			w.trusted(w.meet(2, plain(1, 2), switched), trust.DNS)
			w.held(w.meet(1, plain(1, 2)), trust.Replaced, trust.Week)
			w.trusted(w.wait(day).meet(2, plain(2), switched), trust.DNS)
			w.held(w.wait(30*day).meet(1, plain(1)), trust.Replaced, trust.Week)
			if n := len(w.state.Keys); n != 1 {
				t.Errorf("%d keys", n)
			}
		})
	}
	t.Run("DNSSEC says what the keys are", func(t *testing.T) {
		w := newWorld(t)
		w.meet(1, signed(1, 2))
		w.trusted(w.meet(2, signed(1, 2), switched), trust.DNSSEC)
		w.trusted(w.meet(1, signed(1, 2)), trust.DNSSEC)
		w.trusted(w.meet(2, signed(2), switched), trust.DNSSEC)
		w.held(w.meet(1), trust.Vouched, 0)
	})
	t.Run("DNS fails", func(t *testing.T) {
		w := newWorld(t)
		w.meet(1, signed(1, 2))
		w.trusted(w.meet(2, unknown, switched), trust.DNSSEC)
		w.held(w.meet(1, unknown), trust.Replaced, 0)
	})
	t.Run("pinned", func(t *testing.T) {
		w := newWorld(t)
		w.pin(1)
		w.pin(2)
		w.trusted(w.meet(2, signed(1, 2), switched), trust.Operator)
		w.held(w.meet(1, signed(1, 2)), trust.Pinned, 0)
	})
	t.Run("no word of the old key", func(t *testing.T) {
		w := newWorld(t)
		w.meet(1, plain(1, 2))
		w.trusted(w.meet(2, plain(2), rotations(rotation(t, 3, 2), rotation(t, 1, 3))), trust.DNS)
		w.trusted(w.meet(1, plain(2)), trust.DNS)
	})
}

// Where a successor is remembered, only it may follow at once: a thief of the live key
// can sign with that.
func TestJudge_Successor(t *testing.T) {
	for name, tt := range map[string]struct {
		first func(*trust.Sighting)
		until time.Duration
	}{"DNS": {plain(1), trust.Week}, "DNSSEC": {signed(1), 0}} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.meet(1, tt.first, successor(5))
			w.held(w.meet(3, unknown, rotations(rotation(t, 1, 3))), trust.Succession, tt.until)
			provenance := w.meet(1, unknown).Provenance
			w.trusted(w.meet(5, unknown), provenance)
			w.held(w.meet(1, unknown), trust.Replaced, tt.until)
		})
	}
}

// What plain DNS announces later binds the old key, but is nothing on its own.
func TestJudge_Successor_PlainLater(t *testing.T) {
	w := newWorld(t)
	w.meet(1)
	w.meet(1, plain(), successor(5))
	w.held(w.meet(5, plain(), successor(5)), trust.Changed, trust.Week)
	w.held(w.meet(3, rotations(rotation(t, 1, 3))), trust.Succession, trust.Week)
	w.trusted(w.meet(5, rotations(rotation(t, 1, 5))), trust.DNS)
}

// Another announcement takes a week, and what DNSSEC announces is not for plain DNS to change.
func TestJudge_Successor_Changes(t *testing.T) {
	w := newWorld(t)
	w.meet(1, plain(1), successor(5))
	w.meet(1, plain(1), successor(6))
	w.wait(trust.Week-1).meet(1, plain(1), successor(6))
	w.held(w.meet(6, unknown), trust.Changed, trust.Week)
	w.wait(1).meet(1, plain(1), successor(6))
	if s := w.state.Successor; s.Key.PublicKey != public(6) || s.Alone {
		t.Fatalf("%+v", s)
	}
	w.meet(1, signed(1), successor(7)) // DNSSEC outranks DNS
	if s := w.state.Successor; s.Key.PublicKey != public(7) || !s.Alone || s.Provenance != trust.DNSSEC {
		t.Fatalf("%+v", s)
	}
	w.meet(1, plain(1), successor(8))
	w.wait(10*day).meet(1, plain(1), successor(8))
	w.meet(1, signed(1), successor(9))
	w.wait(6*day).meet(1, signed(1)) // silence starts it again
	w.meet(1, signed(1), successor(9))
	w.wait(6*day).meet(1, signed(1), successor(9))
	if s := w.state.Successor; s.Key.PublicKey != public(7) {
		t.Fatalf("%+v", s)
	}
	w.wait(day).meet(1, signed(1), successor(9))
	w.trusted(w.meet(9, unknown), trust.DNSSEC)
}

// A successor that plain DNS has announced does not follow a key that DNSSEC vouches for.
func TestJudge_Successor_TooWeak(t *testing.T) {
	w := newWorld(t)
	w.meet(1, plain(1), successor(5))
	w.meet(1, signed(1))
	w.held(w.meet(5, plain(1), successor(5)), trust.Vouched, 0)
	w.held(w.meet(5, plain(1), successor(5)), trust.Vouched, 0)
	w = newWorld(t)
	w.meet(1, plain(1), successor(5))
	w.pin(1)
	w.held(w.meet(5, signed(1), successor(5)), trust.Pinned, 0)
	w.held(w.meet(5, signed(1), successor(5)), trust.Pinned, 0)
}

// With a successor announced under DNSSEC, DNSSEC itself needs a week to name another key.
func TestJudge_Successor_DNSSECNamesAnother(t *testing.T) {
	w := newWorld(t)
	w.meet(1, signed(1), successor(5))
	w.held(w.meet(2, signed(2), successor(5)), trust.Vouched, trust.Week)
	w.trusted(w.meet(1, signed(2), successor(5)), trust.DNSSEC)
	w.wait(trust.Week - 1)
	w.held(w.meet(2, unknown), trust.Vouched, 1)
	w.trusted(w.wait(1).meet(2, signed(2), successor(5)), trust.DNSSEC)
	w.held(w.meet(1, signed(2)), trust.Vouched, 0)

	w = newWorld(t)
	w.meet(1, signed(1), successor(5))
	w.meet(1, signed(1, 2), successor(5))
	w.wait(6*day).meet(1, signed(1), successor(5)) // not named: it starts again
	w.meet(1, signed(1, 2), successor(5))
	w.held(w.wait(6*day).meet(2, signed(1, 2), successor(5)), trust.Vouched, day)
	w.trusted(w.wait(day).meet(2, signed(1, 2), successor(5)), trust.DNSSEC)
	w.trusted(w.meet(1), trust.DNSSEC)
	w.trusted(w.meet(5), trust.DNSSEC)
}

func TestJudge_SevenDays(t *testing.T) {
	for name, first := range map[string]func(*trust.Sighting){"first contact": unknownButAbsent, "DNS": plain(1)} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.meet(1, first, successor(5))
			w.held(w.wait(day).meet(2), trust.Changed, trust.Week)
			w.held(w.wait(trust.Week-1).meet(2), trust.Changed, 1)
			w.trusted(w.wait(1).meet(2), trust.FirstContact)
			w.trusted(w.meet(2), trust.FirstContact)
			w.held(w.meet(1), trust.Changed, trust.Week)
		})
	}
}

// What starts the seven days again, and what ends them only with an answer of DNS.
func TestJudge_SevenDays_Again(t *testing.T) {
	for name, between := range map[string]func(w *world){
		"the old key is seen":     func(w *world) { w.meet(1) },
		"a third key is seen":     func(w *world) { w.meet(3) },
		"DNS names the old key":   func(w *world) { w.meet(2, plain(1)) },
		"DNS names it, and 2 not": func(w *world) { w.meet(3, plain(1)) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.meet(1)
			w.meet(2)
			w.wait(6 * day)
			between(w)
			w.held(w.meet(2), trust.Changed, trust.Week)
			w.held(w.wait(trust.Week-1).meet(2), trust.Changed, 1)
			w.trusted(w.wait(1).meet(2), trust.FirstContact)
		})
	}
	w := newWorld(t)
	w.meet(1)
	w.meet(2)
	w.held(w.wait(8*day).meet(2, unknown), trust.Changed, -day)
	w.trusted(w.meet(2), trust.FirstContact)
}

func TestJudge_SevenDays_ClockSetBack(t *testing.T) {
	w := newWorld(t)
	w.meet(1)
	w.wait(-30 * day)
	w.meet(2)
	w.wait(31 * day) // one day has passed
	if v := w.meet(2); v.Trusted || !v.Until.Equal(start.Add(trust.Week)) {
		t.Errorf("%v", v)
	}
	w.wait(-400 * day)
	if v := w.meet(2); v.Trusted || !v.Until.Equal(start.Add(trust.Week)) {
		t.Errorf("%v", v)
	}
}

// Time replaces nothing that DNSSEC or the operator vouches for, nor under enforce.
func TestJudge_SevenDays_Never(t *testing.T) {
	for why, first := range map[trust.Reason]func(w *world){
		trust.Vouched:  func(w *world) { w.meet(1, signed(1)) },
		trust.Pinned:   func(w *world) { w.pin(1) },
		trust.Enforced: func(w *world) { w.meet(1); w.meet(1, signed(), enforce(400*day)) },
	} {
		t.Run(string(why), func(t *testing.T) {
			w := newWorld(t)
			first(w)
			for range 360 {
				w.held(w.wait(day).meet(2, plain(2), successor(2)), why, 0)
			}
		})
	}
}

func TestJudge_Enforce(t *testing.T) {
	w := newWorld(t)
	w.held(w.meet(1, signed(), enforce(day)), trust.Enforced, 0)
	w.held(w.meet(1, plain(1)), trust.Enforced, 0)
	w.held(w.wait(day).meet(1, absentSigned), trust.Enforced, 0) // the record is gone, its word is not
	w.trusted(w.wait(1).meet(1), trust.FirstContact)

	w = newWorld(t)
	w.held(w.meet(1, signed(2), enforce(day)), trust.Enforced, 0)
	w.trusted(w.meet(2), trust.DNSSEC)
	w.meet(2, plain(2), enforce(50*day)) // only DNSSEC makes it count
	if !w.state.Enforce.Equal(w.now.Add(day)) {
		t.Errorf("%v", w.state.Enforce)
	}
	w.meet(2, signed(2)) // mode=testing
	if w.state.IsEnforced(w.now) {
		t.Errorf("%v", w.state.Enforce)
	}
	w.meet(2, signed(2), enforce(trust.MaxEnforce+1))
	if !w.state.Enforce.Equal(w.now.Add(trust.MaxEnforce)) {
		t.Errorf("%v", w.state.Enforce)
	}
}

// Section 15.6: there is no way back from CMTP 1.
func TestJudge_NoWayBack(t *testing.T) {
	w := newWorld(t)
	w.trusted(w.meet(1, without), trust.FirstContact)
	w.trusted(w.meet(1, without), trust.FirstContact)
	w.trusted(w.meet(1), trust.FirstContact)
	w.held(w.meet(1, without), trust.Downgraded, 0)
	w.held(w.wait(100*day).meet(2, without, signed(2)), trust.Downgraded, 0)
	if h := w.state.Holds(w.now); len(h) != 1 || h[0].Why != trust.Downgraded || !h[0].Since.Equal(start) {
		t.Errorf("%+v", h)
	}
	w.trusted(w.meet(1), trust.FirstContact)
	if h := w.state.Holds(w.now); len(h) != 0 {
		t.Errorf("%+v", h)
	}
	w = newWorld(t)
	w.meet(1, without)
	w.meet(2) // not trusted: it proves nothing of the domain
	w.trusted(w.meet(1, without), trust.FirstContact)
}

func TestJudge_SeveralKeys(t *testing.T) {
	w := newWorld(t)
	w.meet(1, plain(1, 2, 3))
	for n := 1; n <= 3; n++ {
		w.trusted(w.meet(n), trust.DNS)
	}
	w.trusted(w.meet(4, rotations(rotation(t, 2, 4))), trust.DNS)
	for _, n := range []int{1, 3, 4} {
		w.trusted(w.meet(n), trust.DNS)
	}
	w.held(w.meet(2), trust.Replaced, trust.Week)
	w.held(w.meet(7, plain(1, 7)), trust.Changed, trust.Week)

	w = newWorld(t)
	many := []int{1, 2, 3, 4, 5, 6, 7, 8, 9}
	w.trusted(w.meet(trust.MaxKeys, signed(many...)), trust.DNSSEC)
	w.held(w.meet(trust.MaxKeys+1, signed(many...)), trust.Vouched, 0)
}

// A successor takes the place of all keys but those that DNSSEC still names.
func TestJudge_SeveralKeys_Successor(t *testing.T) {
	w := newWorld(t)
	w.meet(1, plain(1, 2), successor(5))
	w.trusted(w.meet(5, plain(1, 2)), trust.DNS)
	w.held(w.meet(2, plain(1, 2)), trust.Replaced, trust.Week)
	w = newWorld(t)
	w.meet(1, signed(1, 2), successor(5))
	w.trusted(w.meet(5, signed(2, 5), rotations(rotation(t, 1, 5))), trust.DNSSEC)
	w.trusted(w.meet(2), trust.DNSSEC)
	w.held(w.meet(1), trust.Vouched, 0)
}

func TestJudge_Pinned(t *testing.T) {
	w := newWorld(t)
	w.meet(1, signed(1), successor(5))
	w.pin(2)
	w.held(w.meet(1, signed(1)), trust.Pinned, 0)
	w.held(w.meet(5, signed(5), successor(5)), trust.Pinned, 0)
	w.trusted(w.meet(2, signed(1)), trust.Operator)
	w.pin(3) // a second server
	w.trusted(w.meet(2), trust.Operator)
	w.trusted(w.meet(3), trust.Operator)
	w.trusted(w.meet(4, rotations(rotation(t, 3, 4))), trust.Operator)
}

func TestJudge_Bounds(t *testing.T) {
	w := newWorld(t)
	w.meet(1, signed(1), successor(5))
	w.meet(1, signed(1, 2), successor(5))
	for n := 10; n < 10+2*trust.MaxPending; n++ {
		w.wait(time.Second).meet(n, unknown)
	}
	if n := len(w.state.Pending); n != trust.MaxPending {
		t.Errorf("%d keys wait", n)
	}
	w.wait(trust.Week)
	w.trusted(w.meet(2, signed(1, 2), successor(5)), trust.DNSSEC) // strangers did not push it out
	w.wait(trust.PendingLife - trust.Week - time.Minute).meet(2)
	if n := len(w.state.Pending); n != trust.MaxPending-1 {
		t.Errorf("%d keys wait", n)
	}
	w.wait(time.Hour).meet(2)
	if n := len(w.state.Pending); n != 0 {
		t.Errorf("%d keys wait after a month", n)
	}
	w = newWorld(t)
	w.meet(1)
	for n := 1; n < 3*trust.MaxFormer; n++ {
		w.trusted(w.meet(n+1, rotations(rotation(t, n, n+1))), trust.FirstContact)
	}
	if n := len(w.state.Former); n != trust.MaxFormer {
		t.Errorf("%d former keys", n)
	}
}
