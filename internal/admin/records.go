package admin

import (
	"context"
	"fmt"
	"net"
	"net/netip"
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

// A sight is what DNS has said of one local domain.
type sight struct {
	domain    address.Domain
	published discovery.Published
	ttl       time.Duration
	err       error // then nothing is known
}

// names reports whether the domain's record names a key that its servers may show.
func (g *sight) names(key crypt.PublicKey) bool {
	return g.published.Record != nil && slices.Contains(g.published.Record.Keys, key)
}

// look asks DNS for the records of all local domains at once, in a bounded time.
func look(ctx context.Context, cfg *config.Config, finder *discovery.Finder) []sight {
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	sights := make([]sight, len(cfg.Domains))
	var all sync.WaitGroup
	for i, d := range cfg.Domains {
		all.Go(func() {
			g := sight{domain: d}
			g.published, g.ttl, g.err = finder.Look(ctx, d)
			sights[i] = g
		})
	}
	all.Wait()
	return sights
}

// own returns the keys that this server shows, or is to show.
func (s *keyState) own() []crypt.PublicKey {
	if s.prepared() {
		return []crypt.PublicKey{s.live, s.next}
	}
	return []crypt.PublicKey{s.live}
}

// announced returns the successor that is still to come; zero if there is none.
func (s *keyState) announced() crypt.PublicKey {
	if s.successor == s.next {
		return crypt.PublicKey{}
	}
	return s.successor
}

// record returns what a domain should publish in the place of what it publishes, which may be nil.
// The policy stays as it is, and so do keys that are not this server's: the domain may have other
// servers.
func (s *keyState) record(published *discovery.Record) *discovery.Record {
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

// A flaw is how a record differs from what it should be.
type flaw int

// The flaws. How heavy each is, is for check to say.
const (
	unknown        flaw = iota // DNS did not answer
	missing                    // there is no record
	ignored                    // what is there does not count
	keyless                    // it names no key
	wrongKey                   // it names keys, and not the one in use
	nextMissing                // the next key is prepared, and it does not name it
	formerNamed                // it names a key that was rotated
	lostNamed                  // it names a key that was lost
	unannounced                // a successor was made, and it does not name it
	wrongSuccessor             // it announces another than the one that was made, or none that may be
	alien                      // it announces a successor that this server knows nothing of
)

type fault struct {
	flaw flaw
	text string
}

// faults compares what a domain publishes with what it should.
func (s *keyState) faults(g *sight) (all []fault) {
	add := func(f flaw, format string, args ...any) { all = append(all, fault{f, fmt.Sprintf(format, args...)}) }
	r := g.published.Record
	switch {
	case g.err != nil:
		add(unknown, "it is not known what %s publishes: %v", g.domain, g.err)
		return all
	case g.published.Ignored != nil:
		add(ignored, "what %s publishes counts for nothing: %v", g.domain, g.published.Ignored)
		return all
	case r == nil:
		add(missing, "%s publishes no _cmtp record", g.domain)
		return all
	case len(r.Keys) == 0:
		add(keyless, "the record of %s names no key", g.domain)
	case !g.names(s.live):
		add(wrongKey, "the record of %s names other keys than the server's, %s", g.domain, s.live)
	}
	if s.prepared() && !g.names(s.next) {
		add(nextMissing, "the record of %s does not name the next key, %s", g.domain, s.next)
	}
	for _, k := range s.former {
		if g.names(k) {
			add(formerNamed, "the record of %s names the former key %s", g.domain, k)
		}
	}
	for _, k := range r.Keys {
		if s.isLost(k) {
			add(lostNamed, "the record of %s names the lost key %s", g.domain, k)
		}
	}
	return append(all, s.successorFaults(g.domain, r.Successor)...)
}

func (s *keyState) successorFaults(d address.Domain, published crypt.PublicKey) []fault {
	want, none := s.announced(), crypt.PublicKey{}
	switch {
	case published == want, want == none && slices.Contains(s.own(), published):
		return nil
	case published == none:
		return []fault{{unannounced, fmt.Sprintf("the record of %s does not announce the successor, %s", d, want)}}
	case want != none || slices.Contains(s.former, published):
		return []fault{{wrongSuccessor, fmt.Sprintf("the record of %s announces %s as successor, which is not the one that was made here", d, published)}}
	}
	return []fault{{alien, fmt.Sprintf("the record of %s announces the successor %s, of which nothing is known here: only to that one can the key be rotated", d, published)}}
}

// domains returns what every local domain should publish, in the place of what was seen.
func (s *keyState) domains(cfg *config.Config, sights []sight) []DomainView {
	views := make([]DomainView, len(cfg.Domains))
	for i, d := range cfg.Domains {
		var published *discovery.Record
		if sights != nil {
			published = sights[i].published.Record
			views[i].DNS = s.publishedView(&sights[i])
		}
		text := s.record(published).String()
		views[i].Domain, views[i].Record, views[i].Zone = d.String(), text, ZoneLine(d, text)
	}
	return views
}

func (s *keyState) publishedView(g *sight) *PublishedView {
	v := &PublishedView{TTL: int64(g.ttl / time.Second), Authenticated: g.published.Authenticated}
	if g.published.Record != nil {
		v.Record = g.published.Record.String()
	}
	v.Right = true
	for _, f := range s.faults(g) {
		v.Faults = append(v.Faults, f.text)
		v.Right = v.Right && f.flaw == alien // which may well be meant
	}
	return v
}

// OwnAddresses returns the addresses of this machine's interfaces, or nil where they are not known.
func OwnAddresses() (own []netip.Addr) {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	for _, a := range all {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			own = append(own, p.Addr().Unmap())
		}
	}
	return own
}
