package client_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"

	"cmtpd/internal/address"
	"cmtpd/internal/channel"
	"cmtpd/internal/client"
	"cmtpd/internal/client/clienttest"
	"cmtpd/internal/cmtp"
)

// private returns a server that speaks CMTP 1.
func private(t testing.TB) *clienttest.Server {
	s := clienttest.NewServer(t)
	s.Private = true
	return s
}

// open opens a channel to a server and accepts it.
func open(t testing.TB, addr string) *client.Channel {
	t.Helper()
	return openWith(t, client.Dialer{Timeout: long}, addr)
}

func openWith(t testing.TB, d client.Dialer, addr string) *client.Channel {
	t.Helper()
	conn, ch, err := d.Open(t.Context(), addr, true)
	if err != nil || conn != nil {
		t.Fatalf("got %v, %v, %v; want a channel", conn, ch, err)
	}
	t.Cleanup(func() { ch.Close() })
	ch.Accept()
	return ch
}

// inject puts a byte behind the answer to STARTTLS.
func inject(c *clienttest.Conn) error {
	sig := c.Server.Key.Sign([]byte(cmtp.Success))
	c.Reply(append(cmtp.AppendWord(nil, cmtp.Success, sig), 200))
	return c.Handshake()
}

// injectLater puts a word in front of the server's part of the handshake.
func injectLater(c *clienttest.Conn) error {
	c.Word(cmtp.Success)
	c.In.Peek(1) // of the ClientHello
	c.Reply([]byte("SUCCESS"))
	return c.Handshake()
}

func TestDialer_Open(t *testing.T) {
	answer := func(verb cmtp.Verb, do func(*clienttest.Conn) error) func(*clienttest.Server) {
		return func(s *clienttest.Server) {
			s.Answer = func(c *clienttest.Conn, cmd cmtp.Command) (bool, error) {
				if c.Channel != nil || cmd.Verb != verb {
					return false, nil
				}
				return true, do(c)
			}
		}
	}
	failure := func(c *clienttest.Conn) error { return c.Word(cmtp.Failure) }
	version := func(v string) func(*clienttest.Server) {
		return answer(cmtp.Ohai, func(c *clienttest.Conn) error { return c.Reply(cmtp.AppendString(nil, "OHAI"+v)) })
	}
	turnedAway := &client.GreetingError{Line: "554 never"}
	type outcome struct {
		channel bool
		err     error
	}
	conn := outcome{}
	tests := map[string]struct {
		change    func(*clienttest.Server)
		must, may outcome
	}{
		"Private":            {func(*clienttest.Server) {}, outcome{channel: true}, outcome{channel: true}},
		"NoGreeting":         {func(s *clienttest.Server) { s.Greeting = "" }, outcome{channel: true}, outcome{channel: true}},
		"PartI":              {func(s *clienttest.Server) { s.Private = false }, outcome{err: client.ErrVersionStripped}, conn},
		"GreetingStripped":   {func(s *clienttest.Server) { s.Greeting = "220 mx.example.org ESMTP ready\r\n" }, outcome{err: client.ErrGreetingStripped}, outcome{err: client.ErrNoCMTP}},
		"TurnedAway":         {func(s *clienttest.Server) { s.Greeting = turnedAway.Line + "\r\n" }, outcome{err: turnedAway}, outcome{err: turnedAway}},
		"VersionStripped":    {version("CMTP/0.01 x/1"), outcome{err: client.ErrVersionStripped}, conn},
		"VersionAlike":       {version("CMTP/0.01 CMTP/10 xCMTP/1"), outcome{err: client.ErrVersionStripped}, conn},
		"VersionRefused":     {answer(cmtp.Ohai, failure), outcome{err: client.ErrVersionStripped}, outcome{err: cmtp.ErrFailure}},
		"VersionCut":         {answer(cmtp.Ohai, func(*clienttest.Conn) error { return io.EOF }), outcome{err: io.ErrUnexpectedEOF}, outcome{err: io.ErrUnexpectedEOF}},
		"StartTLSStripped":   {answer(cmtp.StartTLS, failure), outcome{err: client.ErrStartTLSStripped}, conn},
		"StartTLSOfAnother":  {answer(cmtp.StartTLS, func(c *clienttest.Conn) error { return c.Reply([]byte("502 5.5.1 unknown command\r\n")) }), outcome{err: client.ErrStartTLSStripped}, outcome{err: cmtp.ErrReply}},
		"StartTLSCut":        {answer(cmtp.StartTLS, func(*clienttest.Conn) error { return io.EOF }), outcome{err: client.ErrStartTLSUnanswered}, outcome{err: io.ErrUnexpectedEOF}},
		"CertificateSwapped": {func(s *clienttest.Server) { s.Certificate = clienttest.Key(t) }, outcome{err: client.ErrSwapped}, outcome{err: client.ErrSwapped}},
		"Injected":           {answer(cmtp.StartTLS, inject), outcome{err: channel.ErrInjected}, outcome{err: channel.ErrInjected}},
		"InjectedLater":      {answer(cmtp.StartTLS, injectLater), outcome{err: channel.ErrNotTLS}, outcome{err: channel.ErrNotTLS}},
	}
	for name, tt := range tests {
		for _, must := range []bool{true, false} {
			want := tt.may
			if must {
				want = tt.must
			}
			t.Run(fmt.Sprintf("%s/must=%v", name, must), func(t *testing.T) {
				s := private(t)
				tt.change(s)
				d := client.Dialer{Timeout: long, GreetingWait: 4 * short}
				conn, ch, err := d.Open(t.Context(), s.Start(t), must)
				checkOpened(t, s, conn, ch, err, want.channel, want.err)
			})
		}
	}
}

