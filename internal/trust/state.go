package trust

import (
	"slices"
	"time"

	"cmtpd/internal/address"
	"cmtpd/internal/crypt"
)

// A State is what is remembered of a domain. A State that others may have is never
// changed: every operation returns a new one. All times are UTC.
type State struct {
	Domain address.Domain `json:"domain"`
	// Latest is the latest time that anything was seen at. No time that is remembered
	// is before an earlier sighting's, so that a clock that is set back ends no hold early.
	Latest    time.Time  `json:"latest"`
	CMTP1     bool       `json:"cmtp1"`               // it was spoken, and is required from then on
	Without   time.Time  `json:"without,omitzero"`    // since when it is met without that
	Enforce   time.Time  `json:"enforce,omitzero"`    // until when mode=enforce is in force
	Mail      bool       `json:"mail,omitzero"`       // it was met to be given mail
	Keys      []Key      `json:"keys,omitempty"`      // that its servers may show
	Successor *Successor `json:"successor,omitempty"` // which alone may follow at once
	Candidate *Successor `json:"candidate,omitempty"` // published in the place of Successor since its First
	Pending   []Pending  `json:"pending,omitempty"`   // what was seen, and is not trusted
	Former    []Former   `json:"former,omitempty"`    // what has been followed, the latest last
	Actions   []Action   `json:"actions,omitempty"`   // of the operator, the latest last
}

// A Key is one that a domain's servers may show.
type Key struct {
	Key        Public     `json:"key"`
	Provenance Provenance `json:"provenance"`
	First      time.Time  `json:"first"`
	Last       time.Time  `json:"last,omitzero"` // zero: published, and not shown yet
}

// A Successor is a key that a domain has announced for later.
type Successor struct {
	Key        Public     `json:"key"`
	Provenance Provenance `json:"provenance"` // DNS or DNSSEC
	First      time.Time  `json:"first"`
	// Alone: it may follow without the old key's signature. Whoever controls plain DNS
	// could otherwise announce a key of their own, and show it at once.
	Alone bool `json:"alone"`
}

// A Pending is a key that was seen and is not trusted.
type Pending struct {
	Key   Public    `json:"key"`
	First time.Time `json:"first"`
	Last  time.Time `json:"last"`
	Held  time.Time `json:"held,omitzero"` // when a server first showed it; zero: it was only published
	Why   Reason    `json:"why,omitempty"` // it is held
	// Only is since when no other key of the domain was seen; zero: another was seen last.
	Only time.Time `json:"only,omitzero"`
	// Vouched is since when every record names it and DNSSEC vouches for that.
	Vouched time.Time `json:"vouched,omitzero"`
}

// A Former is a key that another one has followed.
type Former struct {
	Key Public    `json:"key"`
	By  Public    `json:"by"`
	At  time.Time `json:"at"`
}

// An Action is something that the operator did.
type Action struct {
	At  time.Time `json:"at"`
	Do  string    `json:"do"`           // accept, pin or forget
	Key Public    `json:"key,omitzero"` // none where all was forgotten
}

// A Hold is why a domain's mail waits.
type Hold struct {
	Key   Public    `json:"key,omitzero"` // none where the domain is held
	Why   Reason    `json:"why"`
	Since time.Time `json:"since,omitzero"`
	Last  time.Time `json:"last,omitzero"`
	Until time.Time `json:"until,omitzero"` // as in Verdict
}

func (s *State) clone() *State {
	c := *s
	c.Keys, c.Pending = slices.Clone(s.Keys), slices.Clone(s.Pending)
	c.Former, c.Actions = slices.Clone(s.Former), slices.Clone(s.Actions)
	if s.Successor != nil {
		c.Successor = new(*s.Successor)
	}
	if s.Candidate != nil {
		c.Candidate = new(*s.Candidate)
	}
	return &c
}

// tick takes the time of an event, and returns the time that it counts as.
func (s *State) tick(at time.Time) time.Time {
	if at = at.UTC().Round(0); at.After(s.Latest) {
		s.Latest = at
	}
	return s.Latest
}

// find returns the index of a key that the domain's servers may show, or -1.
func (s *State) find(key Public) int {
	return slices.IndexFunc(s.Keys, func(k Key) bool { return k.Key == key })
}

// Provenance returns why a key is taken for the domain's; zero if it is not.
func (s *State) Provenance(key crypt.PublicKey) Provenance {
	if i := s.find(Public{key}); i >= 0 {
		return s.Keys[i].Provenance
	}
	return 0
}

func (s *State) findPending(key Public) int {
	return slices.IndexFunc(s.Pending, func(p Pending) bool { return p.Key == key })
}

func (s *State) dropPending(key Public) {
	s.Pending = slices.DeleteFunc(s.Pending, func(p Pending) bool { return p.Key == key })
}

// pend returns the pending key, which it adds if need be. The least recently seen one makes
// room, of those that DNSSEC does not vouch for if there are any: strangers can show as many
// as they like. It is valid until the next call.
func (s *State) pend(key Public, now time.Time) *Pending {
	if i := s.findPending(key); i >= 0 {
		s.Pending[i].Last = now
		return &s.Pending[i]
	}
	if len(s.Pending) >= maxPending {
		oldest := 0
		for i, p := range s.Pending {
			o := s.Pending[oldest]
			if stranger := p.Vouched.IsZero(); stranger == o.Vouched.IsZero() && p.Last.Before(o.Last) || stranger && !o.Vouched.IsZero() {
				oldest = i
			}
		}
		s.Pending = slices.Delete(s.Pending, oldest, oldest+1)
	}
	s.Pending = append(s.Pending, Pending{Key: key, First: now, Last: now})
	return &s.Pending[len(s.Pending)-1]
}

// strength is the best that vouches for any of the domain's keys.
func (s *State) strength() (best Provenance) {
	for _, k := range s.Keys {
		best = max(best, k.Provenance)
	}
	return best
}

func (s *State) pinned() bool { return s.strength() == Operator }

// IsEnforced reports whether the domain's last word, as far as it counts, is mode=enforce.
func (s *State) IsEnforced(at time.Time) bool { return !s.Enforce.IsZero() && !at.After(s.Enforce) }

// strong reports that time alone replaces no key of the domain.
func (s *State) strong() bool { return s.strength() >= DNSSEC || s.IsEnforced(s.Latest) }

// until returns when a pending key may become trusted by itself.
func (s *State) until(p Pending) (at time.Time) {
	if !s.strong() && !p.Only.IsZero() {
		at = p.Only.Add(Week)
	}
	if v := p.Vouched.Add(Week); !p.Vouched.IsZero() && !s.pinned() && (at.IsZero() || v.Before(at)) {
		at = v
	}
	return at
}

// Holds returns why the domain's mail waits. What was not seen for a month is over.
func (s *State) Holds(now time.Time) (holds []Hold) {
	for _, p := range s.Pending {
		if !p.Held.IsZero() && now.Sub(p.Last) <= pendingLife {
			holds = append(holds, Hold{p.Key, p.Why, p.Held, p.Last, s.until(p)})
		}
	}
	if !s.Without.IsZero() {
		holds = append(holds, Hold{Why: Downgraded, Since: s.Without, Last: s.Latest})
	}
	return holds
}
