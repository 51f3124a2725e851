package main

import (
	"encoding/base64"
	"fmt"
	"net"
	"strings"
	"sync"

	"github.com/miekg/dns"

	"cmtpd/internal/crypt"
)

// A place is where the server of a domain is, and the key that the domain publishes.
type place struct {
	host string // of the mail exchanger, which many domains may share
	addr string // host:port
	key  crypt.PublicKey
}

// names is a DNS server that knows the domains of a measurement.
type names struct {
	addr   string
	server *dns.Server

	mu     sync.Mutex
	places map[string]place          // under mu: by domain
	many   func(domain string) place // under mu: for those that are too many to list; may be nil
	hosts  map[string]net.IP         // under mu: by name, with a final dot
}

func (l *lab) names() (*names, error) {
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	n := &names{addr: conn.LocalAddr().String(), places: make(map[string]place), hosts: make(map[string]net.IP)}
	started := make(chan struct{})
	n.server = &dns.Server{PacketConn: conn, Handler: n, NotifyStartedFunc: func() { close(started) }}
	go n.server.ActivateAndServe() // its error is that it was shut down
	<-started
	l.atEnd(n.server.Shutdown)
	return n, nil
}

// settings are what a site needs to ask this server alone, and to find others on loopback.
func (n *names) settings() string {
	return fmt.Sprintf("[dns]\nresolver = %q\n[delivery]\nloopback = true\n", n.addr)
}

// publish makes a domain's server findable.
func (n *names) publish(domain string, p place) error {
	host, _, err := net.SplitHostPort(p.addr)
	if err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.places[domain] = p
	n.hosts[p.host+"."] = net.ParseIP(host).To4()
	return nil
}

// ServeDNS implements dns.Handler.
func (n *names) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	m := new(dns.Msg).SetReply(q)
	m.RecursionAvailable = true
	if rr := n.answer(q.Question[0].Name, q.Question[0].Qtype); rr != nil {
		m.Answer = []dns.RR{rr}
	}
	w.WriteMsg(m) // who gets no answer asks again
}

// answer returns the one record of a type, or nil.
func (n *names) answer(name string, qtype uint16) dns.RR {
	head := dns.RR_Header{Name: name, Rrtype: qtype, Class: dns.ClassINET, Ttl: 3600}
	name = strings.ToLower(name)
	switch qtype {
	case dns.TypeA:
		n.mu.Lock()
		defer n.mu.Unlock()
		if ip := n.hosts[name]; ip != nil {
			return &dns.A{Hdr: head, A: ip}
		}
	case dns.TypeMX:
		if p := n.place(name); p.host != "" {
			return &dns.MX{Hdr: head, Preference: 10, Mx: p.host + "."}
		}
	case dns.TypeTXT:
		domain, ok := strings.CutPrefix(name, "_cmtp.")
		if p := n.place(domain); ok && p.host != "" {
			_, port, _ := net.SplitHostPort(p.addr) // as publish has checked
			return &dns.TXT{Hdr: head, Txt: []string{fmt.Sprintf("v=CMTP1; p=%s; port=%s", base64.StdEncoding.EncodeToString(p.key[:]), port)}}
		}
	}
	return nil
}

func (n *names) place(name string) place {
	n.mu.Lock()
	defer n.mu.Unlock()
	domain := strings.TrimSuffix(name, ".")
	if p, ok := n.places[domain]; ok || n.many == nil {
		return p
	}
	return n.many(domain)
}
