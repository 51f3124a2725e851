package client_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"cmtpd/internal/channel"
	"cmtpd/internal/client"
	"cmtpd/internal/client/clienttest"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/crypt"
	"cmtpd/internal/xzibit"
)

// short is for what must time out, long for what must not.
const (
	short = 50 * time.Millisecond
	long  = 20 * time.Second
)

func connect(t *testing.T, addr string) *client.Conn {
	t.Helper()
	c, err := (&client.Dialer{Timeout: long}).Connect(t.Context(), addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestDialer_Connect(t *testing.T) {
	endless := strings.Repeat("220-CMTP and more\r\n", 200)
	tests := map[string]struct {
		greeting  string
		hangUp    bool // after the greeting; else silence
		want      error
		temporary bool
	}{
		"OneLine":             {greeting: clienttest.Greeting},
		"ManyLines":           {greeting: "220-mx.example.org\r\n220-CMTP here\r\n220 ready\r\n"},
		"Silence":             {},
		"SilenceAfterALine":   {greeting: "220-mx.example.org ESMTP\r\n", want: os.ErrDeadlineExceeded, temporary: true},
		"SilenceAfterNaming":  {greeting: "220-mx.example.org CMTP\r\n", want: os.ErrDeadlineExceeded, temporary: true},
		"SilenceWithinALine":  {greeting: "220 mx.exam", want: os.ErrDeadlineExceeded, temporary: true},
		"OnlySMTP":            {greeting: "220 mx.example.org ESMTP Postfix\r\n", want: client.ErrNoCMTP},
		"CMTPWithinAWord":     {greeting: "220 mx.example.org NOTCMTP\r\n", want: client.ErrNoCMTP},
		"Busy":                {greeting: "421 4.3.2 mx.example.org too many\r\n", want: new421(), temporary: true},
		"TurnedAway":          {greeting: "554 no CMTP for you\r\n", want: client.ErrNoCMTP},
		"TurnedAwayInTheEnd":  {greeting: "220-CMTP\r\n554 no\r\n", want: client.ErrNoCMTP},
		"TalksOn":             {greeting: clienttest.Greeting + "250 what\r\n", want: client.ErrNoCMTP},
		"EndlessLines":        {greeting: endless, want: client.ErrNoCMTP},
		"EndlessLine":         {greeting: "220 " + strings.Repeat("a", 5000), want: client.ErrNoCMTP},
		"HangsUp":             {hangUp: true, want: io.EOF, temporary: true},
		"HangsUpWithinALine":  {greeting: "220 mx", hangUp: true, want: io.EOF, temporary: true},
		"HangsUpBetweenLines": {greeting: "220-CMTP\r\n", hangUp: true, want: io.EOF, temporary: true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			addr := clienttest.Listen(t, func(c net.Conn) {
				io.WriteString(c, tt.greeting)
				if !tt.hangUp {
					io.Copy(io.Discard, c)
				}
			})
			d := client.Dialer{GreetingWait: 4 * short}
			c, err := d.Connect(t.Context(), addr)
			if err == nil {
				c.Close()
			}
			var greeting *client.GreetingError
			if _, ok := tt.want.(*client.GreetingError); ok && !errors.As(err, &greeting) || !ok && !errors.Is(err, tt.want) {
				t.Fatalf("error %v, want %v", err, tt.want)
			}
			if got := client.Temporary(err); err != nil && got != tt.temporary {
				t.Errorf("Temporary(%v) = %v", err, got)
			}
		})
	}
}

// Whoever is in a hurry does not wait longer for a greeting than for any answer.
func TestDialer_Connect_Hurry(t *testing.T) {
	addr := clienttest.Listen(t, func(c net.Conn) { io.Copy(io.Discard, c) })
	began := time.Now()
	c, err := (&client.Dialer{Timeout: short}).Connect(t.Context(), addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if d := time.Since(began); d > long/2 {
		t.Errorf("it has listened to silence for %v", d)
	}
}

func new421() error { return &client.GreetingError{} }

func TestDialer_Connect_Cancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	addr := clienttest.Listen(t, func(c net.Conn) {
		cancel() // the client is waiting for a greeting now, or about to
		io.Copy(io.Discard, c)
	})
	if _, err := (&client.Dialer{}).Connect(ctx, addr); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want context.Canceled", err)
	}
}

