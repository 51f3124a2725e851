package federation

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"cmtpd/internal/address"
	"cmtpd/internal/client"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/discovery"
	"cmtpd/internal/queue"
	"cmtpd/internal/trust"
)

// A meeting is one attempt to find a server of a domain that can be spoken to.
type meeting struct {
	*Peers
	found  *discovery.Result
	known  *trust.State // nil for nothing
	record trust.Record
	must   bool // CMTP 1 is asked for
	why    purpose
	failed []discovery.Attempt
}

// errPassed stands for an address of better preference: the dialer has found it dead.
var errPassed = errors.New("no connection")

// run tries one address after the other. What concerns the whole domain ends it.
func (m *meeting) run(ctx context.Context) (*Peer, error) {
	left := m.found.Servers
	for len(left) > 0 && ctx.Err() == nil {
		peer, tried, err := m.try(ctx, left)
		if err == nil {
			return peer, nil
		}
		if whole, ok := errors.AsType[*MeetError](err); ok {
			return nil, whole
		}
		if dead, ok := errors.AsType[*discovery.DialError](err); ok {
			m.failed = append(m.failed, dead.Attempts...)
			break
		}
		left = m.pass(left, tried, err)
	}
	return nil, m.conclude(ctx)
}

// pass notes why a server is of no use, and returns those that are left. A host that has
// no CMTP at one address has none at another.
func (m *meeting) pass(left []discovery.Server, tried discovery.Server, err error) (rest []discovery.Server) {
	for _, s := range left {
		switch {
		case s == tried, s.Host == tried.Host && errors.Is(err, client.ErrNoCMTP):
			m.failed = append(m.failed, discovery.Attempt{Server: s, Err: err})
		case s.Preference < tried.Preference:
			m.failed = append(m.failed, discovery.Attempt{Server: s, Err: errPassed})
		default:
			rest = append(rest, s)
		}
	}
	return rest
}

// try connects to the best of several servers and talks to the one that answers.
func (m *meeting) try(ctx context.Context, left []discovery.Server) (*Peer, discovery.Server, error) {
	if end, ok := ctx.Deadline(); ok {
		share := time.Until(end) / time.Duration(len(left))
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, max(share, m.cfg.HostTime))
		defer cancel()
	}
	nc, s, err := m.cfg.Dialer.Dial(ctx, left)
	if err != nil {
		return nil, s, err
	}
	peer, err := m.converse(ctx, nc, s)
	return peer, s, err
}

// converse makes a Peer of a connection. Once that has succeeded it outlives ctx.
func (m *meeting) converse(ctx context.Context, nc net.Conn, s discovery.Server) (*Peer, error) {
	life, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, cancel)
	d := client.Dialer{
		Dial:    func(context.Context, string, string) (net.Conn, error) { return nc, nil },
		Timeout: m.cfg.Timeout, GreetingWait: m.cfg.GreetingWait,
	}
	p := &Peer{Domain: m.found.Domain, Host: s.Host, Addr: s.Addr, cancel: cancel}
	var err error
	p.conn, p.channel, err = d.Open(life, s.Addr.String(), m.must)
	if err == nil {
		err = m.judge(ctx, p)
	}
	if err == nil && !stop() {
		err = context.Cause(ctx)
	}
	if err != nil {
		p.Close()
		nc.Close()
		return nil, err
	}
	return p, nil
}

// judge decides whether the server is one of the domain's, and tells it who we are.
func (m *meeting) judge(ctx context.Context, p *Peer) error {
	g := trust.Sighting{CMTP1: p.channel != nil, Record: m.record, Mail: m.why == toSend}
	if p.channel == nil {
		key, err := p.conn.ServerKey()
		if err != nil {
			return err
		}
		p.Key = key
	} else {
		p.Key = p.channel.ServerKey()
		if m.isOwnKey(p.Key) {
			return m.loop()
		}
		h, err := p.channel.History(address.Address{Domain: p.Domain})
		if err != nil {
			return err
		}
		g.Rotations = h.Rotations
	}
	if m.isOwnKey(p.Key) {
		return m.loop()
	}
	g.Shown = p.Key
	verdict, err := m.cfg.Trust.Judge(ctx, p.Domain, g)
	if err != nil {
		return meetError(p.Domain, queue.Temporary, err)
	}
	if p.Verdict = verdict; !verdict.Trusted {
		return m.distrust(verdict)
	}
	if p.channel == nil {
		m.tested(p.Host)
		return nil
	}
	p.channel.Accept()
	if m.why == toLearn {
		return nil
	}
	return m.introduce(p)
}

