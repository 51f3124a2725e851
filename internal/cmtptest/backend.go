package cmtptest

import (
	"bufio"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// A Backend is a small mail server that expects a PROXY header of version 1. It
// takes mail for Domain, and for elsewhere only when it Relays.
type Backend struct {
	Addr   string
	Relays bool

	listener net.Listener
	sessions chan Session
	running  sync.WaitGroup
}

// A Session is what a Backend received in one connection.
type Session struct {
	Proxy    string // the PROXY header without its end
	Received string // everything after it
}

// NewBackend starts a Backend for the time of the test.
func NewBackend(t testing.TB, relays bool) *Backend {
	t.Helper()
	return NewBackendAt(t, "127.0.0.1:0", relays)
}

// NewBackendAt is NewBackend at an address that is known before.
func NewBackendAt(t testing.TB, address string, relays bool) *Backend {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	b := &Backend{Addr: l.Addr().String(), Relays: relays, listener: l, sessions: make(chan Session, 64)}
	b.running.Go(b.accept)
	t.Cleanup(func() {
		l.Close()
		b.running.Wait()
	})
	return b
}

// Next returns the next session of a client that is over, the daemon's own
// question at its start left out.
func (b *Backend) Next(t testing.TB) Session {
	t.Helper()
	late := time.After(patience)
	for {
		select {
		case s := <-b.sessions:
			if !strings.Contains(s.Received, "relay-check@") {
				return s
			}
		case <-late:
			t.Fatal("no session reached the backend and ended")
		}
	}
}

func (b *Backend) accept() {
	for {
		c, err := b.listener.Accept()
		if err != nil {
			return // closed
		}
		b.running.Go(func() {
			defer c.Close()
			c.SetDeadline(time.Now().Add(patience))
			b.sessions <- b.serve(c)
		})
	}
}

func (b *Backend) serve(c net.Conn) (s Session) {
	in := bufio.NewReader(c)
	proxy, err := in.ReadString('\n')
	if err != nil {
		return s
	}
	s.Proxy = strings.TrimRight(proxy, "\r\n")
	io.WriteString(c, "220 backend.example ESMTP\r\n") // a peer that left shows at the next read
	for {
		line, err := in.ReadString('\n')
		s.Received += line
		if err != nil {
			return s
		}
		reply := b.reply(strings.ToUpper(line))
		io.WriteString(c, reply+"\r\n")
		if strings.HasPrefix(reply, "221 ") {
			return s
		}
	}
}

func (b *Backend) reply(line string) string {
	verb, _, _ := strings.Cut(strings.TrimRight(line, "\r\n"), " ")
	switch verb {
	case "EHLO":
		return "250-backend.example\r\n250 8BITMIME"
	case "RCPT":
		if !b.Relays && !strings.Contains(line, "@"+strings.ToUpper(Domain)+">") {
			return "550 5.7.1 no relaying for strangers"
		}
		return "250 2.1.5 recipient"
	case "HELO", "MAIL", "NOOP", "RSET":
		return "250 2.0.0 backend " + verb
	case "QUIT":
		return "221 2.0.0 bye"
	}
	return "502 5.5.1 not here"
}
