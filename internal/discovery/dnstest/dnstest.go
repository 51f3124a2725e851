// Package dnstest is a name server for tests: one that answers for zones as a
// resolver would, and one that lies, dawdles and fails where a test wants it to.
//
// It serves UDP and TCP on one port. It validates nothing: that DNSSEC vouches for
// an answer is for the test to say.
package dnstest

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/miekg/dns"
)

// A Behaviour is what is wrong, or different, with the answers for a name. What is
// zero is as it should be.
type Behaviour struct {
	AD       bool            // DNSSEC vouches for the answer
	Rcode    int             // the code of an answer without records
	Drop     bool            // no answer
	Hold     <-chan struct{} // no answer before it is closed
	Truncate bool            // on UDP: no records, and the bit that says so
	Partial  bool            // a chain of CNAMEs is left after its first link
	// Stray are sent ahead of the answer on UDP, as Forge makes them.
	Stray []Stray
	// Edit has the last word on the answer, on UDP or on TCP.
	Edit func(m *dns.Msg)
}

// A Stray is a datagram that must be ignored. Its records claim that they are the
// answer.
type Stray struct {
	Forged    string // a record in zone file form
	Wrong     Wrong
	Elsewhere bool // sent from another port
}

// Wrong is what is wrong with a stray datagram.
type Wrong int

// Nothing (but where it comes from), the ID, the name, type or number of questions,
// a query instead of a reply, bytes that are no message, too few for a header.
const (
	Nothing Wrong = iota
	ID
	Name
	Type
	Questions
	NoReply
	Garbage
	Short
)

// A Query is what a server was asked.
type Query struct {
	Name string // lower-case, with a final dot
	Type uint16
	Net  string // "udp" or "tcp"
	Msg  *dns.Msg
}

// A Server is running until Close.
type Server struct {
	Addr string // host:port

	udp, tcp *dns.Server
	packets  net.PacketConn
	once     sync.Once
	closed   chan struct{}

	mu      sync.Mutex
	zone    zone                 // under mu
	rules   map[string]Behaviour // under mu: by name, and name and type; "" is everything
	queries []Query              // under mu
	asked   chan struct{}        // under mu: closed and replaced at every query
}

// Start serves a zone, which is text in zone file form with full names, on a free
// port of 127.0.0.1 until the test is over.
func Start(t testing.TB, text string) *Server {
	t.Helper()
	s, err := Listen("127.0.0.1:0", text)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// Listen serves a zone at host:port.
func Listen(addr, text string) (*Server, error) {
	zone, err := parseZone(text)
	if err != nil {
		return nil, err
	}
	packets, listener, err := onePort(addr)
	if err != nil {
		return nil, err
	}
	s := &Server{
		Addr: packets.LocalAddr().String(), packets: packets, closed: make(chan struct{}),
		zone: zone, rules: make(map[string]Behaviour), asked: make(chan struct{}),
	}
	started := make(chan struct{}, 2)
	up := func() { started <- struct{}{} }
	handler := func(network string) dns.Handler {
		return dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) { s.serve(w, q, network) })
	}
	s.udp = &dns.Server{PacketConn: packets, Handler: handler("udp"), NotifyStartedFunc: up}
	s.tcp = &dns.Server{Listener: listener, Handler: handler("tcp"), NotifyStartedFunc: up}
	for _, server := range []*dns.Server{s.udp, s.tcp} {
		go server.ActivateAndServe() // its error is that it was closed
		<-started
	}
	return s, nil
}

// onePort listens on UDP and TCP alike. A port that is free for one of them may be
// taken for the other.
func onePort(addr string) (net.PacketConn, net.Listener, error) {
	for {
		packets, err := net.ListenPacket("udp", addr)
		if err != nil {
			return nil, nil, err
		}
		listener, err := net.Listen("tcp", packets.LocalAddr().String())
		if err == nil {
			return packets, listener, nil
		}
		packets.Close()
		if !errors.Is(err, syscall.EADDRINUSE) || !strings.HasSuffix(addr, ":0") {
			return nil, nil, err
		}
	}
}

// Close ends the server, and may be called again. Answers that are held are not
// given any more.
func (s *Server) Close() {
	s.once.Do(func() {
		close(s.closed)
		s.udp.Shutdown()
		s.tcp.Shutdown()
	})
}

// SetZone replaces all records.
func (s *Server) SetZone(t testing.TB, text string) {
	t.Helper()
	if err := s.Replace(text); err != nil {
		t.Fatal(err)
	}
}

// Replace is SetZone where there is no test at hand.
func (s *Server) Replace(text string) error {
	zone, err := parseZone(text)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.zone = zone
	return nil
}

