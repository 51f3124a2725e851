package discovery

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/miekg/dns"
)

const (
	// queryUDPSize is what resolvers are asked not to exceed on UDP: it comes
	// through nearly every path unfragmented.
	queryUDPSize = 1232
	// readUDPSize is what is read of a datagram all the same.
	readUDPSize = 4096
	// maxStray is how many datagrams that do not fit are waited past.
	maxStray = 8
)

// newQuery returns a question with a random ID that asks for DNSSEC's verdict.
func newQuery(q question) *dns.Msg {
	m := new(dns.Msg).SetQuestion(q.name, q.qtype)
	m.SetEdns0(queryUDPSize, true)
	m.AuthenticatedData = true // RFC 6840 section 5.7: says that AD is understood
	return m
}

// errTCP says that UDP will not do.
var errTCP = errors.New("the answer has to come over TCP")

// converse asks one resolver, over TCP if UDP will not do, and returns the first
// answer that fits, whatever it says.
func (r *resolver) converse(ctx context.Context, server string, query *dns.Msg) (*dns.Msg, error) {
	m, err := r.over(ctx, "udp", server, query)
	if errors.Is(err, errTCP) {
		m, err = r.over(ctx, "tcp", server, query)
	}
	return m, err
}

// over asks over one connection of its own. On UDP it is connected, so that the
// kernel gives it a random port, and lets nothing in from elsewhere.
func (r *resolver) over(ctx context.Context, network, server string, query *dns.Msg) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, r.timeout, fmt.Errorf("nothing came within %s", r.timeout))
	defer cancel()
	c, err := new(net.Dialer).DialContext(ctx, network, server)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	conn := &dns.Conn{Conn: c, UDPSize: readUDPSize}
	m, err := ask(conn, network == "tcp", query)
	if err != nil && ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return m, err
}

// ask sends a query and waits for what fits. Over TCP everything has to.
func ask(conn *dns.Conn, stream bool, query *dns.Msg) (*dns.Msg, error) {
	if err := conn.WriteMsg(query); err != nil {
		return nil, err
	}
	for range maxStray {
		p, err := conn.ReadMsgHeader(nil)
		if err != nil && !errors.Is(err, dns.ErrShortRead) {
			return nil, err
		}
		m := new(dns.Msg)
		fits := err == nil && m.Unpack(p) == nil && isReply(m, query)
		switch {
		case fits && (stream || !m.Truncated):
			return m, nil
		case fits:
			return nil, errTCP
		case stream:
			return nil, errors.New("what came is no answer to the question")
		}
	}
	return nil, errTCP // somebody is guessing
}

// isReply reports whether m answers query: RFC 5452 section 9.1.
func isReply(m, query *dns.Msg) bool {
	if !m.Response || m.Id != query.Id || m.Opcode != dns.OpcodeQuery || len(m.Question) != 1 {
		return false
	}
	got, want := m.Question[0], query.Question[0]
	return got.Qtype == want.Qtype && got.Qclass == want.Qclass && strings.EqualFold(got.Name, want.Name)
}
