// Package client speaks CMTP to a server: it connects, waits for the greeting
// as a guest on an SMTP port must, and exchanges commands for replies: those of
// CMTP 0.01 on a Conn, those of CMTP 1 on a Channel.
//
// It guarantees that nothing is taken for granted that the server did not sign
// with the key that the caller holds it to, or say in a channel bound to that key;
// that CMTP 1 is not given up for CMTP 0.01 unnoticed where the caller says that it
// must not be; and that a hostile server costs bounded memory and, through the
// context, bounded time. Its errors say whether trying again can help.
package client

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"cmtpd/internal/cmtp"
	"cmtpd/internal/crypt"
	"cmtpd/internal/xzibit"
)

// Errors of a conversation, besides those of the network and package cmtp.
var (
	// ErrNoCMTP: the server's greeting offers no CMTP, or it turned us away.
	ErrNoCMTP = errors.New("the server does not speak CMTP")
	// ErrSignature: a reply does not bear the signature of the server's key.
	ErrSignature = errors.New("the reply is not signed by the server's key")
	// ErrRefused: the server answered FAILURE. CMTP 0.01 cannot say why.
	ErrRefused = errors.New("the server refused")
)

// greetingWait is how long silence is listened to before it is taken for a
// listener that greets nobody (docs/protocol.md, One port). Servers greet late on
// purpose, to find out who cannot wait.
const greetingWait = 35 * time.Second

// Limits of a greeting.
const (
	maxGreetingLine  = 1024 // bytes
	maxGreetingLines = 100
)

// A Dialer makes connections.
type Dialer struct {
	// Dial connects; nil means net.Dialer.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Timeout bounds every single exchange, and while a message is sent the time
	// that may go without any progress. Zero means two minutes.
	Timeout time.Duration
	// GreetingWait is how long to listen to silence, at most Timeout. Zero means 35
	// seconds.
	GreetingWait time.Duration
}

// A link is what either part of the protocol is spoken over.
type link struct {
	conn    net.Conn
	below   net.Conn // what conn speaks over, or conn itself
	in      *bufio.Reader
	timeout time.Duration
	stop    func() bool // of the watch over the context
	closed  bool
}

// A Conn is one connection to a server, which speaks CMTP 0.01 over it. It is for
// one goroutine at a time.
type Conn struct {
	link
	moved bool // it has become a Channel
}

// Connect connects to the server at address, host:port, and waits until it may
// speak. The context bounds the whole life of the connection.
func (d *Dialer) Connect(ctx context.Context, address string) (*Conn, error) {
	timeout := d.Timeout
	if timeout == 0 {
		timeout = 2 * time.Minute
	}
	dial := d.Dial
	if dial == nil {
		dial = (&net.Dialer{Timeout: min(30*time.Second, timeout)}).DialContext
	}
	nc, err := dial(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("connecting to %s: %w", address, err)
	}
	c := &Conn{link: link{conn: nc, below: nc, timeout: timeout}}
	wait := d.GreetingWait
	if wait == 0 {
		wait = greetingWait
	}
	c.in = bufio.NewReader(nc)
	c.stop = context.AfterFunc(ctx, func() { nc.Close() })
	if err := c.greeting(min(wait, timeout)); err != nil {
		c.close()
		return nil, fmt.Errorf("connecting to %s: %w", address, cause(ctx, err))
	}
	return c, nil
}