func TestConn_Version(t *testing.T) {
	tests := map[string]struct {
		reply string
		want  string
		err   error
	}{
		"OK":         {reply: "OHAICMTP/0.01 x/1\x00", want: "CMTP/0.01 x/1"},
		"Failure":    {reply: "FAILURE", err: cmtp.ErrFailure},
		"OtherWords": {reply: "HELLO\x00", err: client.ErrNoCMTP},
		"Endless":    {reply: "OHAI" + strings.Repeat("CMTP/0.01 ", 1000), err: cmtp.ErrReply},
		"CutShort":   {reply: "OHAICM", err: io.ErrUnexpectedEOF},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s := clienttest.NewServer(t)
			s.Answer = func(c *clienttest.Conn, cmd cmtp.Command) (bool, error) {
				io.WriteString(c, tt.reply)
				return true, io.EOF
			}
			got, err := connect(t, s.Start(t)).Version()
			if got != tt.want || !errors.Is(err, tt.err) {
				t.Errorf("got %q, %v; want %q, %v", got, err, tt.want, tt.err)
			}
		})
	}
}

func TestConn_Key(t *testing.T) {
	s := clienttest.NewServer(t)
	bob := clienttest.Key(t).Public()
	s.Users["bob@example.org"] = clienttest.User{Key: bob}
	addr := s.Start(t)
	stranger := clienttest.Key(t).Public()

	t.Run("OK", func(t *testing.T) {
		c := connect(t, addr)
		server, err := c.ServerKey()
		if err != nil || server != s.Key.Public() {
			t.Fatalf("server key %v, %v", server, err)
		}
		if got, err := c.Key("bob", "example.org", server); err != nil || got != bob {
			t.Errorf("got %v, %v", got, err)
		}
	})
	t.Run("Unknown", func(t *testing.T) {
		_, err := connect(t, addr).Key("eve", "example.org", s.Key.Public())
		if !errors.Is(err, client.ErrRefused) || !client.Temporary(err) {
			t.Errorf("error %v, want a temporary ErrRefused", err)
		}
	})
	t.Run("OtherServer", func(t *testing.T) {
		if _, err := connect(t, addr).Key("bob", "example.org", stranger); !errors.Is(err, client.ErrSignature) {
			t.Errorf("error %v, want ErrSignature", err)
		}
	})
	t.Run("OtherServersFailure", func(t *testing.T) {
		_, err := connect(t, addr).Key("eve", "example.org", stranger)
		if !errors.Is(err, client.ErrSignature) || errors.Is(err, client.ErrRefused) {
			t.Errorf("error %v, want ErrSignature", err)
		}
	})
}

func TestConn_ServerKey(t *testing.T) {
	key, other := clienttest.Key(t), clienttest.Key(t)
	public := key.Public()
	good := cmtp.AppendKey(nil, public, key.Sign(public[:]))
	identity := crypt.PublicKey{0: 1} // the neutral element: of order 1
	tests := map[string]struct {
		reply []byte
		want  error
	}{
		"OK":             {good, nil},
		"WrongSignature": {cmtp.AppendKey(nil, public, other.Sign(public[:])), client.ErrSignature},
		"SmallOrder":     {cmtp.AppendKey(nil, identity, key.Sign(identity[:])), crypt.ErrPublicKey},
		"Failure":        {cmtp.AppendWord(nil, cmtp.Failure, key.Sign([]byte(cmtp.Failure))), client.ErrRefused},
		"Version2":       {append([]byte{0, 0, 0, 2}, good[4:]...), cmtp.ErrReply},
		"NoNUL":          {append(good[:len(good)-1:len(good)-1], 1), cmtp.ErrReply},
		"CutShort":       {good[:len(good)-1], io.ErrUnexpectedEOF},
		"Nothing":        {nil, io.ErrUnexpectedEOF},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s := clienttest.NewServer(t)
			s.Answer = func(c *clienttest.Conn, cmd cmtp.Command) (bool, error) {
				c.Reply(tt.reply)
				return true, io.EOF
			}
			if _, err := connect(t, s.Start(t)).ServerKey(); !errors.Is(err, tt.want) {
				t.Errorf("error %v, want %v", err, tt.want)
			}
		})
	}
}