// loop is for a domain that leads back here. Who is on the way to one that is known to be elsewhere can lead us back, too,
// without any key, and must not have its mail given up.
func (m *meeting) loop() error {
	outcome := queue.Permanent
	if m.must || len(keysOf(m.known)) > 0 {
		outcome = queue.Temporary
	}
	return meetError(m.found.Domain, outcome, ErrLoop)
}

// introduce proves who we are. A server that does not believe it may still take mail.
func (m *meeting) introduce(p *Peer) error {
	err := p.channel.AuthServer(m.cfg.Domains[0], p.Domain, m.cfg.Key)
	if status, ok := errors.AsType[*cmtp.StatusError](err); ok && status.Status != cmtp.StatusClosing {
		m.cfg.Log.Info("another server does not take our proof", "domain", p.Domain, "host", p.Host, "error", err)
		return nil
	}
	return err
}

func (m *meeting) distrust(v trust.Verdict) error {
	return &MeetError{Domain: m.found.Domain, Outcome: queue.Distrusted, Verdict: v, Err: fmt.Errorf("%w: %v", ErrDistrusted, v)}
}

// conclude says what it means for the domain that no server was of use.
func (m *meeting) conclude(ctx context.Context) error {
	for _, a := range m.failed {
		if errors.Is(a.Err, client.ErrDowngrade) {
			return m.downgraded(ctx, a)
		}
	}
	outcome, err := queue.Temporary, m.reasons(ctx)
	if !m.must && m.hasNoCMTP() {
		m.tested(m.failed[0].Server.Host)
		outcome, err = queue.Permanent, fmt.Errorf("%w: %w", ErrNoCMTP, err)
	}
	return meetError(m.found.Domain, outcome, err)
}

// hasNoCMTP reports whether every server of the best preference says so. What stands behind
// them in DNS is asked too, but where it is dead nobody need wait for it.
func (m *meeting) hasNoCMTP() bool {
	for _, s := range m.found.Servers {
		said := func(a discovery.Attempt) bool { return a.Server == s && errors.Is(a.Err, client.ErrNoCMTP) }
		if s.Preference == m.found.Servers[0].Preference && !slices.ContainsFunc(m.failed, said) {
			return false
		}
	}
	return true
}

// tested tells of what mode=enforce would have stopped, where the domain asks for that. Another key
// than those of a record that counts is held in either mode.
func (m *meeting) tested(host string) {
	if m.found.Published.Tested() {
		m.cfg.Log.Warn("a domain is met as mode=enforce would not allow", "domain", m.found.Domain, "host", host, "why", "it is met without CMTP 1")
		m.cfg.Tested()
	}
}

// downgraded notes that a domain is met without the CMTP 1 that it must have.
func (m *meeting) downgraded(ctx context.Context, a discovery.Attempt) error {
	if m.known == nil || !m.known.CMTP1 {
		return meetError(m.found.Domain, queue.Distrusted,
			fmt.Errorf("%w: it enforces its keys, and %s is met without CMTP 1", ErrDistrusted, a.Server.Host))
	}
	v := trust.Verdict{Why: trust.Downgraded}
	if len(m.known.Keys) > 0 {
		// No key was shown. The domain's own stands in, so that nothing but the lack of CMTP 1
		// is remembered of it.
		noted, err := m.cfg.Trust.Judge(ctx, m.found.Domain, trust.Sighting{Shown: m.known.Keys[0].Key.PublicKey, Record: m.record})
		if err != nil {
			m.cfg.Log.Error("it could not be noted that a domain is met without CMTP 1", "domain", m.found.Domain, "error", err)
		} else if !noted.Trusted {
			v = noted
		}
	}
	return &MeetError{Domain: m.found.Domain, Outcome: queue.Distrusted, Verdict: v,
		Err: fmt.Errorf("%w: %s: %w", ErrDistrusted, a.Server.Host, a.Err)}
}

// unreached joins why every address was of no use, the best first.
type unreached []discovery.Attempt

func (u unreached) Error() string {
	var b strings.Builder
	for i, a := range u {
		if i > 0 {
			b.WriteString("; ")
		}
		fmt.Fprintf(&b, "%s at %s: %v", a.Server.Host, a.Server.Addr, a.Err)
	}
	return b.String()
}

func (u unreached) Unwrap() []error {
	errs := make([]error, len(u))
	for i, a := range u {
		errs[i] = a.Err
	}
	return errs
}

func (m *meeting) reasons(ctx context.Context) error {
	if len(m.failed) == 0 {
		return context.Cause(ctx)
	}
	return unreached(m.failed)
}
