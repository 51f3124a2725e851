package identity

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"cmtpd/internal/address"
	"cmtpd/internal/config"
	"cmtpd/internal/crypt"
	"cmtpd/internal/discovery"
)

const (
	// lookTime bounds all that is asked of DNS by one command.
	lookTime = 5 * time.Second
	// RecordTTL is the TTL of the records that are printed, in seconds.
	RecordTTL = 3600
	// stringSize is the longest string of a TXT record (RFC 1035 section 3.3).
	stringSize = 255
)

// A DomainView is what a local domain should publish at _cmtp, and the form of --json.
type DomainView struct {
	Domain string         `json:"domain"`
	Record string         `json:"record"`        // the text
	Zone   string         `json:"zone"`          // the same as a line of a zone file
	DNS    *PublishedView `json:"dns,omitempty"` // where DNS was asked
}

// A PublishedView is what DNS says that a local domain publishes.
type PublishedView struct {
	Right         bool     `json:"right"`
	Record        string   `json:"record,omitempty"` // as far as this version understands it
	TTL           int64    `json:"ttl"`              // seconds for which the resolver gave the answer
	Authenticated bool     `json:"authenticated"`
	Faults        []string `json:"faults,omitempty"` // how it differs from what it should be
}

// ZoneLine returns a domain's record as a line of a zone file.
func ZoneLine(d address.Domain, text string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "_cmtp.%s. %d IN TXT", d, RecordTTL)
	for part := range slices.Chunk([]byte(text), stringSize) {
		fmt.Fprintf(&b, " %q", part) // printable ASCII, without quotes
	}
	return b.String()
}

// A Sight is what DNS has said of one local domain.
type Sight struct {
	Domain    address.Domain
	Published discovery.Published
	TTL       time.Duration // for which the resolver gave it
	Err       error         // then nothing is known
}

// names reports whether the domain's record names a key that its servers may show.
func (g *Sight) names(key crypt.PublicKey) bool {
	return g.Published.Record != nil && slices.Contains(g.Published.Record.Keys, key)
}

// Look asks DNS for the records of all local domains at once, in a bounded time.
func Look(ctx context.Context, cfg *config.Config, finder *discovery.Finder) []Sight {
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	sights := make([]Sight, len(cfg.Domains))
	var all sync.WaitGroup
	for i, d := range cfg.Domains {
		all.Go(func() {
			g := Sight{Domain: d}
			g.Published, g.TTL, g.Err = finder.Look(ctx, d)
			sights[i] = g
		})
	}
	all.Wait()
	return sights
}

// own returns the keys that this server shows, or is to show.
func (s *State) own() []crypt.PublicKey {
	if s.prepared() {
		return []crypt.PublicKey{s.Live, s.next}
	}
	return []crypt.PublicKey{s.Live}
}

// announced returns the successor that is still to come; zero if there is none.
func (s *State) announced() crypt.PublicKey {
	if s.successor == s.next {
		return crypt.PublicKey{}
	}
	return s.successor
}

// record returns what a domain should publish in the place of what it publishes, which may be nil.
// The policy stays as it is, and so do keys that are not this server's: the domain may have other
// servers.
func (s *State) record(published *discovery.Record) *discovery.Record {
	r := &discovery.Record{Mode: discovery.None, MaxAge: discovery.DefaultMaxAge}
	if published != nil {
		*r = *published
	}
	mine := append(s.own(), s.former...)
	if s.successor != (crypt.PublicKey{}) {
		mine = append(mine, s.successor)
	}
	others := slices.DeleteFunc(slices.Clone(r.Keys), func(k crypt.PublicKey) bool { return slices.Contains(mine, k) || s.isLost(k) })
	r.Keys = append(s.own(), others...)
	r.Keys = r.Keys[:min(len(r.Keys), discovery.MaxKeys)]
	if next := s.announced(); next != (crypt.PublicKey{}) || slices.Contains(mine, r.Successor) {
		r.Successor = next
	}
	return r
}

