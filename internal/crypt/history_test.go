package crypt_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"testing"

	"cmtpd/internal/crypt"
)

// histories are good ones, by whom they were asked for.
func (p people) histories(t testing.TB) map[string]struct {
	asked string
	h     *crypt.History
} {
	first, rotation := p.first(t), p.rotation(t)
	other := rotation
	other.Old = p.bob.Public()
	work := first
	work.Name = named(t, "alice+work@cref.example")
	alice, server := first.Name, named(t, "@cref.example")
	return map[string]struct {
		asked string
		h     *crypt.History
	}{
		"one key":             {"alice@cref.example", p.history(first)},
		"two keys":            {"alice@cref.example", p.history(first, first.Follow(p.alice2.Public(), time1))},
		"three keys":          {"alice@cref.example", p.threeKeys(t)},
		"after a reset":       {"alice@cref.example", p.history(first, lost(first, p.bob.Public(), time2), afterReset(p, first))},
		"base of subaddress":  {"alice+x@cref.example", p.threeKeys(t)},
		"key of a subaddress": {"alice+work@cref.example", p.history(work)},
		"base has a plus":     {"alice+work+x@cref.example", p.threeKeys(t)},
		"server":              {"@cref.example", p.ownHistory(t)},
		"rotated server":      {"@cref.example", p.ownHistory(t, rotation.Sign(p.former, p.server), other.Sign(p.bob, p.server))},
		"alias":               {"sales@other.example", p.aliased(p.threeKeys(t), named(t, "sales@other.example"), alice)},
		"alias of subaddress": {"sales+x@cref.example", p.aliased(p.threeKeys(t), named(t, "sales+x@cref.example"), alice)},
		"postmaster": {"postmaster@cref.example",
			p.aliased(p.ownHistory(t, rotation.Sign(p.former, p.server)), named(t, "postmaster@cref.example"), server)},
	}
}

func afterReset(p people, first crypt.KeyStatement) crypt.KeyStatement {
	reset := lost(first, p.bob.Public(), time2)
	return reset.Follow(p.alice3.Public(), time3)
}

func TestHistory_Verify(t *testing.T) {
	p := newPeople(t)
	for what, c := range p.histories(t) {
		if err := c.h.Verify(named(t, c.asked), p.server.Public()); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		b := c.h.Append([]byte("before"))
		again, err := crypt.ParseHistory(b[6:])
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		if got := again.Append(nil); !bytes.Equal(got, b[6:]) {
			t.Errorf("%s: encodes again to\n%x, want\n%x", what, got, b[6:])
		}
		if err := again.Verify(named(t, c.asked), p.server.Public()); err != nil {
			t.Errorf("%s, parsed: %v", what, err)
		}
		if *again.Current() != c.h.Keys[len(c.h.Keys)-1].KeyStatement {
			t.Errorf("%s: the statement in force is %+v", what, again.Current())
		}
		if err := c.h.Verify(named(t, c.asked), p.bob.Public()); err == nil {
			t.Errorf("%s: another server's key verifies it", what)
		}
	}
}

func TestHistory_Append(t *testing.T) {
	p := newPeople(t)
	first := p.first(t)
	h := p.history(first, first.Follow(p.alice2.Public(), time2))
	w1 := wireKey(name("cref.example", "alice"), p.alice.Public(), time1, 0, [32]byte{})
	w2 := wireKey(name("cref.example", "alice"), p.alice2.Public(), time2, 0, h.Keys[0].Digest())
	want := wire(uint32(0), uint32(2),
		w1, make([]byte, 64), p.server.Sign(w1),
		w2, p.alice.Sign(w2), p.server.Sign(w2), uint32(0))
	if got := h.Append(nil); !bytes.Equal(got, want) {
		t.Errorf("two keys encode to\n%x, want\n%x", got, want)
	}
	r := p.rotation(t)
	h = p.aliased(p.ownHistory(t, r.Sign(p.former, p.server)), named(t, "postmaster@cref.example"), named(t, "@cref.example"))
	alias := wire("CMTP-1 alias\x00", name("cref.example", "postmaster"), name("cref.example", ""))
	own := wireKey(name("cref.example", ""), p.server.Public(), time2, 0, [32]byte{})
	rotation := wire("CMTP-1 rotation\x00", "cref.example\x00", p.former.Public(), p.server.Public(), time2)
	want = wire(uint32(1), alias, p.server.Sign(alias), uint32(1), own, make([]byte, 64), p.server.Sign(own),
		uint32(1), rotation, p.former.Sign(rotation), p.server.Sign(rotation))
	if got := h.Append(nil); !bytes.Equal(got, want) {
		t.Errorf("the server's encodes to\n%x, want\n%x", got, want)
	}
}

