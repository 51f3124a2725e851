package discovery

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// Bounds of asking (docs/protocol.md section 23.8).
const (
	maxResolvers = 3
	maxTries     = 2 // of a resolver that does not answer
	maxQuestions = 256
	maxAtOnce    = 4 // of them for the hosts of one domain
	maxCached    = 10000
)

// A resolver asks the configured resolver, or the system's, and remembers what it
// said.
type resolver struct {
	servers func() []string // host:port, never empty
	timeout time.Duration   // of one exchange
	trusted bool            // whether AD counts
	fresh   reader          // what every reader begins as
	now     func() time.Time

	cache   *cache
	flights *flights
	running chan struct{} // holds one token for each question under way
}

// aside returns one that shares what is remembered, and neither places nor questions under way.
func (r *resolver) aside() *resolver {
	other := *r
	other.flights, other.running = newFlights(), make(chan struct{}, maxQuestions)
	return &other
}

// ask returns what DNS says, from memory if it is known. The answer is never nil;
// its err is an *Error. A caller that gives up leaves the question under way for
// the others that wait for it, and for who asks again where there are places for all.
func (r *resolver) ask(ctx context.Context, name string, qtype uint16) *answer {
	q := questionOf(name, qtype)
	if a := r.cache.get(q, r.now()); a != nil {
		return a
	}
	fl := r.flights.join(ctx, q, func(ctx context.Context) *answer {
		asked := r.cache.epoch()
		if a := r.cache.get(q, r.now()); a != nil {
			return a // of a flight that landed just before
		}
		a := r.resolve(ctx, q)
		if ctx.Err() == nil {
			r.cache.put(q, a, asked, r.now())
		}
		return a
	})
	defer func() { r.flights.leave(fl, len(r.running) == cap(r.running)) }()
	select {
	case <-fl.landed:
		return fl.answer
	case <-ctx.Done():
		return &answer{err: questionError(q.name, qtype, ended(ctx))}
	}
}

func questionOf(name string, qtype uint16) question {
	return question{strings.ToLower(dns.Fqdn(name)), qtype}
}

// forget has questions asked anew: nobody gets what is remembered, or waits for what is under way.
func (r *resolver) forget(questions []question) {
	r.cache.forget(questions)
	r.flights.forget(questions)
}

// ended returns why ctx has: its end in time is nobody's decision.
func ended(ctx context.Context) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("%w: %w", ErrTimeout, context.Cause(ctx))
	}
	return context.Cause(ctx)
}

// resolve asks, and along a chain of CNAMEs asks again. Each question takes a
// bounded time, and so does all of it.
func (r *resolver) resolve(ctx context.Context, q question) *answer {
	ctx, cancel := context.WithTimeout(ctx, 2*maxResolvers*maxTries*r.timeout)
	defer cancel()
	in := r.fresh
	in.question, in.name, in.ttl, in.authenticated = q, q.name, maxTTL, r.trusted
	err := r.read(ctx, &in)
	if err != nil {
		in.err = questionError(q.name, q.qtype, err)
	}
	if isTemporary(in.err) {
		in.ttl, in.authenticated = failureTTL, false
	}
	in.expires = r.now().Add(in.ttl)
	a := in.answer // without what it took to read it
	return &a
}

// enter waits for a place, which those make whom nobody waits for.
func (r *resolver) enter(ctx context.Context) (leave func(), err error) {
	leave = func() { <-r.running }
	select {
	case r.running <- struct{}{}:
		return leave, nil
	default:
		r.flights.clear()
	}
	select {
	case r.running <- struct{}{}:
		return leave, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %d questions are under way already", ErrTimeout, cap(r.running))
	}
}

func (r *resolver) read(ctx context.Context, in *reader) error {
	leave, err := r.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	for {
		m, err := r.exchange(ctx, question{in.name, in.qtype})
		if err != nil {
			return err
		}
		if done, err := in.read(m); done {
			return err
		}
	}
}

// exchange asks the resolvers in order until one says what is so. Those that did
// not answer are asked once more. The error wraps ErrRefused if any had no answer,
// ErrTimeout otherwise.
func (r *resolver) exchange(ctx context.Context, q question) (*dns.Msg, error) {
	var why error
	servers := r.servers()
	for range maxTries {
		var silent []string
		for _, server := range servers {
			m, err := r.try(ctx, server, newQuery(q))
			if err == nil {
				return m, nil
			}
			if errors.Is(err, ErrTimeout) {
				silent = append(silent, server)
			}
			if why == nil || errors.Is(err, ErrRefused) {
				why = err
			}
		}
		servers = silent
	}
	return nil, why
}

// try asks one resolver, and makes of its code what the code means.
func (r *resolver) try(ctx context.Context, server string, query *dns.Msg) (*dns.Msg, error) {
	m, err := r.converse(ctx, server, query)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: %s: %w", ErrTimeout, server, err)
	case m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError:
		return nil, fmt.Errorf("%w: %s says %s", ErrRefused, server, codes(m))
	case !m.RecursionAvailable && !m.Authoritative:
		return nil, fmt.Errorf("%w: %s does not resolve names for this host", ErrRefused, server)
	}
	return m, nil
}

// codes returns the code of an answer, and the reason if one is given (RFC 8914).
func codes(m *dns.Msg) string {
	code := dns.RcodeToString[m.Rcode]
	if code == "" {
		code = "code " + strconv.Itoa(m.Rcode)
	}
	opt := m.IsEdns0()
	if opt == nil {
		return code
	}
	for _, o := range opt.Option {
		if ede, ok := o.(*dns.EDNS0_EDE); ok && dns.ExtendedErrorCodeToString[ede.InfoCode] != "" {
			return code + " (" + dns.ExtendedErrorCodeToString[ede.InfoCode] + ")"
		}
	}
	return code
}

// A system is the list of resolvers that resolv.conf holds. It is read again when
// it may have changed, since networks come and go under a running daemon.
type system struct {
	path string
	now  func() time.Time

	mu   sync.Mutex
	read time.Time // under mu
	list []string  // under mu
}

// rereadEvery bounds how often resolv.conf is read.
const rereadEvery = 5 * time.Second

// servers returns at most maxResolvers, as host:port. Without a file, or a name in
// it, that is this host (resolv.conf(5)).
func (s *system) servers() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if since := s.now().Sub(s.read); s.list != nil && 0 <= since && since < rereadEvery {
		return s.list
	}
	s.read, s.list = s.now(), nil
	if c, err := dns.ClientConfigFromFile(s.path); err == nil {
		for _, ip := range c.Servers[:min(len(c.Servers), maxResolvers)] {
			s.list = append(s.list, net.JoinHostPort(ip, c.Port))
		}
	}
	if len(s.list) == 0 {
		s.list = []string{"127.0.0.1:53", "[::1]:53"}
	}
	return s.list
}