// A server that sends a byte now and then must not hold a client for ever: the
// time is for the whole exchange.
func TestConn_ServerKey_Dripping(t *testing.T) {
	s := clienttest.NewServer(t)
	public := s.Key.Public()
	reply := cmtp.AppendKey(nil, public, s.Key.Sign(public[:]))
	s.Answer = func(c *clienttest.Conn, cmd cmtp.Command) (bool, error) {
		every := time.NewTicker(short)
		defer every.Stop()
		for i := range reply {
			<-every.C
			if _, err := c.Write(reply[i : i+1]); err != nil {
				return true, err
			}
		}
		return true, nil
	}
	c, err := (&client.Dialer{Timeout: 4 * short}).Connect(t.Context(), s.Start(t))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	began := time.Now()
	_, err = c.ServerKey()
	if !errors.Is(err, os.ErrDeadlineExceeded) || !client.Temporary(err) {
		t.Errorf("error %v, want a temporary timeout", err)
	}
	// 101 bytes at that pace would take 25 times as long.
	if took := time.Since(began); took > 12*short {
		t.Errorf("took %v with a timeout of %v", took, 4*short)
	}
}

func sealedKeys(t *testing.T, addr string) []byte {
	t.Helper()
	ring := &xzibit.Keyring{Keys: []xzibit.KeyPair{{Key: clienttest.Key(t)}}}
	x, err := xzibit.Seal(ring, addr, []byte("secret"), xzibit.Params{Time: 1, MemoryKiB: 8, Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func TestConn_Login(t *testing.T) {
	const addr = "bob@example.org"
	good := sealedKeys(t, addr)
	huge := append([]byte(nil), good...)
	for i := range 8 {
		huge[36+i] = 0x7f // its length: 2^63
	}
	tests := map[string]struct {
		xzibit []byte
		signer *crypt.PrivateKey // nil: the server
		want   error
	}{
		"OK":             {xzibit: good},
		"WrongSignature": {xzibit: good, signer: clienttest.Key(t), want: client.ErrSignature},
		"HugeLength":     {xzibit: huge, want: xzibit.ErrFormat},
		"Version4":       {xzibit: append([]byte{0, 0, 0, 4}, good[4:]...), want: xzibit.ErrVersion},
		"CutShort":       {xzibit: good[:60], want: io.ErrUnexpectedEOF},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s := clienttest.NewServer(t)
			signer := tt.signer
			if signer == nil {
				signer = s.Key
			}
			s.Answer = func(c *clienttest.Conn, cmd cmtp.Command) (bool, error) {
				if string(cmd.User()) != addr {
					return false, nil
				}
				c.Reply(tt.xzibit)
				if name == "CutShort" {
					return true, io.EOF
				}
				sig := signer.Sign(tt.xzibit)
				return true, c.Reply(append(sig[:], 0))
			}
			got, err := connect(t, s.Start(t)).Login(addr, s.Key.Public())
			if !errors.Is(err, tt.want) || tt.want == nil && !bytes.Equal(got, tt.xzibit) {
				t.Errorf("got %d bytes, error %v; want %v", len(got), err, tt.want)
			}
		})
	}
	t.Run("LongestName", func(t *testing.T) {
		s := clienttest.NewServer(t)
		c, name := connect(t, s.Start(t)), strings.Repeat("a", cmtp.MaxString)
		if _, err := c.Login(name, s.Key.Public()); !errors.Is(err, client.ErrRefused) {
			t.Errorf("error %v, want the server's", err)
		}
		if _, err := c.Login(name+"a", s.Key.Public()); err == nil || client.Temporary(err) {
			t.Errorf("error %v, want a final one", err)
		}
	})
	t.Run("Unknown", func(t *testing.T) {
		s := clienttest.NewServer(t)
		if _, err := connect(t, s.Start(t)).Login("eve@example.org", s.Key.Public()); !errors.Is(err, client.ErrRefused) {
			t.Errorf("error %v, want ErrRefused", err)
		}
	})
}

// part is a part of size bytes, of which it can be made to fail at some point.
type part struct {
	size, fail int64 // fail: after as many bytes; 0: never
}

var errPart = errors.New("the file cannot be read")

func (p part) Size() int64 { return p.size }

func (p part) WriteTo(w io.Writer) (int64, error) {
	chunk := make([]byte, 32<<10)
	for n := int64(0); n < p.size; {
		if p.fail > 0 && n >= p.fail {
			return n, errPart
		}
		m, err := w.Write(chunk[:min(int64(len(chunk)), p.size-n)])
		if n += int64(m); err != nil {
			return n, err
		}
	}
	return p.size, nil
}

var header = cmtp.Header{
	System: cmtp.SystemSealed, DestinationAccount: "bob", DestinationDomain: "example.org",
	SourceAccount: "alice", SourceDomain: "example.net",
}

func send(c *client.Conn, s *clienttest.Server, attachment part) error {
	return c.Send(header, nil, part{size: 100}, []cmtp.Part{attachment}, s.Key.Public())
}

func TestConn_Send(t *testing.T) {
	s := clienttest.NewServer(t)
	c := connect(t, s.Start(t))
	for range 2 { // the connection stays in step
		if err := send(c, s, part{size: 1 << 20}); err != nil {
			t.Fatal(err)
		}
	}
	var want bytes.Buffer
	if err := cmtp.WriteMessage(&want, header, nil, part{size: 100}, []cmtp.Part{part{size: 1 << 20}}); err != nil {
		t.Fatal(err)
	}
	got := s.Messages()
	if len(got) != 2 || !bytes.Equal(got[0], want.Bytes()) || !bytes.Equal(got[1], want.Bytes()) {
		t.Errorf("%d messages came, want 2 as they were written", len(got))
	}
}

// onMail lets do answer MAIL.
func onMail(s *clienttest.Server, do func(c *clienttest.Conn) error) {
	s.Answer = func(c *clienttest.Conn, cmd cmtp.Command) (bool, error) {
		if cmd.Verb != cmtp.Mail {
			return false, nil
		}
		return true, do(c)
	}
}

// A server may refuse a large message after its first bytes. The client notices,
// though the server takes no more of it, and says that it was refused.
func TestConn_Send_RefusedEarly(t *testing.T) {
	ends := map[string]func(context.Context, *clienttest.Conn) error{
		"AndStops":   func(test context.Context, _ *clienttest.Conn) error { <-test.Done(); return nil },
		"AndHangsUp": func(context.Context, *clienttest.Conn) error { return io.EOF }, // with bytes unread: a reset
		"AndDrains":  func(_ context.Context, c *clienttest.Conn) error { return drain(c) },
	}
	for name, end := range ends {
		t.Run(name, func(t *testing.T) {
			s := clienttest.NewServer(t)
			onMail(s, func(c *clienttest.Conn) error {
				if _, err := c.In.Discard(200); err != nil {
					return err
				}
				if err := c.Word(cmtp.Failure); err != nil {
					return err
				}
				return end(t.Context(), c)
			})
			err := send(connect(t, s.Start(t)), s, part{size: 1 << 40}) // for ever, at any speed
			if !errors.Is(err, client.ErrRefused) {
				t.Errorf("error %v, want ErrRefused", err)
			}
		})
	}
}

func TestConn_Send_Errors(t *testing.T) {
	stranger := clienttest.Key(t)
	tests := map[string]struct {
		do   func(*clienttest.Conn) error
		part part
		want error
	}{
		"SuccessTooEarly": {func(c *clienttest.Conn) error { c.Word(cmtp.Success); return drain(c) }, part{size: 1 << 40}, cmtp.ErrReply},
		"SuccessOfAStranger": {func(c *clienttest.Conn) error {
			drainMessage(c)
			return c.Reply(cmtp.AppendWord(nil, cmtp.Success, stranger.Sign([]byte(cmtp.Success))))
		}, part{size: 1000}, client.ErrSignature},
		"FailureOfAStranger": {func(c *clienttest.Conn) error {
			return c.Reply(cmtp.AppendWord(nil, cmtp.Failure, stranger.Sign([]byte(cmtp.Failure))))
		}, part{size: 1 << 40}, client.ErrSignature},
		"Refused": {func(c *clienttest.Conn) error {
			drainMessage(c)
			return c.Word(cmtp.Failure)
		}, part{size: 1000}, client.ErrRefused},
		"VanishesBeforeTheReply": {func(c *clienttest.Conn) error { drainMessage(c); return io.EOF }, part{size: 1000}, io.ErrUnexpectedEOF},
		"VanishesWithinTheReply": {func(c *clienttest.Conn) error {
			drainMessage(c)
			c.Reply([]byte(cmtp.Success + "half a signature"))
			return io.EOF
		}, part{size: 1000}, io.ErrUnexpectedEOF},
		"Babbles": {func(c *clienttest.Conn) error { c.Reply([]byte("250 OK as ever\r\n")); return drain(c) }, part{size: 1 << 40}, cmtp.ErrReply},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s := clienttest.NewServer(t)
			onMail(s, tt.do)
			if err := send(connect(t, s.Start(t)), s, tt.part); !errors.Is(err, tt.want) {
				t.Errorf("error %v, want %v", err, tt.want)
			}
		})
	}
}