// TestHistory_Verify_Refused has histories whose signatures are all good ones, but
// for the case's own.
func TestHistory_Verify_Refused(t *testing.T) {
	p := newPeople(t)
	first := p.first(t)
	second := first.Follow(p.alice2.Public(), time2)
	third := second.Follow(p.alice3.Public(), time3)
	bobs := crypt.KeyStatement{Name: named(t, "bob@cref.example"), Key: p.bob.Public(), NotBefore: time1}
	changed := func(s crypt.KeyStatement, f func(s *crypt.KeyStatement)) crypt.KeyStatement { f(&s); return s }
	spoiled := func(h *crypt.History, f func(h *crypt.History)) *crypt.History { f(h); return h }
	moved := changed(second, func(s *crypt.KeyStatement) { s.Name = named(t, "alice@other.example") })
	older := changed(second, func(s *crypt.KeyStatement) { s.NotBefore = time1 - 1 })
	foreign := changed(second, func(s *crypt.KeyStatement) { s.Previous = bobs.Digest() })
	reset := lost(first, p.alice2.Public(), time2)
	alice, sales, server := first.Name, named(t, "sales@cref.example"), named(t, "@cref.example")
	for what, c := range map[string]struct {
		asked string
		h     *crypt.History
		want  error
	}{
		"no keys":                   {"alice@cref.example", &crypt.History{}, crypt.ErrHistory},
		"no keys behind an alias":   {"sales@cref.example", p.aliased(&crypt.History{}, sales, alice), crypt.ErrHistory},
		"another account":           {"bob@cref.example", p.history(first), crypt.ErrHistory},
		"another domain":            {"alice@other.example", p.history(first), crypt.ErrHistory},
		"a subaddress's for base":   {"alice@cref.example", p.history(changed(first, func(s *crypt.KeyStatement) { s.Name = named(t, "alice+x@cref.example") })), crypt.ErrHistory},
		"another subaddress":        {"alice+y@cref.example", p.history(changed(first, func(s *crypt.KeyStatement) { s.Name = named(t, "alice+x@cref.example") })), crypt.ErrHistory},
		"the server's for a user":   {"alice@cref.example", p.ownHistory(t), crypt.ErrHistory},
		"a user's for the server":   {"@cref.example", p.history(first), crypt.ErrHistory},
		"begins with the second":    {"alice@cref.example", p.history(second), crypt.ErrHistory},
		"begins with a reset":       {"alice@cref.example", p.history(changed(first, func(s *crypt.KeyStatement) { s.Reset = true })), crypt.ErrHistory},
		"first signed by old":       {"alice@cref.example", spoiled(p.history(first), func(h *crypt.History) { h.Keys[0].Old[0] = 1 }), crypt.ErrHistory},
		"wrong digest":              {"alice@cref.example", p.history(first, foreign), crypt.ErrHistory},
		"two first ones":            {"alice@cref.example", p.history(first, first), crypt.ErrHistory},
		"one left out":              {"alice@cref.example", p.history(first, third), crypt.ErrHistory},
		"exchanged order":           {"alice@cref.example", p.history(second, first), crypt.ErrHistory},
		"exchanged order behind":    {"alice@cref.example", p.history(first, third, second), crypt.ErrHistory},
		"the same twice":            {"alice@cref.example", p.history(first, second, second), crypt.ErrHistory},
		"other name":                {"alice@cref.example", p.history(first, moved), crypt.ErrHistory},
		"falling time":              {"alice@cref.example", p.history(first, older), crypt.ErrHistory},
		"falling time of a reset":   {"alice@cref.example", p.history(first, resetting(older)), crypt.ErrHistory},
		"no old signature":          {"alice@cref.example", spoiled(p.history(first, second), func(h *crypt.History) { h.Keys[1].Old = crypt.Signature{} }), crypt.ErrHistory},
		"foreign old signature":     {"alice@cref.example", spoiled(p.history(first, second), func(h *crypt.History) { h.Keys[1].Old = p.bob.Sign(second.Append(nil)) }), crypt.ErrHistory},
		"signed by the new":         {"alice@cref.example", spoiled(p.history(first, second), func(h *crypt.History) { h.Keys[1].Old = p.alice2.Sign(second.Append(nil)) }), crypt.ErrHistory},
		"reset signed by old":       {"alice@cref.example", spoiled(p.history(first, reset), func(h *crypt.History) { h.Keys[1].Old = p.alice.Sign(reset.Append(nil)) }), crypt.ErrHistory},
		"reset of another":          {"alice@cref.example", p.history(first, resetting(foreign)), crypt.ErrHistory},
		"first by another server":   {"alice@cref.example", spoiled(p.history(first, second), func(h *crypt.History) { h.Keys[0].Server = p.former.Sign(first.Append(nil)) }), crypt.ErrUnsigned},
		"last by another server":    {"alice@cref.example", spoiled(p.history(first, second), func(h *crypt.History) { h.Keys[1].Server = p.former.Sign(second.Append(nil)) }), crypt.ErrUnsigned},
		"not signed by the server":  {"alice@cref.example", spoiled(p.history(first), func(h *crypt.History) { h.Keys[0].Server = crypt.Signature{} }), crypt.ErrUnsigned},
		"alias of another account":  {"info@cref.example", p.aliased(p.history(first), sales, alice), crypt.ErrHistory},
		"alias of another domain":   {"sales@other.example", p.aliased(p.history(first), sales, alice), crypt.ErrHistory},
		"alias of the base":         {"sales+x@cref.example", p.aliased(p.history(first), sales, alice), crypt.ErrHistory},
		"alias to somebody else":    {"sales@cref.example", p.aliased(p.history(first), sales, bobs.Name), crypt.ErrHistory},
		"alias to a subaddress":     {"sales@cref.example", p.aliased(p.history(first), sales, named(t, "alice+x@cref.example")), crypt.ErrHistory},
		"alias not signed":          {"sales@cref.example", spoiled(p.aliased(p.history(first), sales, alice), func(h *crypt.History) { h.Alias.Server = crypt.Signature{} }), crypt.ErrUnsigned},
		"alias by another server":   {"sales@cref.example", spoiled(p.aliased(p.history(first), sales, alice), func(h *crypt.History) { h.Alias.Server = p.former.Sign(h.Alias.Alias.Append(nil)) }), crypt.ErrUnsigned},
		"alias to another's server": {"sales@cref.example", p.aliased(p.ownHistory(t), sales, named(t, "@other.example")), crypt.ErrHistory},
		"alias to a wrong server":   {"sales@cref.example", p.aliased(p.history(changed(first, func(s *crypt.KeyStatement) { s.Name = server })), sales, server), crypt.ErrHistory},
		"server has another key":    {"@cref.example", p.history(changed(p.own(t), func(s *crypt.KeyStatement) { s.Key = p.former.Public() })), crypt.ErrHistory},
		"server has two keys":       {"@cref.example", p.history(changed(p.own(t), func(s *crypt.KeyStatement) { s.Key = p.former.Public() }), serversNext(t, p)), crypt.ErrHistory},
	} {
		if err := c.h.Verify(named(t, c.asked), p.server.Public()); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", what, err, c.want)
		}
	}
}