// Set says how the server behaves when it is asked for a name. Of types, only if
// some are given; the empty name is every name. What is most exact counts.
func (s *Server) Set(b Behaviour, name string, types ...uint16) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(types) == 0 {
		s.rules[key(name, 0)] = b
	}
	for _, qtype := range types {
		s.rules[key(name, qtype)] = b
	}
}

func key(name string, qtype uint16) string {
	if name != "" {
		name = strings.ToLower(dns.Fqdn(name))
	}
	return fmt.Sprint(name, " ", qtype)
}

// behaviour is called under mu.
func (s *Server) behaviour(name string, qtype uint16) Behaviour {
	for _, k := range []string{key(name, qtype), key(name, 0), key("", qtype)} {
		if b, ok := s.rules[k]; ok {
			return b
		}
	}
	return s.rules[key("", 0)]
}

// Queries returns everything that was asked.
func (s *Server) Queries() []Query {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Query(nil), s.queries...)
}

// Count returns how often a name was asked for, of one type or, for 0, of any.
func (s *Server) Count(name string, qtype uint16) (n int) {
	for _, q := range s.Queries() {
		if (name == "" || q.Name == strings.ToLower(dns.Fqdn(name))) && (qtype == 0 || q.Type == qtype) {
			n++
		}
	}
	return n
}

// Await returns once the server has been asked n times for a name.
func (s *Server) Await(t testing.TB, n int, name string, qtype uint16) {
	t.Helper()
	for {
		s.mu.Lock()
		asked := s.asked
		s.mu.Unlock()
		if s.Count(name, qtype) >= n {
			return
		}
		select {
		case <-asked:
		case <-t.Context().Done():
			t.Fatalf("%s was asked for %d times, not %d", name, s.Count(name, qtype), n)
		}
	}
}

// note writes a query down and returns how to behave.
func (s *Server) note(q *dns.Msg, network string) (zone, Behaviour) {
	name, qtype := strings.ToLower(q.Question[0].Name), q.Question[0].Qtype
	s.mu.Lock()
	defer s.mu.Unlock()
	s.queries = append(s.queries, Query{name, qtype, network, q.Copy()})
	close(s.asked)
	s.asked = make(chan struct{})
	return s.zone, s.behaviour(name, qtype)
}

func (s *Server) serve(w dns.ResponseWriter, q *dns.Msg, network string) {
	zone, b := s.note(q, network)
	if network == "udp" {
		s.stray(w, q, b.Stray)
	}
	if b.Hold != nil {
		select {
		case <-b.Hold:
		case <-s.closed:
			return
		}
	}
	if b.Drop {
		return
	}
	m := new(dns.Msg).SetReply(q)
	m.RecursionAvailable, m.AuthenticatedData = true, b.AD
	switch {
	case b.Rcode != 0:
		m.Rcode = b.Rcode
	case b.Truncate && network == "udp":
		m.Truncated = true
	default:
		zone.answer(m, b.Partial)
	}
	if q.IsEdns0() != nil {
		m.SetEdns0(1232, true)
	}
	if b.Edit != nil {
		b.Edit(m)
	}
	if network == "udp" {
		m.Truncate(1232)
	}
	w.WriteMsg(m) // the client may be gone
}

// stray sends what must be ignored.
func (s *Server) stray(w dns.ResponseWriter, q *dns.Msg, strays []Stray) {
	for _, stray := range strays {
		p, err := forge(q, stray)
		if err != nil {
			panic("dnstest: " + err.Error())
		}
		from := s.packets
		if stray.Elsewhere {
			if from, err = net.ListenPacket("udp", "127.0.0.1:0"); err != nil {
				panic("dnstest: " + err.Error())
			}
			defer from.Close()
		}
		from.WriteTo(p, w.RemoteAddr()) // the client may be gone
	}
}

func forge(q *dns.Msg, stray Stray) ([]byte, error) {
	m := new(dns.Msg).SetReply(q)
	m.RecursionAvailable, m.AuthenticatedData = true, true
	rr, err := dns.NewRR(stray.Forged)
	if err != nil || rr == nil {
		return nil, fmt.Errorf("the forged record %q: %v", stray.Forged, err)
	}
	m.Answer = []dns.RR{rr}
	switch stray.Wrong {
	case ID:
		m.Id++
	case Name:
		m.Question[0].Name = "x" + m.Question[0].Name
	case Type:
		m.Question[0].Qtype = dns.TypeNS
	case Questions:
		m.Question = append(m.Question, m.Question[0])
	case NoReply:
		m.Response = false
	}
	p, err := m.Pack()
	switch stray.Wrong {
	case Garbage:
		p = append(p[:12], "\xc0\x0c\xc0\x0c"...)
	case Short:
		p = p[:11]
	}
	return p, err
}
