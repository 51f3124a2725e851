package shorebird

import (
	"context"
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
	known    knownServers
	now      func() time.Time
	peers    map[string]*peer // by host:port
}

// A peer is a server that was reached.
type peer struct {
	*client.Conn
	key  crypt.PublicKey // its own
	used time.Time
}

// maxIdle is after how long without a word a server is called anew: it may have
// hung up.
const maxIdle = time.Minute

func (r *run) network() (*network, home, error) {
	h, err := newHome(r.Getenv)
	if err != nil {
		return nil, h, err
	}
	s, err := h.settings()
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
		flag:   r.server, settings: s, now: r.Now,
		known: knownServers{h.data, r.Now},
		peers: map[string]*peer{},
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
	if n.settings.Server != "" {
		return n.settings.Server, nil
	}
	return "", hint(fmt.Errorf("%w for %s", errNoServer, d),
		fmt.Sprintf("Name it with --server HOST:PORT, or in the configuration file under [servers]: %q = \"host:port\".", d.String()))
}

// peer returns the server at a place, called anew when it was not heard for long.
func (n *network) peer(ctx context.Context, where string) (*peer, error) {
	if p, ok := n.peers[where]; ok {
		if n.now().Sub(p.used) < maxIdle {
			return p, nil
		}
		n.drop(where)
	}
	conn, err := n.dialer.Connect(ctx, where)
	if err != nil {
		return nil, err
	}
	key, err := conn.ServerKey()
	if err != nil {
		conn.Close()
		return nil, err
	}
	p := &peer{Conn: conn, key: key, used: n.now()}
	n.peers[where] = p
	return p, nil
}

// drop ends the conversation with a server.
func (n *network) drop(where string) {
	if p, ok := n.peers[where]; ok {
		p.Close()
		delete(n.peers, where)
	}
}

func (n *network) close() {
	for where := range n.peers {
		n.drop(where)
	}
}

// An answer is a key that a server gave for an address, and who it was.
type answer struct {
	address address.Address
	key     crypt.PublicKey
	where   string // host:port
	server  crypt.PublicKey
	trust   Trust
}

// lookup asks the server of a's domain for the key of a. It returns a key only
// when the server is the one that is remembered or the first one, and signed it;
// from then on that server's key is remembered for the domain.
func (n *network) lookup(ctx context.Context, a address.Address) (*answer, error) {
	where, err := n.server(a.Domain)
	if err != nil {
		return nil, err
	}
	p, err := n.peer(ctx, where)
	if err != nil {
		return nil, err
	}
	trust, err := n.known.judge(a.Domain, p.key)
	if err != nil {
		return nil, err
	}
	key, err := p.Key(a.Account.String(), a.Domain.String(), p.key)
	if err != nil {
		n.drop(where)
		return nil, err
	}
	p.used = n.now()
	// A server that knows nobody of this domain is not the domain's: nothing is
	// learnt from it.
	if trust == FirstContact {
		if err := n.known.remember(ctx, a.Domain, p.key); err != nil {
			return nil, err
		}
	}
	return &answer{a, key, where, p.key, trust}, nil
}

// again returns the server that gave the answer. Where it had to be called anew it
// has to be the same one still.
func (n *network) again(ctx context.Context, a *answer) (*peer, error) {
	p, err := n.peer(ctx, a.where)
	if err != nil {
		return nil, err
	}
	if p.key != a.server {
		return nil, hint(fmt.Errorf("%s: %w while this was running", a.address.Domain, errKeyChanged), "Nothing was sent to it. Ask its operator.")
	}
	return p, nil
}
