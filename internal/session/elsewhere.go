package session

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"cmtpd/internal/account"
	"cmtpd/internal/address"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/federation"
	"cmtpd/internal/spool"
)

// Elsewhere is what sessions need of the servers of other domains.
type Elsewhere interface {
	// Lookup asks another domain's server for the key of a name. federation.LookupStatus
	// makes a status of its error. may is asked where that takes a question.
	Lookup(ctx context.Context, name address.Address, may federation.Permit) (*federation.Foreign, error)
	// Refresh is Lookup without answers that are a minute old, or older.
	Refresh(ctx context.Context, name address.Address, may federation.Permit) (*federation.Foreign, error)
	// Kept reports whether a domain is remembered for good already, so that another letter to it adds nothing.
	Kept(d address.Domain) bool
	// JudgePeer says whether a server that has proven to hold a key is its domain's.
	JudgePeer(ctx context.Context, r federation.Remote, client netip.Addr) (federation.Standing, error)
	// CheckOrigin says whether the source's domain vouches for a message.
	CheckOrigin(ctx context.Context, h *cmtp.Header, log []byte, digest [32]byte, from *federation.Remote, client netip.Addr) (federation.Standing, error)
	// Added is told of every message that is for another server, when it is durable, and only once.
	Added(id spool.ID, domain string)
}

// maxReceived is how many servers a message may have gone through (docs/protocol.md
// section 17.7): one that comes by more often goes in circles.
const maxReceived = 30

// maxAsked is how many foreign names a session remembers to have asked for: as many as a client asks for at once, so
// that it can go over all of them again. Of one that is forgotten the next answer may be as old as a first one.
const maxAsked = 16

var (
	errOwnOrigin = errors.New("only a server writes an origin entry, when it hands a message on")
	errLoop      = fmt.Errorf("it has gone through %d servers, and so in circles", maxReceived)
)

// A lookupError is why a name of another domain has no key.
type lookupError struct{ error }

func (e lookupError) Unwrap() error { return e.error }

// lookup answers for a name of another domain, to a proven user alone: the question makes this server connect to
// somebody else's. Who asks again in the same session wants no old answer (docs/protocol.md section 19.1).
func (p *part2) lookup(ctx context.Context, account, domain string) ([]byte, error) {
	asked, err := parseName(account, domain)
	if err != nil {
		return nil, err
	}
	user := p.proven()
	if user == nil {
		return nil, errNotAsker
	}
	lookup := p.cfg.Elsewhere.Lookup
	if p.again(asked) {
		lookup = p.cfg.Elsewhere.Refresh
	}
	f, err := lookup(ctx, asked, func(met bool) error { return p.cfg.Abroad.ask(user.ID, asked.Domain, met) })
	if spent := (*overspent)(nil); errors.As(err, &spent) {
		return nil, err
	}
	if err != nil {
		return nil, lookupError{err}
	}
	return f.Payload, nil
}

// again reports whether the session has asked for a foreign name before, and remembers that it has now.
func (p *part2) again(name address.Address) bool {
	i := slices.Index(p.asked, name)
	switch {
	case i >= 0:
		p.asked = slices.Delete(p.asked, i, i+1)
	case len(p.asked) == maxAsked:
		p.asked = slices.Delete(p.asked, 0, 1)
	}
	p.asked = append(p.asked, name)
	return i >= 0
}

// provenance says who vouches for a message that was read to its end, in the words of
// docs/spool.md (Message); there is none for one that is for another server.
func (s *session) provenance(ctx context.Context, m *cmtp.MessageReader, digest [32]byte, to delivery) (string, error) {
	if s.cfg.Elsewhere != nil {
		if err := checkLog(m.Log(), to); err != nil {
			return "", err
		}
	}
	switch {
	case to.queued:
		return "", nil
	case to.user:
		return "user", nil
	case !to.foreign || s.cfg.Elsewhere == nil:
		return federation.Unverified.String(), nil
	}
	standing, err := s.cfg.Elsewhere.CheckOrigin(ctx, m.Header(), m.Log(), digest, s.remote(), s.conn.Client.Addr())
	return standing.String(), err
}

// checkLog refuses a log as no client writes one, or that says that the message goes in circles.
func checkLog(log []byte, to delivery) error {
	received := 0
	for _, entry := range cmtp.LogEntries(log) {
		switch kind, _, _ := strings.Cut(entry, " "); {
		case kind == "received":
			received++
		case kind == "origin" && !to.foreign:
			return errOwnOrigin
		}
	}
	if received >= maxReceived {
		return errLoop
	}
	return nil
}

func (p *part1) remote() *federation.Remote { return nil }

func (p *part2) remote() *federation.Remote {
	if p.peer == nil {
		return nil
	}
	return &federation.Remote{Domain: p.peer.name.Domain, Key: p.peer.key}
}

// isForeign reports whether err is that the domain is not one of ours.
func isForeign(err error) bool { return errors.Is(err, account.ErrForeign) }
