package shorebird

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"cmtpd/internal/address"
	"cmtpd/internal/client"
	"cmtpd/internal/crypt"
)

// A network is the servers that one run talks to.
type network struct {
	dialer   client.Dialer
	flag     string // --server, which outranks the settings
	settings *settings
	own      func(address.Address) bool // whether an account is the user's
	known    knownServers
	contacts contacts
	accept   bool            // keys of contacts that do not follow from what is remembered
	only     crypt.PublicKey // the one that may be accepted; zero: any
	now      func() time.Time
	note     func(format string, args ...any)
	peers    map[string]*peer         // by host:port
	trusts   map[address.Domain]Trust // of the first answer of this run
}

// maxIdle is after how long without a word a server is called anew: it may have
// hung up.
const maxIdle = time.Minute

func (r *run) network() (*network, home, error) {
	h, s, err := r.home()
	if err != nil {
		return nil, h, err
	}
	if r.server != "" {
		if err := checkServer(r.server); err != nil {
			return nil, h, usage(fmt.Errorf("--server: %w", err))
		}
	}
	if err := h.make(); err != nil {
		return nil, h, err
	}
	return &network{
		dialer: client.Dialer{Dial: r.Dial, Timeout: r.timeout, GreetingWait: r.GreetingWait},
		flag:   r.server, settings: s, now: r.Now, note: r.note,
		own:   func(a address.Address) bool { return a == s.Account || h.hasKeys(a) },
		known: newKnownServers(h.data, r.Now), contacts: newContacts(h.data, r.Now),
		peers: map[string]*peer{}, trusts: map[address.Domain]Trust{},
	}, h, nil
}

// checkServer refuses what is no host:port.
func checkServer(s string) error {
	host, port, err := net.SplitHostPort(s)
	if err == nil && host == "" {
		err = fmt.Errorf("%q names no host", s)
	}
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		return fmt.Errorf("%q is not HOST:PORT: %v", s, err) // not a trouble of the network
	}
	return nil
}

// server returns where the server of a domain is.
func (n *network) server(d address.Domain) (string, error) {
	if n.flag != "" {
		return n.flag, nil
	}
	if s, ok := n.settings.Servers[d.String()]; ok {
		return s, nil
	}
	if s := n.settings.home(d); s != "" {
		return s, nil
	}
	if n.settings.Server != "" {
		return n.settings.Server, nil
	}
	return "", hint(fmt.Errorf("%w for %s", errNoServer, d),
		fmt.Sprintf("Name it with --server HOST:PORT, or in the configuration file under [servers]: %q = \"host:port\".", d.String()))
}

// An answer is a key that a server gave for an address, and who it was.
type answer struct {
	address address.Address
	key     crypt.PublicKey
	history *crypt.History // nil from CMTP 0.01, which has none
	where   string         // host:port
	server  crypt.PublicKey
	trust   Trust
	before  crypt.PublicKey // that was remembered of the address; zero when none was
	change  KeyChange
	told    *told // by the user's own server, which was asked in place of the address's; or nil
}

// domain returns the server of a domain, accepted.
func (n *network) domain(ctx context.Context, d address.Domain) (*peer, Trust, error) {
	p, trust, err := n.reach(ctx, d)
	if err == nil {
		p.accept()
	}
	return p, trust, err
}

// reach returns the server of a domain, once its key is the one that is remembered, or
// that this one has named, or the first.
func (n *network) reach(ctx context.Context, d address.Domain) (*peer, Trust, error) {
	where, err := n.server(d)
	if err != nil {
		return nil, "", err
	}
	known, err := n.known.load()
	if err != nil {
		return nil, "", err
	}
	p, err := n.peer(ctx, where, known[d.String()].CMTP1)
	if err != nil {
		return nil, "", err
	}
	trust, err := n.judge(ctx, d, p, known)
	if err != nil {
		return nil, "", err
	}
	return p, trust, nil
}

// judge says how far a server can be trusted that is there for a domain.
func (n *network) judge(ctx context.Context, d address.Domain, p *peer, known map[string]knownServer) (Trust, error) {
	trust, err := compare(known, d, p.key)
	if errors.Is(err, errKeyChanged) && p.channel != nil {
		trust, err = n.succession(ctx, d, p, known[d.String()].Key, err)
	}
	return trust, err
}