func drain(c *clienttest.Conn) error {
	_, err := io.Copy(io.Discard, c.In)
	return err
}

func drainMessage(c *clienttest.Conn) error {
	r, err := cmtp.NewMessageReader(c.In, 1<<30)
	if err == nil {
		_, err = io.Copy(io.Discard, r)
	}
	return err
}

// What a file that cannot be read to its end leaves of a message must never get
// whole: not by the goodbye either, whose bytes could be the ones that lack.
func TestConn_Send_PartFails(t *testing.T) {
	s := clienttest.NewServer(t)
	came := make(chan error, 1)
	onMail(s, func(c *clienttest.Conn) error {
		err := drainMessage(c)
		came <- err
		return err
	})
	c := connect(t, s.Start(t))
	const size = 32<<10 + 5 // len("OBAI\x00") bytes more than it gets
	if err := send(c, s, part{size: size, fail: 32 << 10}); !errors.Is(err, errPart) {
		t.Fatalf("error %v, want the part's own", err)
	}
	c.Close()
	if err := <-came; !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("the server read a message that ended in %v, want one cut short", err)
	}
}

func TestConn_Send_Stalled(t *testing.T) {
	s := clienttest.NewServer(t)
	onMail(s, func(*clienttest.Conn) error { <-t.Context().Done(); return nil })
	c, err := (&client.Dialer{Timeout: 4 * short}).Connect(t.Context(), s.Start(t))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := send(c, s, part{size: 1 << 40}); !errors.Is(err, os.ErrDeadlineExceeded) || !client.Temporary(err) {
		t.Errorf("error %v, want a temporary timeout", err)
	}
}