// resetting makes a reset of s itself.
func resetting(s crypt.KeyStatement) crypt.KeyStatement { s.Reset = true; return s }

// serversNext follows a first statement of the server's former key.
func serversNext(t testing.TB, p people) crypt.KeyStatement {
	s := p.own(t)
	s.Key = p.former.Public()
	return s.Follow(p.server.Public(), time3)
}

func TestHistory_Verify_Rotations(t *testing.T) {
	p := newPeople(t)
	good := p.rotation(t)
	unsigned := func(f func(r *crypt.SignedRotation)) crypt.SignedRotation {
		r := good.Sign(p.former, p.server)
		f(&r)
		return r
	}
	elsewhere, onward := good, good
	elsewhere.Domain = named(t, "@other.example").Domain
	onward.New = p.bob.Public()
	for what, c := range map[string]struct {
		r    crypt.SignedRotation
		want error
	}{
		"another domain":    {elsewhere.Sign(p.former, p.server), crypt.ErrHistory},
		"to another key":    {onward.Sign(p.former, p.bob), crypt.ErrHistory},
		"by the old only":   {unsigned(func(r *crypt.SignedRotation) { r.NewSignature = crypt.Signature{} }), crypt.ErrUnsigned},
		"by the new only":   {unsigned(func(r *crypt.SignedRotation) { r.OldSignature = crypt.Signature{} }), crypt.ErrUnsigned},
		"twice by the old":  {good.Sign(p.former, p.former), crypt.ErrUnsigned},
		"twice by the new":  {good.Sign(p.server, p.server), crypt.ErrUnsigned},
		"the other way":     {good.Sign(p.server, p.former), crypt.ErrUnsigned},
		"at another time":   {unsigned(func(r *crypt.SignedRotation) { r.When++ }), crypt.ErrUnsigned},
		"for another key":   {unsigned(func(r *crypt.SignedRotation) { r.Old = p.bob.Public() }), crypt.ErrUnsigned},
		"of another domain": {unsigned(func(r *crypt.SignedRotation) { r.Domain = elsewhere.Domain }), crypt.ErrHistory},
	} {
		for _, h := range []*crypt.History{
			p.ownHistory(t, c.r),
			p.ownHistory(t, good.Sign(p.former, p.server), c.r),
		} {
			if err := h.Verify(named(t, "@cref.example"), p.server.Public()); !errors.Is(err, c.want) {
				t.Errorf("%s: %v, want %v", what, err, c.want)
			}
		}
	}
	h := p.history(p.first(t))
	h.Rotations = append(h.Rotations, good.Sign(p.former, p.server))
	if err := h.Verify(named(t, "alice@cref.example"), p.server.Public()); !errors.Is(err, crypt.ErrHistory) {
		t.Errorf("rotations in a user's history: %v", err)
	}
	h = p.ownHistory(t, good.Sign(p.former, p.server))
	if !h.Follows(p.former.Public()) || h.Follows(p.server.Public()) || h.Follows(p.bob.Public()) {
		t.Error("Follows does not say whom the server's key follows")
	}
}