// A Flaw is how a record differs from what it should be.
type Flaw int

// The flaws. How heavy each is, is for check to say.
const (
	Unknown        Flaw = iota // DNS did not answer
	Missing                    // there is no record
	Ignored                    // what is there does not count
	Keyless                    // it names no key
	WrongKey                   // it names keys, and not the one in use
	NextMissing                // the next key is prepared, and it does not name it
	FormerNamed                // it names a key that was rotated
	LostNamed                  // it names a key that was lost
	Unannounced                // a successor was made, and it does not name it
	WrongSuccessor             // it announces another than the one that was made, or none that may be
	Alien                      // it announces a successor that this server knows nothing of
)

// A Fault is a flaw of one domain's record, as it is told.
type Fault struct {
	Flaw Flaw
	Text string
}

// Faults compares what a domain publishes with what it should.
func (s *State) Faults(g *Sight) (all []Fault) {
	add := func(f Flaw, format string, args ...any) { all = append(all, Fault{f, fmt.Sprintf(format, args...)}) }
	r := g.Published.Record
	switch {
	case g.Err != nil:
		add(Unknown, "it is not known what %s publishes: %v", g.Domain, g.Err)
		return all
	case g.Published.Ignored != nil:
		add(Ignored, "what %s publishes counts for nothing: %v", g.Domain, g.Published.Ignored)
		return all
	case r == nil:
		add(Missing, "%s publishes no _cmtp record", g.Domain)
		return all
	case len(r.Keys) == 0:
		add(Keyless, "the record of %s names no key", g.Domain)
	case !g.names(s.Live):
		add(WrongKey, "the record of %s names other keys than the server's, %s", g.Domain, s.Live)
	}
	if s.prepared() && !g.names(s.next) {
		add(NextMissing, "the record of %s does not name the next key, %s", g.Domain, s.next)
	}
	for _, k := range s.former {
		if g.names(k) {
			add(FormerNamed, "the record of %s names the former key %s", g.Domain, k)
		}
	}
	for _, k := range r.Keys {
		if s.isLost(k) {
			add(LostNamed, "the record of %s names the lost key %s", g.Domain, k)
		}
	}
	return append(all, s.successorFaults(g.Domain, r.Successor)...)
}

func (s *State) successorFaults(d address.Domain, published crypt.PublicKey) []Fault {
	want, none := s.announced(), crypt.PublicKey{}
	switch {
	case published == want, want == none && slices.Contains(s.own(), published):
		return nil
	case published == none:
		return []Fault{{Unannounced, fmt.Sprintf("the record of %s does not announce the successor, %s", d, want)}}
	case want != none || slices.Contains(s.former, published):
		return []Fault{{WrongSuccessor, fmt.Sprintf("the record of %s announces %s as successor, which is not the one that was made here", d, published)}}
	}
	return []Fault{{Alien, fmt.Sprintf("the record of %s announces the successor %s, of which nothing is known here: only to that one can the key be rotated", d, published)}}
}

// domains returns what every local domain should publish, in the place of what was seen.
func (s *State) domains(cfg *config.Config, sights []Sight) []DomainView {
	views := make([]DomainView, len(cfg.Domains))
	for i, d := range cfg.Domains {
		var published *discovery.Record
		if sights != nil {
			published = sights[i].Published.Record
			views[i].DNS = s.publishedView(&sights[i])
		}
		text := s.record(published).String()
		views[i].Domain, views[i].Record, views[i].Zone = d.String(), text, ZoneLine(d, text)
	}
	return views
}

func (s *State) publishedView(g *Sight) *PublishedView {
	v := &PublishedView{TTL: int64(g.TTL / time.Second), Authenticated: g.Published.Authenticated}
	if g.Published.Record != nil {
		v.Record = g.Published.Record.String()
	}
	v.Right = true
	for _, f := range s.Faults(g) {
		v.Faults = append(v.Faults, f.Text)
		v.Right = v.Right && f.Flaw == Alien // which may well be meant
	}
	return v
}