func checkOpened(t *testing.T, s *clienttest.Server, conn *client.Conn, ch *client.Channel, err error, private bool, want error) {
	t.Helper()
	var greeting *client.GreetingError
	if _, ok := want.(*client.GreetingError); ok {
		if !errors.As(err, &greeting) || errors.Is(err, client.ErrDowngrade) || conn != nil || ch != nil {
			t.Errorf("got %v, %v, %v; want a GreetingError", conn, ch, err)
		}
		return
	}
	if !errors.Is(err, want) || errors.Is(err, client.ErrDowngrade) != errors.Is(want, client.ErrDowngrade) || (ch != nil) != (want == nil && private) || (conn != nil) != (want == nil && !private) {
		t.Fatalf("got %v, %v, error %v; want %v", conn, ch, err, want)
	}
	switch {
	case ch != nil:
		defer ch.Close()
		if ch.ServerKey() != s.Key.Public() {
			t.Errorf("the server's key is %v", ch.ServerKey())
		}
	case conn != nil:
		defer conn.Close()
		if _, err := conn.ServerKey(); err != nil {
			t.Errorf("the Conn is out of step: %v", err)
		}
	}
}

// Errors of the kinds of a downgrade are told apart, by errors.Is and in words.
func TestErrDowngrade(t *testing.T) {
	all := []error{client.ErrGreetingStripped, client.ErrVersionStripped, client.ErrStartTLSStripped}
	words := []string{"greeting", "version", "STARTTLS"}
	for i, a := range all {
		for j, b := range all {
			if errors.Is(a, b) != (i == j) {
				t.Errorf("errors.Is(%v, %v) = %v", a, b, i != j)
			}
		}
		if !errors.Is(a, client.ErrDowngrade) || !strings.Contains(a.Error(), words[i]) {
			t.Errorf("%v does not name what was taken away", a)
		}
	}
}

// A server that agrees and then says nothing does not hold its client.
func TestConn_StartTLS_Silent(t *testing.T) {
	s := private(t)
	s.Answer = func(c *clienttest.Conn, cmd cmtp.Command) (bool, error) {
		if cmd.Verb != cmtp.StartTLS {
			return false, nil
		}
		c.Word(cmtp.Success)
		return true, drain(c)
	}
	d := client.Dialer{Timeout: 4 * short}
	_, _, err := d.Open(t.Context(), s.Start(t), true)
	if !errors.Is(err, channel.ErrHandshake) || !errors.Is(err, os.ErrDeadlineExceeded) || !client.Temporary(err) {
		t.Errorf("error %v, want a temporary timeout of the handshake", err)
	}
}