// TestHistory_Flipped turns over one bit of every byte, in histories that have all kinds
// of statements between them.
func TestHistory_Flipped(t *testing.T) {
	p := newPeople(t)
	all := p.histories(t)
	for _, what := range []string{"two keys", "after a reset", "postmaster"} {
		c := all[what]
		b := c.h.Append(nil)
		for i := range b {
			b[i] ^= 1 << (i % 8)
			h, err := crypt.ParseHistory(b)
			if err == nil {
				err = h.Verify(named(t, c.asked), p.server.Public())
			}
			if err == nil {
				t.Errorf("%s: byte %d may be changed", what, i)
			}
			b[i] ^= 1 << (i % 8)
		}
	}
}

func TestHistory_Since(t *testing.T) {
	p := newPeople(t)
	h := p.threeKeys(t)
	for i := range h.Keys {
		later, ok := h.Since(h.Keys[i].Digest())
		if !ok || len(later) != 2-i {
			t.Errorf("after statement %d: %d, %v", i, len(later), ok)
		}
		for j := range later {
			if later[j] != h.Keys[i+1+j] {
				t.Errorf("after statement %d comes %+v", i, later[j])
			}
		}
	}
	own := p.own(t)
	for _, unknown := range [][32]byte{{}, own.Digest()} {
		if later, ok := h.Since(unknown); ok || later != nil {
			t.Errorf("after an unknown statement: %d, %v", len(later), ok)
		}
	}
}

func refuseHistory(t *testing.T, what string, b []byte) {
	t.Helper()
	if h, err := crypt.ParseHistory(b); !errors.Is(err, crypt.ErrStatement) || h != nil {
		t.Errorf("%s: parses to %+v, %v", what, h, err)
	}
}

