package federation

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"cmtpd/internal/address"
	"cmtpd/internal/crypt"
	"cmtpd/internal/discovery"
	"cmtpd/internal/limit"
	"cmtpd/internal/queue"
	"cmtpd/internal/trust"

	"golang.org/x/sync/singleflight"
)

// A Finder finds the servers of a domain. discovery.Finder is one.
type Finder interface {
	// Find returns them, and what the domain publishes.
	Find(ctx context.Context, d address.Domain) (*discovery.Result, error)
	// Published returns only that.
	Published(ctx context.Context, d address.Domain) (discovery.Published, error)
}

// A Trust remembers the keys of other servers. trust.Store is one.
type Trust interface {
	// Known returns what is known of a domain, nil for nothing.
	Known(d address.Domain) (*trust.State, error)
	// Judge judges a server that was met. What it has learnt is durable when it returns.
	Judge(ctx context.Context, d address.Domain, g trust.Sighting) (trust.Verdict, error)
}

// Config says how other servers are met. Domains, Key, Finder and Trust must be set.
type Config struct {
	Domains []address.Domain  // of this server; the first is whose server it proves to be
	Key     *crypt.PrivateKey // the server's identity
	Former  []crypt.PublicKey // that it had before
	Finder  Finder
	Aside   Finder // asked because of what strangers and users want to know; nil: Finder
	Trust   Trust
	Dialer  *discovery.Dialer // nil: its zero value

	// Timeout bounds an exchange, and while a message is sent the time without progress;
	// 0: 2 minutes.
	Timeout time.Duration
	// GreetingWait is how long silence is listened to; 0: 35 seconds.
	GreetingWait time.Duration
	// HostTime is the least that an address is given as long as there is time for any; 0: 45
	// seconds, more than silence is listened to.
	HostTime time.Duration
	// SendGrace is what a batch of messages may take beside what their bytes may at 16 KiB a
	// second; 0: 5 minutes.
	SendGrace time.Duration
	// Tested is told each time a domain with mode=testing is met in a way that mode=enforce
	// would not allow; nil: nobody is.
	Tested func()
	Now    func() time.Time // nil: time.Now
	Log    *slog.Logger     // nil: nothing is logged
}

func (c *Config) complete() {
	if c.Aside == nil {
		c.Aside = c.Finder
	}
	if c.Dialer == nil {
		c.Dialer = new(discovery.Dialer)
	}
	if c.HostTime == 0 {
		c.HostTime = 45 * time.Second
	}
	if c.SendGrace == 0 {
		c.SendGrace = 5 * time.Minute
	}
	if c.Tested == nil {
		c.Tested = func() {}
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
}

// Peers meets the servers of other domains. It is safe for concurrent use.
type Peers struct {
	cfg     Config
	judging chan struct{} // a token for each question to DNS about who has come to us

	flights  singleflight.Group
	visits   *limit.Rate                   // of meetAgain, by client
	visiting chan struct{}                 // a token for each of meetAgain's
	again    *cache[address.Domain, error] // what came of it
}

// New returns Peers. Nothing is asked yet.
func New(cfg Config) *Peers {
	cfg.complete()
	return &Peers{
		cfg: cfg, judging: make(chan struct{}, maxJudged), visits: limit.NewRate(againRate, againRate, cfg.Now),
		visiting: make(chan struct{}, maxAgain), again: newCache[address.Domain, error](againKept, againKept, cfg.Now),
	}
}

func (p *Peers) isOwn(d address.Domain) bool { return slices.Contains(p.cfg.Domains, d) }

// Met reports whether a server of a domain was met, as far as that is remembered. One of which the file is damaged, was.
func (p *Peers) Met(d address.Domain) bool {
	s, err := p.cfg.Trust.Known(d)
	return err != nil || len(keysOf(s)) > 0
}

// Kept reports whether a domain's server was given mail, or met for it, so that what is known of the domain is kept for good.
// That it was met is not enough: whoever has domains can have them come by themselves.
func (p *Peers) Kept(d address.Domain) bool {
	s, err := p.cfg.Trust.Known(d)
	return err != nil || s != nil && s.Mail
}

func (p *Peers) isOwnKey(key crypt.PublicKey) bool {
	return key == p.cfg.Key.Public() || slices.Contains(p.cfg.Former, key)
}

// Open meets a server of the domain: the first, in DNS's order, that speaks CMTP. Its key
// is trusted for the domain then, and over CMTP 1 this server has shown who it is. The
// context bounds only the opening. The error is a *MeetError.
func (p *Peers) Open(ctx context.Context, d address.Domain) (*Peer, error) {
	return p.open(ctx, d, p.cfg.Finder, toSend)
}

// A purpose is why a server is met.
type purpose uint8

const (
	toSend  purpose = iota // mail: what is learnt of the domain is kept for good
	toAsk                  // for a user
	toLearn                // its keys, without a word of who this server is, at the first addresses alone
)

// open is Open for any purpose.
func (p *Peers) open(ctx context.Context, d address.Domain, finder Finder, why purpose) (*Peer, error) {
	if p.isOwn(d) {
		return nil, meetError(d, queue.Permanent, ErrOwn)
	}
	found, err := finder.Find(ctx, d)
	if err != nil {
		return nil, meetError(d, outcomeOf(err), err)
	}
	if why == toLearn && len(found.Servers) > againHosts {
		found.Servers = found.Servers[:againHosts]
	}
	known, err := p.cfg.Trust.Known(d)
	if err != nil {
		return nil, meetError(d, queue.Distrusted, fmt.Errorf("%w: %w", ErrDistrusted, err))
	}
	if found.Published.Ignored != nil {
		p.cfg.Log.Warn("what a domain publishes does not count", "domain", d, "error", found.Published.Ignored)
	}
	m := &meeting{Peers: p, found: found, known: known, record: recordOf(found.Published), why: why}
	m.must = found.Published.Enforced() || known != nil && (known.CMTP1 || known.IsEnforced(p.cfg.Now()))
	return m.run(ctx)
}

// outcomeOf is the fate of mail that waits for DNS.
func outcomeOf(err error) queue.Outcome {
	if e, ok := errors.AsType[*discovery.Error](err); ok && !e.Temporary() {
		return queue.Permanent
	}
	return queue.Temporary
}

// recordOf says to trust what DNS has said. What is published and wrong is as if there
// were nothing (docs/protocol.md section 23.4).
func recordOf(p discovery.Published) trust.Record {
	r := trust.Record{Answer: trust.Absent, Authenticated: p.Authenticated}
	if p.Record != nil {
		r.Answer, r.Keys, r.Successor = trust.Present, p.Record.Keys, p.Record.Successor
		r.Enforce, r.MaxAge = p.Record.Mode == discovery.Enforce, p.Record.MaxAge
	}
	return r
}
