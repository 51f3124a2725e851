package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/smtp"
	"strings"
	"sync"
	"time"

	gosmtp "github.com/emersion/go-smtp"
	"github.com/pires/go-proxyproto"
)

// A mail is what the sink received.
type mail struct{ client, from, to, data string }

// A sink is the mail server behind: it takes mail for one domain from anybody,
// and mail for elsewhere from nobody.
type sink struct {
	addr   string
	domain string
	server *gosmtp.Server
	done   chan error

	mu   sync.Mutex
	mail []mail // under mu
}

func startSink(domain string) (*sink, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	k := &sink{addr: l.Addr().String(), domain: domain, done: make(chan error, 1)}
	k.server = gosmtp.NewServer(k)
	k.server.Domain = "backend." + domain
	k.server.ReadTimeout, k.server.WriteTimeout = time.Minute, time.Minute
	k.server.MaxMessageBytes, k.server.MaxRecipients = 1<<20, 10
	// Who the client is it learns from the header that cmtpd sends first.
	go func() {
		k.done <- k.server.Serve(&proxyproto.Listener{Listener: l, ReadHeaderTimeout: 10 * time.Second})
	}()
	return k, nil
}

func (k *sink) stop() {
	k.server.Close()
	<-k.done
}

func (k *sink) last() mail {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.mail) == 0 {
		return mail{}
	}
	return k.mail[len(k.mail)-1]
}

// NewSession implements gosmtp.Backend.
func (k *sink) NewSession(c *gosmtp.Conn) (gosmtp.Session, error) {
	return &sinkSession{sink: k, mail: mail{client: c.Conn().RemoteAddr().String()}}, nil
}

type sinkSession struct {
	sink *sink
	mail mail
}

func (s *sinkSession) Mail(from string, _ *gosmtp.MailOptions) error {
	s.mail.from = from
	return nil
}

func (s *sinkSession) Rcpt(to string, _ *gosmtp.RcptOptions) error {
	if !strings.HasSuffix(to, "@"+s.sink.domain) {
		return &gosmtp.SMTPError{Code: 550, EnhancedCode: gosmtp.EnhancedCode{5, 7, 1}, Message: "no relaying for strangers"}
	}
	s.mail.to = to
	return nil
}

func (s *sinkSession) Data(r io.Reader) error {
	data, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	s.mail.data = string(data)
	s.sink.mu.Lock()
	defer s.sink.mu.Unlock()
	s.sink.mail = append(s.sink.mail, s.mail)
	return nil
}

func (s *sinkSession) Reset()        {}
func (s *sinkSession) Logout() error { return nil }

const smtpText = "An ordinary letter, by SMTP."

func sendSMTP(addr, from, to string) error {
	c, err := smtp.Dial(addr)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := errors.Join(c.Hello("client.example"), c.Mail(from)); err != nil {
		return err
	}
	if err := c.Rcpt(to); err != nil {
		return err
	}
	w, err := c.Data()
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(w, "From: %s\r\nTo: %s\r\nSubject: hello\r\n\r\n%s\r\n", from, to, smtpText); err != nil {
		return err
	}
	return errors.Join(w.Close(), c.Quit())
}