// succession asks a server with another key than the remembered one whether that one
// has named it. Else changed is what is wrong.
func (n *network) succession(ctx context.Context, d address.Domain, p *peer, was string, changed error) (Trust, error) {
	key, ok := parseKey(was)
	h, err := p.channel.History(address.Address{Domain: d})
	if client.Temporary(err) {
		n.drop(p.where)
		return "", err
	}
	if err != nil || !ok || !h.Follows(key) {
		return "", changed
	}
	return n.succeed(ctx, d, was, p.key)
}

// succeed remembers a server's new key, which the one before has named.
func (n *network) succeed(ctx context.Context, d address.Domain, was string, key crypt.PublicKey) (Trust, error) {
	if err := n.known.succeed(ctx, d, was, key); err != nil {
		return "", err
	}
	n.note("The server of %s has a new key, which the one before has named: %s", d, key)
	return Succeeded, nil
}

// lookup is inquire for a key that somebody else has: it must follow from what is
// remembered of a, and is remembered from then on.
func (n *network) lookup(ctx context.Context, a address.Address) (*answer, error) {
	found, err := n.inquire(ctx, a)
	if err != nil {
		return nil, err
	}
	return n.acquaint(ctx, found)
}

// acquaint holds an answer against what is remembered of its address, and remembers it.
func (n *network) acquaint(ctx context.Context, found *answer) (*answer, error) {
	if err := n.contacts.meet(ctx, found, n.accept && (n.only == crypt.PublicKey{} || n.only == found.key)); err != nil {
		name := found.address
		name.Account = name.Account.Base()
		if errors.Is(err, errTrust) && n.own(name) {
			err = hint(err, fmt.Sprintf("Your account was given new keys. If that was you: shorebird recover %s. If not, tell the server's operator, by other means. Nothing was sent.", name))
		}
		return nil, err
	}
	if found.change == Rotated {
		n.note("%s has a new key, which the one before has signed for: %s", found.address, found.key)
	}
	return found, nil
}

// inquire asks the server of a's domain for the key of a. It returns a key only
// when the server is the one that is remembered or the first one, and signed it;
// from then on that server's key is remembered for the domain.
func (n *network) inquire(ctx context.Context, a address.Address) (*answer, error) {
	p, trust, err := n.domain(ctx, a.Domain)
	if err != nil {
		return nil, err
	}
	found := &answer{address: a, where: p.where, server: p.key, trust: trust}
	if found.key, found.history, err = p.ask(a); err != nil {
		if !isStatus(err) {
			n.drop(p.where)
		}
		return nil, err
	}
	p.used = n.now()
	// A server that knows nobody of this domain is not the domain's: nothing is
	// learnt from it.
	if err := n.meet(ctx, a.Domain, p, trust); err != nil {
		return nil, err
	}
	// What this run itself has remembered makes the server no better known.
	if first, ok := n.trusts[a.Domain]; ok {
		found.trust = first
	}
	n.trusts[a.Domain] = found.trust
	return found, nil
}

// meet remembers a server that has spoken for its domain.
func (n *network) meet(ctx context.Context, d address.Domain, p *peer, trust Trust) error {
	known, err := n.known.load()
	if err != nil {
		return err
	}
	if trust != FirstContact && (p.channel == nil || known[d.String()].CMTP1) {
		return nil
	}
	return n.known.remember(ctx, d, p.key, p.channel != nil)
}

// again returns the server that gave the answer. Where it had to be called anew it
// has to be the same one still.
func (n *network) again(ctx context.Context, a *answer) (*peer, error) {
	domain, key, private := a.address.Domain, a.server, a.history != nil
	if a.told != nil {
		domain, key, private = a.told.by, a.told.key, true
	}
	p, err := n.peer(ctx, a.where, private)
	if err != nil {
		return nil, err
	}
	if p.key != key {
		return nil, hint(fmt.Errorf("%s: %w while this was running", domain, errKeyChanged), "Nothing was sent to it. Ask its operator.")
	}
	p.accept()
	return p, nil
}
