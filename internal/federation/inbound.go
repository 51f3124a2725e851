package federation

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"cmtpd/internal/address"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/crypt"
	"cmtpd/internal/discovery"
	"cmtpd/internal/provenance"
	"cmtpd/internal/trust"
)

// Why a message that comes from elsewhere is refused for its origin entry.
var (
	// ErrOrigin: the log has an origin entry as no server writes one.
	ErrOrigin = provenance.ErrOrigin
	// ErrForged: the entry is not by the server of the source's domain.
	ErrForged = errors.New("the message's origin entry is not by the server of its source's domain")
)

// Bounds of what a message or proof that comes in makes us ask (docs/protocol.md section 21).
const (
	judgeTime = 5 * time.Second
	maxJudged = 64 // at a time
)

// A Standing is how far a claim from elsewhere is proven.
type Standing uint8

// Unverified claims nothing speaks for, or against. Proven ones a key that is trusted for the
// domain has signed.
const (
	Unverified Standing = iota
	Proven
)

func (s Standing) String() string {
	if s == Proven {
		return "proven"
	}
	return "unverified"
}

// A Remote is a server that has proven in a channel to hold a key, and claims a domain.
type Remote struct {
	Domain address.Domain
	Key    crypt.PublicKey
}

// JudgePeer says whether the key that a server has proven to hold is its domain's. Whoever
// connects to us can claim any domain, so a claim teaches nothing: only a key that is trusted
// already, or that the domain itself publishes, is Proven. A key other than those that
// are known is an ErrDistrusted. client is where the claim comes from.
func (p *Peers) JudgePeer(ctx context.Context, r Remote, client netip.Addr) (Standing, error) {
	if p.isOwn(r.Domain) || p.isOwnKey(r.Key) {
		return Unverified, fmt.Errorf("%w: %w", ErrDistrusted, ErrLoop)
	}
	known, err := p.cfg.Trust.Known(r.Domain)
	switch {
	case err != nil:
		return Unverified, fmt.Errorf("%w: %w", ErrDistrusted, err)
	case slices.Contains(keysOf(known), r.Key):
		return Proven, nil
	case len(keysOf(known)) == 0:
		return p.judgePublished(ctx, r, known)
	}
	return p.judgeChanged(ctx, r, known, client)
}

// judgeChanged is JudgePeer for another key of a known domain. Where DNSSEC does not speak for it, the domain's server
// is met: a key that has followed another one is shown there with that one's word for it, which no proof has with it.
func (p *Peers) judgeChanged(ctx context.Context, r Remote, known *trust.State, client netip.Addr) (Standing, error) {
	published, err := p.published(ctx, r.Domain)
	if err != nil || !published.Authenticated || published.Record == nil || !slices.Contains(published.Record.Keys, r.Key) {
		if now, _, err := p.meetAgain(ctx, r.Domain, client); err == nil && slices.Contains(keysOf(now), r.Key) {
			return Proven, nil
		}
	}
	return p.judgePublished(ctx, r, known)
}

// judgePublished is JudgePeer for a key that is new.
func (p *Peers) judgePublished(ctx context.Context, r Remote, known *trust.State) (Standing, error) {
	published, err := p.published(ctx, r.Domain)
	if err != nil || published.Record == nil || !slices.Contains(published.Record.Keys, r.Key) {
		if len(keysOf(known)) == 0 {
			return Unverified, nil
		}
		return Unverified, fmt.Errorf("%w: %s", ErrDistrusted, trust.Changed.Text())
	}
	v, err := p.cfg.Trust.Judge(ctx, r.Domain, trust.Sighting{Shown: r.Key, CMTP1: true, Record: recordOf(published), Claimed: true})
	switch {
	case err != nil:
		return Unverified, fmt.Errorf("%w: %w", ErrDistrusted, err)
	case !v.Trusted:
		return Unverified, fmt.Errorf("%w: %v", ErrDistrusted, v)
	}
	return Proven, nil
}

// errBusy: too many are asked about already.
var errBusy = fmt.Errorf("%d domains are being looked up already", maxJudged)

// published asks DNS, which remembers, within bounds.
func (p *Peers) published(ctx context.Context, d address.Domain) (discovery.Published, error) {
	select {
	case p.judging <- struct{}{}:
		defer func() { <-p.judging }()
	default:
		return discovery.Published{}, errBusy
	}
	ctx, cancel := context.WithTimeout(ctx, judgeTime)
	defer cancel()
	return p.cfg.Aside.Published(ctx, d)
}

// keysOf returns the keys that a domain's servers may show.
func keysOf(s *trust.State) (keys []crypt.PublicKey) {
	if s == nil {
		return nil
	}
	for _, k := range s.Keys {
		keys = append(keys, k.Key.PublicKey)
	}
	return keys
}

// CheckOrigin says whether the server of the source's domain vouches for a message with
// this core digest, that from (nil: nobody) has brought. Without an entry, and of a domain
// that nothing is known of, that is Unverified. An error is a reason to refuse
// the message: ErrOrigin and ErrForged for ever, ErrDistrusted for now. client is where it comes from.
func (p *Peers) CheckOrigin(ctx context.Context, h *cmtp.Header, log []byte, digest [32]byte, from *Remote, client netip.Addr) (Standing, error) {
	o, err := provenance.OriginOf(h, log)
	if o == nil || err != nil {
		return Unverified, err
	}
	source, err := provenance.SourceOf(h)
	if err != nil {
		return Unverified, err
	}
	known, err := p.cfg.Trust.Known(o.Domain)
	if err != nil {
		return Unverified, fmt.Errorf("%w: %w", ErrDistrusted, err)
	}
	signed := func(key crypt.PublicKey) bool { return o.Verify(digest, source.Account, key) }
	if slices.ContainsFunc(keysOf(known), signed) {
		return Proven, nil
	}
	if from != nil && from.Domain == o.Domain && signed(from.Key) {
		return p.JudgePeer(ctx, *from, client)
	}
	if len(keysOf(known)) == 0 {
		return Unverified, nil
	}
	return p.checkChanged(ctx, o, signed, client)
}

// checkChanged is for an entry that no known key has signed. The domain may have another
// one by now, and say so in DNS, or show it.
func (p *Peers) checkChanged(ctx context.Context, o *crypt.Origin, signed func(crypt.PublicKey) bool, client netip.Addr) (Standing, error) {
	published, err := p.published(ctx, o.Domain)
	if err != nil {
		return Unverified, fmt.Errorf("%w: %w", ErrDistrusted, err) // so nobody can say
	}
	if published.Record != nil {
		if i := slices.IndexFunc(published.Record.Keys, signed); i >= 0 {
			return p.JudgePeer(ctx, Remote{o.Domain, published.Record.Keys[i]}, client)
		}
	}
	now, late, err := p.meetAgain(ctx, o.Domain, client)
	switch {
	case err != nil:
		return Unverified, fmt.Errorf("%w: %w", ErrDistrusted, err) // as above
	case slices.ContainsFunc(keysOf(now), signed):
		return Proven, nil
	case late:
		return Unverified, fmt.Errorf("%w: %w", ErrDistrusted, errLate) // the domain may have got the key since
	}
	return Unverified, ErrForged
}
