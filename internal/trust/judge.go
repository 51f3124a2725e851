package trust

import (
	"slices"
	"time"

	"cmtpd/internal/crypt"
)

// A judgement is one sighting on its way into a state.
type judgement struct {
	*State
	record    Record
	rotations []crypt.SignedRotation
	now       time.Time
	first     bool     // no key was known before
	named     []Public // by the record
}

// Judge returns what a sighting at that time means, and what is remembered from then on:
// s itself when the sighting leaves no trace. It does not change s.
func (s *State) Judge(at time.Time, g Sighting) (*State, Verdict) {
	shown := Public{g.Shown}
	if s.find(shown) < 0 && !usable(shown) {
		return s, Verdict{Why: Unusable}
	}
	j := &judgement{State: s.clone(), record: g.Record, rotations: g.Rotations, first: len(s.Keys) == 0}
	j.now = j.tick(at)
	if s.CMTP1 && !g.CMTP1 {
		// Section 15.6. What comes this way may come from anybody, so nothing else of it counts.
		if j.Without.IsZero() {
			j.Without = j.now
		}
		return j.State, Verdict{Why: Downgraded, Since: j.Without}
	}
	if j.first && g.Record.Answer == Unknown {
		return s, Verdict{Why: Unanswered}
	}
	j.Pending = slices.DeleteFunc(j.Pending, func(p Pending) bool { return j.now.Sub(p.Last) > pendingLife })
	j.readRecord()
	v := j.judgeShown(shown)
	j.learnSuccessor()
	j.Mail = j.Mail || v.Trusted && g.Mail
	if v.Trusted && g.CMTP1 {
		j.CMTP1, j.Without = true, time.Time{}
	}
	return j.State, v
}

func usable(key Public) bool {
	_, err := crypt.ParsePublicKey(key.PublicKey[:])
	return err == nil
}

// vouched reports whether there is a record that DNSSEC vouches for.
func (j *judgement) vouched() bool { return j.record.Answer == Present && j.record.Authenticated }

// readRecord takes what the record says of the domain's keys of now.
func (j *judgement) readRecord() {
	if j.record.Answer == Unknown {
		return
	}
	j.named = j.namedKeys()
	if j.vouched() {
		j.Enforce = time.Time{}
		if j.record.Enforce {
			j.Enforce = j.now.Add(min(max(j.record.MaxAge, 0), maxEnforce))
		}
	}
	switch {
	case j.pinned(): // the operator outranks DNS
	case j.vouched() && len(j.named) > 0:
		j.readVouched()
	case j.record.Answer == Present && !j.strong():
		j.readPlain()
	}
	if j.strong() {
		// A successor is never vouched for by less than the keys that it may follow.
		if j.Successor != nil && j.Successor.Provenance < DNSSEC {
			j.Successor = nil
		}
		if j.Candidate != nil && j.Candidate.Provenance < DNSSEC {
			j.Candidate = nil
		}
	}
	known := slices.ContainsFunc(j.named, func(k Public) bool { return j.find(k) >= 0 })
	for i := range j.Pending {
		p := &j.Pending[i]
		if named := slices.Contains(j.named, p.Key); !named && known {
			p.Only = time.Time{} // a record that names a known key, and not this one, is a sight of that one
		} else if named && j.vouched() {
			continue
		}
		p.Vouched = time.Time{}
	}
}

// namedKeys returns the keys in the record. One that another has followed within a week
// stands for that one: records change later than servers.
func (j *judgement) namedKeys() (named []Public) {
	if j.record.Answer != Present {
		return nil
	}
	for _, key := range j.record.Keys[:min(len(j.record.Keys), MaxKeys)] {
		k := Public{key}
		if j.find(k) < 0 && !usable(k) {
			continue
		}
		for _, f := range j.Former { // in the order in which they were followed
			if f.Key == k && j.now.Sub(f.At) < Week {
				k = f.By
			}
		}
		if !slices.Contains(named, k) {
			named = append(named, k)
		}
	}
	return named
}