// cause prefers the context's word to that of a connection it has closed.
func cause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// greeting reads the SMTP greeting that a shared port speaks first, all lines of
// it. Silence until wait is over means a listener for CMTP only.
func (c *Conn) greeting(wait time.Duration) error {
	c.conn.SetReadDeadline(time.Now().Add(wait))
	in := bufio.NewReaderSize(c.conn, maxGreetingLine)
	named := false
	for lines := range maxGreetingLines {
		line, err := in.ReadSlice('\n')
		var timeout net.Error
		switch {
		case errors.As(err, &timeout) && timeout.Timeout() && lines == 0 && len(line) == 0:
			return nil
		case errors.Is(err, bufio.ErrBufferFull):
			return fmt.Errorf("%w: its greeting has a line of more than %d bytes", ErrNoCMTP, maxGreetingLine)
		case err != nil:
			return fmt.Errorf("reading its greeting: %w", err)
		}
		text := strings.TrimRight(string(line), "\r\n")
		code, rest := text, ""
		if len(text) >= 4 {
			code, rest = text[:3], text[4:]
		}
		if code != "220" {
			return &GreetingError{Line: text}
		}
		for word := range strings.FieldsSeq(rest) {
			named = named || word == "CMTP"
		}
		if len(text) >= 4 && text[3] == '-' {
			continue
		}
		switch {
		case !named:
			return fmt.Errorf("%w: its greeting is %q", ErrNoCMTP, text)
		case in.Buffered() > 0:
			return fmt.Errorf("%w: it went on talking after its greeting", ErrNoCMTP)
		}
		return nil
	}
	return fmt.Errorf("%w: its greeting has more than %d lines", ErrNoCMTP, maxGreetingLines)
}

// A GreetingError is a greeting that turns the client away.
type GreetingError struct{ Line string }

func (e *GreetingError) Error() string { return fmt.Sprintf("the server turned us away: %q", e.Line) }

// Temporary reports whether the server may take us later: its code begins with 4.
func (e *GreetingError) Temporary() bool { return strings.HasPrefix(e.Line, "4") }

// Unwrap makes a GreetingError an ErrNoCMTP when it is final.
func (e *GreetingError) Unwrap() error {
	if e.Temporary() {
		return nil
	}
	return ErrNoCMTP
}

// Close says goodbye and closes the connection. It leaves alone what has become a
// Channel.
func (c *Conn) Close() error {
	if c.moved || c.closed {
		return nil
	}
	c.send(&cmtp.Command{Verb: cmtp.Obai})
	return c.close()
}

func (l *link) close() error { return l.shut(l.conn) }

// drop closes the connection without a word, for which a server that has stopped
// reading would take no time.
func (l *link) drop() error { return l.shut(l.below) }

func (l *link) shut(c net.Conn) error {
	if l.closed {
		return nil
	}
	l.closed = true
	l.stop()
	return c.Close()
}

func (l *link) send(cmd *cmtp.Command) error { return l.write(cmd.Verb, cmd.Append(nil)) }

// write sends b, and begins the time that the exchange may take.
func (l *link) write(verb cmtp.Verb, b []byte) error {
	l.conn.SetDeadline(time.Now().Add(l.timeout))
	if _, err := l.conn.Write(b); err != nil {
		return fmt.Errorf("sending %v: %w", verb, err)
	}
	return nil
}

// Version exchanges OHAI and returns the server's version string.
func (c *Conn) Version() (string, error) {
	if err := c.send(&cmtp.Command{Verb: cmtp.Ohai}); err != nil {
		return "", err
	}
	s, err := cmtp.ReadString(c.in)
	if err != nil {
		return "", err
	}
	version, ok := strings.CutPrefix(s, cmtp.Ohai.String())
	if !ok {
		return "", fmt.Errorf("%w: it answered OHAI with %q", ErrNoCMTP, s)
	}
	return version, nil
}

// ServerKey asks for the server's own key and returns it once its signature of
// itself is right. Whether it is the key of the server that was meant is for the
// caller to judge.
func (c *Conn) ServerKey() (crypt.PublicKey, error) {
	key, _, err := c.requestKey("", "", nil)
	if err != nil {
		return key, fmt.Errorf("asking for the server's key: %w", err)
	}
	return key, nil
}

// Key asks for the key that mail to account@domain is sealed to. server is the
// key that must have signed the answer.
func (c *Conn) Key(account, domain string, server crypt.PublicKey) (crypt.PublicKey, error) {
	key, _, err := c.SignedKey(account, domain, server)
	return key, err
}