func TestConn_Send_Cancelled(t *testing.T) {
	s := clienttest.NewServer(t)
	ctx, cancel := context.WithCancel(t.Context())
	onMail(s, func(c *clienttest.Conn) error {
		cancel()
		return drain(c)
	})
	c, err := (&client.Dialer{}).Connect(ctx, s.Start(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := send(c, s, part{size: 1 << 40}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("error %v, want the closed connection's", err)
	}
	if len(s.Messages()) != 0 {
		t.Error("a message that was cut short came whole")
	}
}

func TestTemporary(t *testing.T) {
	tests := []struct {
		err  error
		want bool
	}{
		{client.ErrRefused, true},
		{fmt.Errorf("x: %w", io.ErrUnexpectedEOF), true},
		{&net.OpError{Op: "dial", Err: errors.New("connection refused")}, true},
		{&client.GreetingError{Line: "421 later"}, true},
		{&client.GreetingError{Line: "554 never"}, false},
		{client.ErrSignature, false},
		{fmt.Errorf("x: %w", &cmtp.StatusError{Status: 450}), true},
		{&cmtp.StatusError{Status: 550}, false},
		{channel.ErrTruncated, true},
		{channel.ErrInjected, false},
		{fmt.Errorf("%w: %w", client.ErrAltered, &net.OpError{Op: "local error"}), true},
		{client.ErrVersionStripped, false},
		{fmt.Errorf("%w (%w)", client.ErrStartTLSStripped, client.ErrRefused), false},
		{fmt.Errorf("%w (%w)", client.ErrStartTLSUnanswered, io.ErrUnexpectedEOF), true},
		{client.ErrSwapped, false},
		{fmt.Errorf("%w: %w", client.ErrReceipt, io.ErrUnexpectedEOF), false},
		{client.ErrNotAccepted, false},
		{&os.PathError{Op: "read", Path: "attachment", Err: syscall.EIO}, false},
		{client.ErrNoCMTP, false},
		{bufio.ErrBufferFull, false},
	}
	for _, tt := range tests {
		if got := client.Temporary(tt.err); got != tt.want {
			t.Errorf("Temporary(%v) = %v", tt.err, got)
		}
	}
}