// readPlain takes a record that nobody vouches for, of a domain for whose keys nobody does.
func (j *judgement) readPlain() {
	for _, k := range j.named {
		if i := j.find(k); i >= 0 {
			j.Keys[i].Provenance = max(j.Keys[i].Provenance, DNS)
		} else if j.first {
			j.Keys = append(j.Keys, Key{Key: k, Provenance: DNS, First: j.now})
			j.settle(k)
		}
	}
}

// readVouched takes a record that DNSSEC vouches for: it is the domain's own word, and says
// what all of its keys are. Only where the domain has announced a successor the same way,
// another key than that waits for a week.
func (j *judgement) readVouched() {
	waits := !j.first && j.Successor != nil && j.Successor.Provenance == DNSSEC
	var keys []Key
	for _, k := range j.named {
		if i := j.find(k); i >= 0 {
			j.Keys[i].Provenance = DNSSEC
			keys = append(keys, j.Keys[i])
			continue
		}
		if waits {
			if k == j.Successor.Key {
				continue // it follows when it is shown
			}
			p := j.pend(k, j.now)
			if p.Vouched.IsZero() {
				p.Vouched = j.now
			}
			if j.now.Sub(p.Vouched) < Week {
				continue
			}
		}
		keys = append(keys, Key{Key: k, Provenance: DNSSEC, First: j.now})
	}
	if len(keys) == 0 {
		return
	}
	j.Keys = keys
	for _, k := range keys {
		j.settle(k.Key)
	}
}

// settle forgets that a key which is trusted now was anything else.
func (j *judgement) settle(key Public) {
	j.dropPending(key)
	j.Former = slices.DeleteFunc(j.Former, func(f Former) bool { return f.Key == key })
	if j.Successor != nil && j.Successor.Key == key {
		j.Successor = nil
	}
	if j.Candidate != nil && j.Candidate.Key == key {
		j.Candidate = nil
	}
}

// judgeShown judges the key that the server has shown.
func (j *judgement) judgeShown(shown Public) Verdict {
	for i := range j.Pending {
		if j.Pending[i].Key != shown {
			j.Pending[i].Only = time.Time{}
		}
	}
	switch {
	case j.find(shown) >= 0:
		j.relieve(shown)
	case len(j.Keys) == 0 && !j.IsEnforced(j.now):
		j.Keys = []Key{{Key: shown, Provenance: FirstContact, First: j.now}}
	case j.follows(shown):
		j.follow(shown)
	default:
		return j.hold(shown)
	}
	return j.trusted(shown)
}

func (j *judgement) trusted(shown Public) Verdict {
	k := &j.Keys[j.find(shown)]
	k.Last = j.now
	j.settle(shown)
	return Verdict{Trusted: true, Provenance: k.Provenance, First: j.first}
}

// follows reports whether a key that is not known may follow a known one at once.
func (j *judgement) follows(shown Public) bool {
	switch s := j.Successor; {
	case s == nil:
		return j.isNamed(shown)
	case s.Key == shown:
		return s.Alone || j.isNamed(shown)
	}
	return false
}

// isNamed reports whether a known key has named this one as the one that follows it.
func (j *judgement) isNamed(shown Public) bool {
	return slices.ContainsFunc(j.Keys, func(k Key) bool { return j.hasNamed(k.Key, shown) })
}

func (j *judgement) hasNamed(old, shown Public) bool {
	return slices.ContainsFunc(j.rotations, func(r crypt.SignedRotation) bool {
		return r.Domain == j.Domain && r.Old == old.PublicKey && r.New == shown.PublicKey && r.Verify() == nil
	})
}