func TestDialer_Open_Cancelled(t *testing.T) {
	s := private(t)
	ctx, cancel := context.WithCancel(t.Context())
	s.Answer = func(c *clienttest.Conn, cmd cmtp.Command) (bool, error) {
		if cmd.Verb != cmtp.StartTLS {
			return false, nil
		}
		c.Word(cmtp.Success)
		cancel()
		return true, drain(c)
	}
	if _, _, err := (&client.Dialer{}).Open(ctx, s.Start(t), false); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want context.Canceled", err)
	}
}

// A channel that was not made leaves no connection to go on with in the clear.
func TestConn_StartTLS_Closed(t *testing.T) {
	s := private(t)
	s.Certificate = clienttest.Key(t)
	c := connect(t, s.Start(t))
	if _, err := c.StartTLS(t.Context()); !errors.Is(err, client.ErrSwapped) {
		t.Fatalf("error %v, want ErrSwapped", err)
	}
	if _, err := c.ServerKey(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("error %v, want net.ErrClosed", err)
	}
}

// What a Conn has become is not closed with it.
func TestConn_StartTLS_Moved(t *testing.T) {
	s := private(t)
	c := connect(t, s.Start(t))
	ch, err := c.StartTLS(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer ch.Close()
	c.Close()
	if _, err := ch.History(address.Address{Domain: domain("example.org")}); err != nil {
		t.Errorf("the channel went with the Conn: %v", err)
	}
}

func domain(s string) address.Domain { return must(address.ParseDomain(s)) }

func name(s string) address.Address { return must(address.Parse(s)) }

// Before the server's key was judged nothing leaves but KEYREQUEST.
func TestChannel_Accept(t *testing.T) {
	s := private(t)
	key := clienttest.Key(t)
	bob := name("bob@example.org")
	s.Users[bob.String()] = clienttest.User{Key: key.Public()}
	conn, ch, err := (&client.Dialer{Timeout: long}).Open(t.Context(), s.Start(t), false)
	if err != nil || conn != nil {
		t.Fatalf("%v, %v", conn, err)
	}
	if _, err := ch.History(bob); err != nil {
		t.Error(err)
	}
	calls := map[string]func() error{
		"Login":      func() error { _, err := ch.Login(bob); return err },
		"Auth":       func() error { _, err := ch.Auth(bob, key); return err },
		"AuthServer": func() error { return ch.AuthServer(domain("example.net"), bob.Domain, key) },
		"Unlock":     func() error { _, err := ch.Unlock(bob, [32]byte{}); return err },
		"Enroll":     func() error { _, err := ch.Enroll(bob, secret, [32]byte{}); return err },
		"Register":   func() error { _, err := ch.Register(bob, secret, &cmtp.RegisterForm{Xzibit: []byte{1}}); return err },
		"Upload":     func() error { _, err := ch.Upload(&cmtp.UploadForm{Xzibit: []byte{1}}); return err },
		"Recover":    func() error { _, err := ch.Recover(bob, key); return err },
		"Send":       func() error { _, err := ch.Send(header, nil, part{size: 100}, nil); return err },
		"Unseal":     func() error { _, _, err := client.Unseal(ch, bob, []byte("secret")); return err },
	}
	for name, call := range calls {
		if err := call(); !errors.Is(err, client.ErrNotAccepted) || client.Temporary(err) {
			t.Errorf("%s: error %v, want a final ErrNotAccepted", name, err)
		}
	}
	if _, err := ch.History(bob); err != nil {
		t.Errorf("the channel does not go on: %v", err)
	}
	ch.Close()
	s.Wait()
	for _, v := range s.Verbs() {
		if v != cmtp.Ohai && v != cmtp.StartTLS && v != cmtp.KeyRequest {
			t.Errorf("%v was sent", v)
		}
	}
}
