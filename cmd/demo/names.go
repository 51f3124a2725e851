package main

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"sync"

	"github.com/miekg/dns"
)

// names is a DNS server that knows the two domains of the demonstration.
type names struct {
	addr   string
	server *dns.Server

	mu      sync.Mutex
	records []dns.RR // under mu
}

func startNames() (*names, error) {
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	n := &names{addr: conn.LocalAddr().String()}
	started := make(chan struct{})
	n.server = &dns.Server{PacketConn: conn, Handler: n, NotifyStartedFunc: func() { close(started) }}
	go n.server.ActivateAndServe()
	<-started
	return n, nil
}

func (n *names) stop() { n.server.Shutdown() }

// ServeDNS implements dns.Handler.
func (n *names) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	m := new(dns.Msg).SetReply(q)
	m.RecursionAvailable, m.Rcode = true, dns.RcodeNameError
	n.mu.Lock()
	for _, r := range n.records {
		if strings.EqualFold(r.Header().Name, q.Question[0].Name) {
			m.Rcode = dns.RcodeSuccess
			if r.Header().Rrtype == q.Question[0].Qtype {
				m.Answer = append(m.Answer, r)
			}
		}
	}
	n.mu.Unlock()
	w.WriteMsg(m)
}

// publish makes a server findable: what cmtpd's operator would put into the zone.
func (n *names) publish(s *stage) error {
	out, err := s.cmtpd("", "key", "show", "--json")
	if err != nil {
		return err
	}
	var keys struct {
		Identity struct {
			Key []byte `json:"key"`
		} `json:"identity"`
	}
	if err := json.Unmarshal([]byte(out), &keys); err != nil {
		return fmt.Errorf("reading key show --json: %w", err)
	}
	_, port, err := net.SplitHostPort(s.port)
	if err != nil {
		return err
	}
	zone := fmt.Sprintf("%[1]s. 60 IN MX 10 mail.%[1]s.\nmail.%[1]s. 60 IN A 127.0.0.1\n_cmtp.%[1]s. 60 IN TXT \"v=CMTP1; p=%[2]s; port=%[3]s\"",
		s.domain, base64.StdEncoding.EncodeToString(keys.Identity.Key), port)
	s.show(zone + "\n")
	n.mu.Lock()
	defer n.mu.Unlock()
	for line := range strings.Lines(zone) {
		r, err := dns.NewRR(line)
		if err != nil {
			return err
		}
		n.records = append(n.records, r)
	}
	return nil
}