// follow lets a key follow those that have named it. An announced successor follows all but
// those that DNSSEC still vouches for: who lost a key to a thief cannot sign with it.
func (j *judgement) follow(shown Public) {
	announced := j.Successor != nil
	next := Key{Key: shown, First: j.now}
	if announced {
		next.Provenance = j.Successor.Provenance
	}
	keys := j.Keys
	j.Keys = nil
	for _, k := range keys {
		kept := !announced || j.vouched() && slices.Contains(j.named, k.Key)
		if kept && !j.hasNamed(k.Key, shown) {
			j.Keys = append(j.Keys, k)
			continue
		}
		next.Provenance = max(next.Provenance, k.Provenance)
		j.former(k.Key, shown)
	}
	if len(j.Keys) == MaxKeys {
		j.Keys = slices.Delete(j.Keys, 0, 1)
	}
	if len(j.Keys) == len(keys) { // an announced one that follows none of them
		next.Provenance = max(next.Provenance, j.strength())
	}
	j.Keys = append(j.Keys, next)
}

// relieve lets a known key follow the other known ones that have named it: who met the domain when its record named
// both has both, and nothing but this ends the old one. What DNSSEC says that the keys are stays so.
func (j *judgement) relieve(shown Public) {
	var rest []Key
	best := j.Keys[j.find(shown)].Provenance
	for _, k := range j.Keys {
		published := !j.pinned() && j.vouched() && slices.Contains(j.named, k.Key)
		if k.Key == shown || published || !j.hasNamed(k.Key, shown) {
			rest = append(rest, k)
			continue
		}
		best = max(best, k.Provenance)
		j.former(k.Key, shown)
	}
	j.Keys = rest
	j.Keys[j.find(shown)].Provenance = best
}

// former notes that a key has followed another one.
func (j *judgement) former(old, by Public) {
	if len(j.Former) == maxFormer {
		j.Former = slices.Delete(j.Former, 0, 1)
	}
	j.Former = append(j.Former, Former{old, by, j.now})
}

// hold remembers a key that is not trusted, until time makes it so.
func (j *judgement) hold(shown Public) Verdict {
	p := j.pend(shown, j.now)
	if p.Held.IsZero() {
		p.Held = j.now
	}
	if p.Only.IsZero() {
		p.Only = j.now
	}
	if !j.strong() && j.now.Sub(p.Only) >= Week && j.record.Answer != Unknown {
		// The operator who lost everything has come back; what was announced is lost, too.
		k := Key{Key: shown, Provenance: FirstContact, First: p.First}
		if slices.Contains(j.named, shown) {
			k.Provenance = DNS
		}
		j.Keys, j.Successor, j.Candidate = []Key{k}, nil, nil
		return j.trusted(shown)
	}
	p.Why = j.why(shown)
	return Verdict{Why: p.Why, Since: p.Held, Until: j.until(*p)}
}

func (j *judgement) why(shown Public) Reason {
	switch {
	case j.pinned():
		return Pinned
	case j.Successor != nil && j.isNamed(shown):
		return Succession
	case slices.ContainsFunc(j.Former, func(f Former) bool { return f.Key == shown }):
		return Replaced
	case j.IsEnforced(j.now):
		return Enforced
	case j.strong():
		return Vouched
	}
	return Changed
}

// learnSuccessor takes what the record announces, after the shown key was judged: what it
// announces is for the key of now.
func (j *judgement) learnSuccessor() {
	rank := DNS
	if j.record.Authenticated {
		rank = DNSSEC
	}
	announced := Public{j.record.Successor}
	switch s := j.Successor; {
	case j.record.Answer == Unknown, j.pinned(), rank == DNS && j.strong(), s != nil && rank < s.Provenance:
		// no word, or not enough of one
	case j.record.Answer == Absent, j.find(announced) >= 0, !usable(announced):
		j.Candidate = nil // and what was announced before stays
	case s == nil, rank > s.Provenance:
		j.Successor = &Successor{announced, rank, j.now, rank == DNSSEC || j.first}
		j.Candidate = nil
	case s.Key == announced:
		s.Alone = s.Alone || rank == DNSSEC
		j.Candidate = nil
	case j.Candidate == nil || j.Candidate.Key != announced:
		j.Candidate = &Successor{announced, rank, j.now, false}
	case j.now.Sub(j.Candidate.First) >= Week:
		j.Successor = &Successor{announced, rank, j.now, rank == DNSSEC}
		j.Candidate = nil
	}
}
