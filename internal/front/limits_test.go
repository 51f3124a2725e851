package front_test

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"cmtpd/internal/front"
)

// TestServer_SetLimits: limits count for connections that come, and those that are there stay.
func TestServer_SetLimits(t *testing.T) {
	s, addr := start(t, front.Config{}, echo("smtp"), echo("cmtp"), false)
	first, in := greeted(t, addr)
	says := func(setting, want string) {
		t.Helper()
		if got := readLine(t, bufio.NewReader(dial(t, addr))); got != want {
			t.Errorf("with %s it says %q", setting, got)
		}
	}
	s.SetLimits(front.Limits{MaxConnections: 10, MaxPerAddress: 1})
	says("MaxPerAddress", "421 4.7.0 mail.example has too many connections from your address, try again later\r\n")
	s.SetLimits(front.Limits{MaxConnections: 1, MaxPerAddress: 10})
	says("MaxConnections", "421 4.7.0 mail.example has too many connections, try again later\r\n")
	s.SetLimits(front.Limits{FirstCommandTimeout: time.Millisecond})
	_, late := greeted(t, addr)
	if got := all(t, late); got != "421 4.4.2 mail.example has waited too long for a command\r\n" {
		t.Errorf("a silent one is told %q", got)
	}
	s.SetLimits(front.Limits{ProxyFrom: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}})
	proxied := dial(t, addr)
	io.WriteString(proxied, "PROXY TCP4 198.51.100.7 198.51.100.8 1 25\r\nQUIT\r\n")
	answers := bufio.NewReader(proxied)
	readLine(t, answers)
	if got := readLine(t, answers); got != "smtp 198.51.100.7:1 198.51.100.8:25\n" {
		t.Errorf("through a proxy: %q", got)
	}
	io.WriteString(first, "QUIT\r\n")
	if got := readLine(t, in); !strings.HasPrefix(got, "smtp 127.0.0.1:") {
		t.Errorf("who was there before is answered %q", got)
	}
}

// A stuck connection is one that the loop which has accepted it does not get away from.
type stuck struct {
	net.Conn
	free chan struct{}
}

func (c stuck) RemoteAddr() net.Addr {
	<-c.free
	return c.Conn.RemoteAddr()
}

// A pipes listener hands out what it is given.
type pipes struct{ conns chan net.Conn }

func (l pipes) Accept() (net.Conn, error) {
	c, ok := <-l.conns
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}
func (l pipes) Close() error   { return nil }
func (l pipes) Addr() net.Addr { return &net.TCPAddr{} }

// TestServer_Alive: a loop that waits for connections is alive, and so is one that hands them on; one
// that is kept by a connection is not.
func TestServer_Alive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := front.New(front.Config{Hostname: "mail.example", IsCMTP: isCMTP}, echo("smtp"), echo("cmtp"))
		l := pipes{make(chan net.Conn)}
		served := make(chan error, 1)
		ctx, cancel := context.WithCancel(t.Context())
		go func() { served <- s.Serve(ctx, l, false) }()
		alive := func(want bool) {
			t.Helper()
			synctest.Wait()
			if err := s.Alive(time.Second); (err == nil) != want {
				t.Errorf("alive: %v, want %v", err, want)
			}
		}
		time.Sleep(time.Hour)
		alive(true)
		ours, theirs := net.Pipe()
		free := make(chan struct{})
		l.conns <- stuck{ours, free}
		alive(true)
		time.Sleep(time.Second)
		alive(true)
		time.Sleep(time.Millisecond)
		alive(false)
		close(free)
		alive(true)
		theirs.Close()
		cancel()
		close(l.conns)
		if err := <-served; err != nil {
			t.Error(err)
		}
		shutdown(t, s)
	})
}
