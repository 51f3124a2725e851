package federation

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"cmtpd/internal/address"
	"cmtpd/internal/client"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/crypt"
	"cmtpd/internal/queue"
	"cmtpd/internal/trust"

	"golang.org/x/sync/singleflight"
)

// ErrNoAccount: the other server has given no key for the name.
var ErrNoAccount = errors.New("the other server knows no such account")

// Defaults and bounds of asking other servers for keys (docs/protocol.md section 21).
const (
	DefaultKeyCache = 10000
	DefaultKeyLife  = time.Hour

	freshLife     = time.Minute      // of an answer that Refresh gives
	anyAge        = math.MaxInt64    // what is remembered expires by itself
	noAccountLife = 5 * time.Minute  // of the answer that there is none
	failureLife   = 30 * time.Second // of any other failure
	lookupTime    = 10 * time.Second
	maxLookups    = 64  // under way,
	maxSlow       = 192 // and without an answer for a second, besides
	maxPerDomain  = 4   // of them at one domain

	answerBytes = 2 << 10 // of memory, of all answers together for each that may be kept
)

// A Foreign is the answer about a name of another domain.
type Foreign struct {
	Trust   crypt.Trust
	Server  crypt.PublicKey // the other server's
	Key     crypt.PublicKey // that mail is sealed to
	Payload []byte          // of the reply to KEYREQUEST, a crypt.Foreign; not to be changed
}

// KeysConfig says how Keys works. Peers must be set.
type KeysConfig struct {
	Peers *Peers
	Size  int           // names that are remembered; 0: DefaultKeyCache
	Life  time.Duration // of what another server has said; 0: DefaultKeyLife
	// Timeout bounds one question, connecting included; 0: 10 seconds.
	Timeout time.Duration
}

// Keys asks the servers of other domains for the keys of names, and remembers what they
// said. It is safe for concurrent use.
type Keys struct {
	peers *Peers
	life  time.Duration
	limit time.Duration

	flights singleflight.Group
	now     func() time.Time
	running *places // of the lookups under way
	answers *cache[address.Address, answer]
	domains *cache[address.Domain, error]           // whose server could not be met
	servers *cache[address.Domain, crypt.PublicKey] // the one that was met last
	crowds  *crowds
}

// An answer is an *Foreign or why there is none.
type answer struct {
	foreign *Foreign
	err     error
	asked   time.Time // when the question began
}

// NewKeys returns Keys that remember nothing yet.
func NewKeys(c KeysConfig) *Keys {
	if c.Size == 0 {
		c.Size = DefaultKeyCache
	}
	if c.Life == 0 {
		c.Life = DefaultKeyLife
	}
	if c.Timeout == 0 {
		c.Timeout = lookupTime
	}
	now := c.Peers.cfg.Now
	return &Keys{
		peers: c.Peers, life: c.Life, limit: c.Timeout, now: now, running: newPlaces(maxLookups, maxSlow), crowds: newCrowds(maxPerDomain),
		answers: newCache[address.Address, answer](c.Size, c.Size*answerBytes, now),
		domains: newCache[address.Domain, error](c.Size, c.Size*answerBytes, now),
		servers: newCache[address.Domain, crypt.PublicKey](c.Size, c.Size*answerBytes, now),
	}
}

// A Permit is asked before another server is, or has been waited for: met is whether anything is known of its domain. The error is why
// it is not to be asked. A nil Permit allows it.
type Permit func(met bool) error

// Lookup returns what the server of the name's domain says of it; the zero Account is that
// server itself. It was verified under a key that is trusted for the domain. The error is
// may's, a *MeetError, or wraps ErrNoAccount or what the server said; LookupStatus makes a
// status of it. A caller that gives up leaves the question under way for the others.
func (k *Keys) Lookup(ctx context.Context, name address.Address, may Permit) (*Foreign, error) {
	return k.lookup(ctx, name, anyAge, may)
}

// Refresh is Lookup for who cannot do with an old answer, since the key may have changed: what was asked a minute ago
// or earlier is asked anew, and what comes of it is what Lookup returns from then on. So nobody makes this
// server ask more often than once a minute for a name. A question that fails is an error, whatever was said before; Lookup goes on
// with that where the other server could not be met.
func (k *Keys) Refresh(ctx context.Context, name address.Address, may Permit) (*Foreign, error) {
	return k.lookup(ctx, name, freshLife, may)
}

// lookup returns an answer that is younger than age.
func (k *Keys) lookup(ctx context.Context, name address.Address, age time.Duration, may Permit) (*Foreign, error) {
	if a, ok := k.known(name, age); ok {
		return a.foreign, a.err
	}
	if may != nil {
		if err := may(k.peers.Met(name.Domain)); err != nil {
			return nil, err
		}
	}
	landed := k.flights.DoChan(name.String(), func() (any, error) {
		if a, ok := k.known(name, freshLife); ok { // fresh, since any caller may have joined this flight
			return a, nil // of one that landed just before
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), k.limit)
		defer cancel()
		return k.ask(ctx, name), nil
	})
	select {
	case r := <-landed:
		a := r.Val.(answer)
		return a.foreign, a.err
	case <-ctx.Done():
		return nil, fmt.Errorf("asking for the key of %s: %w", name, context.Cause(ctx))
	}
}