func TestParseHistory(t *testing.T) {
	p := newPeople(t)
	for what, c := range p.histories(t) {
		b := c.h.Append(nil)
		for n := range b {
			refuseHistory(t, fmt.Sprintf("%s, %d bytes of %d", what, n, len(b)), b[:n])
		}
		refuseHistory(t, what+" and a byte", append(bytes.Clone(b), 0))
	}
	sig := make([]byte, 64)
	key := wire(wireKey(name("cref.example", ""), p.server.Public(), time1, 0, [32]byte{}), sig, sig)
	alias := func(from, to string) []byte {
		return wire(uint32(1), "CMTP-1 alias\x00", from, to, sig, uint32(1), key, uint32(0))
	}
	rotation := func(domain string, before, after crypt.PublicKey, when crypt.UnixTime) []byte {
		return wire(uint32(0), uint32(1), key, uint32(1), "CMTP-1 rotation\x00", domain, "\x00", before, after, when, sig, sig)
	}
	good, before, after := name("cref.example", "sales"), p.former.Public(), p.server.Public()
	for what, b := range map[string][]byte{"alias": alias(good, good), "rotation": rotation("cref.example", before, after, lastTime)} {
		if _, err := crypt.ParseHistory(b); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	for what, names := range badNames() {
		refuseHistory(t, "alias of "+what, alias(names, good))
		refuseHistory(t, "alias to "+what, alias(good, names))
		domain, account, _ := bytes.Cut([]byte(names), []byte{0})
		if string(account) == "alice\x00" {
			refuseHistory(t, "rotation, "+what, rotation(string(domain), before, after, time1))
		}
		refuseHistory(t, what, wire(uint32(0), uint32(1), wireKey(names, after, time1, 0, [32]byte{}), sig, sig, uint32(0)))
	}
	for what, k := range badKeys(t, after) {
		refuseHistory(t, "rotation from "+what, rotation("cref.example", k, after, time1))
		refuseHistory(t, "rotation to "+what, rotation("cref.example", before, k, time1))
	}
	for what, b := range map[string][]byte{
		"alias of the server":    alias(name("cref.example", ""), good),
		"alias, another label":   bytes.Replace(alias(good, good), []byte(" alias"), []byte(" aliaz"), 1),
		"rotation past the time": rotation("cref.example", before, after, lastTime+1),
		"rotation, other label":  bytes.Replace(rotation("cref.example", before, after, time1), []byte("rotation"), []byte("Rotation"), 1),
		"a key for an alias":     wire(uint32(1), key, uint32(1), key, uint32(0)),
	} {
		refuseHistory(t, what, b)
	}
}

// TestParseHistory_Counts has every count at its limits and one past them.
func TestParseHistory_Counts(t *testing.T) {
	p := newPeople(t)
	name := longest(t)
	s := crypt.SignedKey{KeyStatement: crypt.KeyStatement{Name: name, Key: p.bob.Public()}}
	r := crypt.SignedRotation{Rotation: crypt.Rotation{Domain: name.Domain, Old: p.former.Public(), New: p.server.Public()}}
	h := &crypt.History{Alias: &crypt.SignedAlias{Alias: crypt.Alias{From: name, To: name}}}
	for range crypt.MaxKeyStatements {
		h.Keys = append(h.Keys, s)
	}
	for range crypt.MaxRotations {
		h.Rotations = append(h.Rotations, r)
	}
	b := h.Append(nil)
	if len(h.Keys) != 256 || len(h.Rotations) != 64 || len(b) != crypt.MaxHistory {
		t.Errorf("%d keys and %d rotations are %d bytes, not %d", len(h.Keys), len(h.Rotations), len(b), crypt.MaxHistory)
	}
	if _, err := crypt.ParseHistory(b); err != nil {
		t.Errorf("the longest history: %v", err)
	}
	many := *h
	many.Keys = append(many.Keys, s)
	refuseHistory(t, "257 key statements", many.Append(nil))
	many = *h
	many.Rotations = append(many.Rotations, r)
	refuseHistory(t, "65 rotations", many.Append(nil))
	many = *h
	many.Keys = nil
	refuseHistory(t, "no key statement", many.Append(nil))
	alias := b[4 : len(b)-len((&crypt.History{Keys: h.Keys, Rotations: h.Rotations}).Append(nil))+4]
	refuseHistory(t, "two aliases", wire(uint32(2), alias, b[4:]))
	for _, n := range []uint32{2, 1 << 31, 1<<32 - 1} {
		refuseHistory(t, "aliases that are not there", binary.BigEndian.AppendUint32(nil, n))
	}
}

// TestHistory_Verify_Longest walks down a history of as many keys as may be.
func TestHistory_Verify_Longest(t *testing.T) {
	p := newPeople(t)
	keys := []*crypt.PrivateKey{p.alice, p.alice2}
	all := []crypt.KeyStatement{p.first(t)}
	for len(all) < crypt.MaxKeyStatements {
		all = append(all, all[len(all)-1].Follow(keys[len(all)%2].Public(), time2))
	}
	h, err := crypt.ParseHistory(p.history(all...).Append(nil))
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Verify(all[0].Name, p.server.Public()); err != nil {
		t.Error(err)
	}
	h.Keys[255].Old[0] ^= 1
	if err := h.Verify(all[0].Name, p.server.Public()); !errors.Is(err, crypt.ErrHistory) {
		t.Errorf("the last signature is not looked at: %v", err)
	}
}