// SignedKey is Key with the signature that was checked, for who has to show it to others.
func (c *Conn) SignedKey(account, domain string, server crypt.PublicKey) (crypt.PublicKey, crypt.Signature, error) {
	key, sig, err := c.requestKey(account, domain, &server)
	if err != nil {
		return key, sig, fmt.Errorf("asking for the key of %s@%s: %w", account, domain, err)
	}
	return key, sig, nil
}

func (c *Conn) requestKey(account, domain string, server *crypt.PublicKey) (key crypt.PublicKey, sig crypt.Signature, err error) {
	cmd := &cmtp.Command{Verb: cmtp.KeyRequest, Params: [3][]byte{[]byte(account), []byte(domain)}}
	if err := c.send(cmd); err != nil {
		return key, sig, err
	}
	key, sig, err = cmtp.ReadKey(c.in)
	if err != nil {
		return crypt.PublicKey{}, crypt.Signature{}, c.refusal(err, sig, server)
	}
	if _, err := crypt.ParsePublicKey(key[:]); err != nil {
		return crypt.PublicKey{}, crypt.Signature{}, err
	}
	if server == nil {
		server = &key
	}
	if !crypt.Verify(*server, key[:], sig) {
		return crypt.PublicKey{}, crypt.Signature{}, ErrSignature
	}
	return key, sig, nil
}

// refusal returns the error for a reply that err was read as: ErrRefused where
// it is a FAILURE that the server signed.
func (c *Conn) refusal(err error, sig crypt.Signature, server *crypt.PublicKey) error {
	if !errors.Is(err, cmtp.ErrFailure) {
		return err
	}
	if server != nil && !crypt.Verify(*server, []byte(cmtp.Failure), sig) {
		return fmt.Errorf("it answered FAILURE, but %w", ErrSignature)
	}
	return ErrRefused
}

// Login asks for the xzibit of user, account or account@domain. Its outer layout
// has been checked, and its signature by server.
func (c *Conn) Login(user string, server crypt.PublicKey) ([]byte, error) {
	if len(user) > cmtp.MaxString { // two strings that are short enough may make one that is not
		return nil, fmt.Errorf("asking for the sealed keys of %s: the address has more than the %d bytes that LOGIN can carry", user, cmtp.MaxString)
	}
	cmd := &cmtp.Command{Verb: cmtp.Login, Params: [3][]byte{[]byte(user)}}
	if err := c.send(cmd); err != nil {
		return nil, err
	}
	x, sig, err := cmtp.ReadXzibit(c.in, xzibit.ReadFrom)
	if err != nil {
		return nil, fmt.Errorf("asking for the sealed keys of %s: %w", user, c.refusal(err, sig, &server))
	}
	if !crypt.Verify(server, x, sig) {
		return nil, fmt.Errorf("asking for the sealed keys of %s: %w", user, ErrSignature)
	}
	return x, nil
}

// final are errors that a network trouble may be wrapped beside, and that trying again
// does not mend: somebody has to look at them.
var final = []error{ErrDowngrade, ErrSwapped, ErrReceipt, ErrSignature}

// Temporary reports whether err may go away by itself: the network's troubles,
// a server that is busy or whose status says so, and FAILURE, which has no reason and
// so may be either (protocol.md section 2). What somebody on the path can do to any
// connection, to cut it or to alter it, counts among the troubles of the network.
func Temporary(err error) bool {
	if errors.Is(err, ErrStartTLSUnanswered) {
		return true
	}
	for _, f := range final {
		if errors.Is(err, f) {
			return false
		}
	}
	var greeting *GreetingError
	if errors.As(err, &greeting) {
		return greeting.Temporary()
	}
	var status *cmtp.StatusError
	if errors.As(err, &status) {
		return status.Temporary()
	}
	return lost(err) || errors.Is(err, ErrRefused)
}

// lost reports whether err says that a connection broke or fell silent. It does
// not ask for net.Error, which every error of a file is, too.
func lost(err error) bool {
	var network *net.OpError
	return errors.As(err, &network) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF)
}