// Forget drops that the domain's server could not be met.
func (k *Keys) Forget(d address.Domain) { k.domains.forget(d) }

// known returns what is remembered, is younger than age, and still holds. That a server could not be met is always young.
func (k *Keys) known(name address.Address, age time.Duration) (answer, bool) {
	if a, ok := k.answers.get(name); ok && k.now().Sub(a.asked) < age && (a.foreign == nil || k.holds(name.Domain, a.foreign)) {
		return a, true
	}
	err, ok := k.domains.get(name.Domain)
	return answer{err: err}, ok
}

// holds reports whether an answer's server is still trusted as it was then, and the one that was met last. What another has
// said is not handed on: an impostor's answers would outlive the operator's word, and who asked for one name after the change of
// a key, and for another that was asked for before, would see the key change back.
func (k *Keys) holds(d address.Domain, f *Foreign) bool {
	last, met := k.servers.get(d)
	s, err := k.peers.cfg.Trust.Known(d)
	return err == nil && s != nil && trustOf(s.Provenance(f.Server)) == f.Trust && (!met || last == f.Server)
}

// ask asks, and remembers what came of it.
func (k *Keys) ask(ctx context.Context, name address.Address) answer {
	ctx, release, err := k.enter(ctx, name.Domain)
	if err != nil {
		return answer{err: err} // we were busy, which says nothing about the domain
	}
	defer release()
	if a, ok := k.known(name, freshLife); ok {
		return a // the domain was found to be out of reach meanwhile
	}
	asked := k.now()
	foreign, err := k.fetch(ctx, name)
	a := answer{foreign, err, asked}
	var unmet *MeetError
	switch {
	case err == nil:
		k.answers.put(name, a, len(foreign.Payload), k.life)
		k.servers.put(name.Domain, foreign.Server, len(foreign.Server), k.life)
	case errors.As(err, &unmet):
		k.domains.put(name.Domain, err, len(err.Error()), failureLife)
	case errors.Is(err, ErrNoAccount):
		k.answers.put(name, a, len(err.Error()), noAccountLife)
	default:
		k.answers.put(name, a, len(err.Error()), failureLife)
	}
	return a
}

// enter waits for a place among the lookups, which one domain cannot fill.
func (k *Keys) enter(ctx context.Context, d address.Domain) (_ context.Context, release func(), err error) {
	leave, err := k.crowds.enter(ctx, d)
	if err != nil {
		return nil, nil, meetError(d, queue.Temporary, fmt.Errorf("too many questions to it are under way: %w", err))
	}
	asking, done, err := k.running.enter(ctx)
	if err != nil {
		leave()
		return nil, nil, meetError(d, queue.Temporary, fmt.Errorf("%d questions are under way already: %w", maxLookups+maxSlow, err))
	}
	return asking, func() { done(); leave() }, nil
}

func (k *Keys) fetch(ctx context.Context, name address.Address) (*Foreign, error) {
	p, err := k.peers.open(ctx, name.Domain, k.peers.cfg.Aside, toAsk)
	if err != nil {
		return nil, err
	}
	defer p.Close()
	defer p.during(ctx)()
	f := crypt.Foreign{Trust: trustOf(p.Verdict.Provenance), Server: p.Key}
	if p.channel != nil {
		f.History, err = p.channel.History(name)
	} else {
		f.Key, f.Signature, err = p.conn.SignedKey(name.Account.String(), name.Domain.String(), p.Key)
	}
	status, ok := errors.AsType[*cmtp.StatusError](err)
	if ok && status.Status == cmtp.StatusNoAccount || errors.Is(err, client.ErrRefused) {
		return nil, fmt.Errorf("%w: %w", ErrNoAccount, err)
	}
	if err == nil {
		err = f.Verify(name)
	}
	if err != nil {
		return nil, fmt.Errorf("asking %s: %w", p.Host, err)
	}
	return &Foreign{f.Trust, f.Server, f.Current(), f.Append(nil)}, nil
}

// trustOf is a provenance as it stands in a reply; zero for that of a key that is not trusted.
func trustOf(p trust.Provenance) crypt.Trust {
	switch p {
	case trust.Operator:
		return crypt.TrustOperator
	case trust.DNSSEC:
		return crypt.TrustDNSSEC
	case trust.DNS:
		return crypt.TrustDNS
	case trust.FirstContact:
		return crypt.TrustFirstContact
	}
	return 0
}

// LookupStatus returns the status, and the reason for a person, of an error of Lookup.
func LookupStatus(err error) (cmtp.Status, string) {
	if errors.Is(err, ErrNoAccount) {
		return cmtp.StatusNoAccount, "The other domain's server gives no key for this address. Check the address."
	}
	if e, ok := errors.AsType[*MeetError](err); ok {
		switch e.Outcome {
		case queue.Distrusted:
			return cmtp.StatusPeerDistrusted, "The other domain's server is not trusted now: " + plainly(err) + ". The operator of this server sees more."
		case queue.Permanent:
			return cmtp.StatusNoMail, "The other domain takes no CMTP mail: " + plainly(err) + "."
		}
	}
	return cmtp.StatusPeerUnreached, "The other domain's server cannot be reached now. Try again later."
}
