// Package channel is the private channel of CMTP 1 (protocol.md section 15): TLS 1.3
// whose server shows one certificate, made of its Ed25519 identity key. It knows
// no commands: a session agrees on STARTTLS, hands the connection over, and goes
// on inside.
//
// It guarantees that both sides speak TLS 1.3 with ALPN cmtp/1 and a key exchange
// of X25519MLKEM768 or X25519, that no session is resumed and nothing is sent
// early, that the server holds the key that ServerKey names, that no byte from
// before the handshake is taken for one from inside, and that an end which the
// peer did not announce is told from one that it did. Whether a key is the
// right one is the caller's to judge, before it sends anything.
package channel

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"cmtpd/internal/crypt"
)

const (
	// Protocol is what both sides name in ALPN (RFC 7301).
	Protocol = "cmtp/1"
	// BindingLabel is the label under which TLS exports what an AUTH is bound to
	// (RFC 8446 section 7.5), without a context.
	BindingLabel = "EXPORTER-CMTP-1-AUTH"
	// BindingSize is the length of that value in bytes.
	BindingSize = 32
	// DefaultTimeout bounds a handshake, the wait for its turn included.
	DefaultTimeout = 10 * time.Second
)

// keyExchanges are all that either side takes. crypto/tls puts the hybrid first
// whatever their order.
var keyExchanges = []tls.CurveID{tls.X25519MLKEM768, tls.X25519}

// Errors of a handshake. All but ErrInjected and ErrAltered come with ErrHandshake.
var (
	// ErrInjected says that bytes were unread when the handshake was to begin:
	// they were sent in the clear, by anybody, to be taken for private ones.
	ErrInjected = errors.New("bytes came before the TLS handshake, where somebody may have put them")
	// ErrHandshake says that there is no channel. The connection is of no use.
	ErrHandshake = errors.New("the TLS handshake failed")
	// ErrNotTLS says that the peer's first bytes are not TLS: what was put into
	// the stream behind the agreement to start it is one cause.
	ErrNotTLS = errors.New("what the peer sent is not TLS")
	// ErrVersion says that a client does not offer TLS 1.3.
	ErrVersion = errors.New("the client does not offer TLS 1.3")
	// ErrKeyExchange says that a client offers none of our key exchanges.
	ErrKeyExchange = errors.New("the client offers neither X25519MLKEM768 nor X25519")
	// ErrSignature says that a client cannot verify an Ed25519 certificate.
	ErrSignature = errors.New("the client does not take Ed25519 signatures")
	// ErrProtocol says that the peer did not name Protocol in ALPN.
	ErrProtocol = errors.New("the peer did not agree on " + Protocol + " (ALPN)")
	// ErrCertificate says that a server's certificate is not one alone with a
	// usable Ed25519 key. It also wraps crypt.ErrPublicKey where that is why.
	ErrCertificate = errors.New("the server does not show one certificate with an Ed25519 identity key")
	// ErrCertificateRequest says that a server asks for a client's certificate.
	ErrCertificateRequest = errors.New("the server asks for a client certificate, which nobody has in CMTP")
	// ErrUnproved says that a server has not signed the handshake with the key that its
	// certificate has: anybody can show a copy of that.
	ErrUnproved = errors.New("the server does not hold the key of the certificate that it shows, which may be a copy of another server's")
	// ErrAltered says that what came is not what the peer sent, or that the peer says so
	// of what this side sent. Somebody in between has added, taken away, exchanged or
	// altered something. It comes from Read and Write of a Conn, and without
	// ErrHandshake, which says that of a handshake.
	ErrAltered = errors.New("what is sent in the private channel was altered on the way")
	// ErrBusy says that other handshakes took all the time that this one had.
	ErrBusy = errors.New("too many handshakes at once: try again later")
)

// ErrTruncated is what Read returns when the connection ended and the peer had
// not said that it would (close_notify): somebody may have cut it. It wraps
// io.ErrUnexpectedEOF, and is never io.EOF.
var ErrTruncated error = truncated{}

// A Conn is a connection inside of TLS. Deadlines are those of the connection
// below it, so setting them there is the same. After a read that timed out it
// can be used on, after a write that did it cannot (crypto/tls). Close tells the
// peer that this is the end, within 5 seconds, and closes the connection below.
type Conn struct {
	net.Conn // the *tls.Conn
	wire     *wire
	below    net.Conn
	server   crypt.PublicKey
	binding  [BindingSize]byte
}

// Read reads what the peer has sent. It wraps ErrAltered and ErrTruncated.
func (c *Conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err != nil {
		err = named(err)
	}
	return n, err
}

// Write sends. It wraps ErrAltered where that has ended the channel. It is for one goroutine at a time.
func (c *Conn) Write(p []byte) (n int, err error) {
	if len(p) > maxRecord {
		c.wire.hold()
	}
	n, err = c.Conn.Write(p)
	if len(p) > maxRecord {
		if lost := c.wire.release(); err == nil && lost != nil {
			n, err = 0, lost
		}
	}
	if err != nil {
		err = named(err)
	}
	return n, err
}

// named adds ErrAltered to the errors by which crypto/tls tells it: an alert, of ours or
// the peer's, and what cannot be the beginning of a record.
func named(err error) error {
	var alert *net.OpError
	var header tls.RecordHeaderError
	if errors.As(err, &alert) && (alert.Op == "local error" || alert.Op == "remote error") || errors.As(err, &header) {
		return fmt.Errorf("%w: %w", ErrAltered, err)
	}
	return err
}

// ServerKey returns the server's identity key, which the handshake has proved it
// to hold.
func (c *Conn) ServerKey() crypt.PublicKey { return c.server }

// Binding returns what an AUTH in this channel covers. It is the same on both
// sides, and on no other connection.
func (c *Conn) Binding() [BindingSize]byte { return c.binding }

// CloseWrite tells the peer that nothing more comes (close_notify), and half-closes
// the connection below where it can. Reading goes on, so netbuf.Conn's Farewell
// works inside as it does outside.
func (c *Conn) CloseWrite() error {
	err := c.Conn.(*tls.Conn).CloseWrite()
	if h, ok := c.below.(interface{ CloseWrite() error }); ok {
		err = errors.Join(err, h.CloseWrite())
	}
	return err
}

// newConn returns the channel that t has become.
func newConn(t *tls.Conn, w *wire, server crypt.PublicKey) (*Conn, error) {
	state := t.ConnectionState()
	b, err := state.ExportKeyingMaterial(BindingLabel, nil, BindingSize)
	if err != nil {
		return nil, fmt.Errorf("%w: exporting the binding: %w", ErrHandshake, err)
	}
	return &Conn{t, w, w.Conn, server, [BindingSize]byte(b)}, nil
}

// shake performs t's handshake on the connection below until end at the latest,
// and takes its deadlines away again. When ctx is over before, crypto/tls closes
// the connection.
func shake(ctx context.Context, t *tls.Conn, below net.Conn, end time.Time) error {
	if err := below.SetDeadline(end); err != nil {
		return fmt.Errorf("%w: %w", ErrHandshake, err)
	}
	err := apart(func() error { return t.HandshakeContext(ctx) })
	var header tls.RecordHeaderError
	switch {
	case err == nil:
		err = below.SetDeadline(time.Time{})
	case errors.As(err, &header) && header.Conn != nil: // the first record only
		err = fmt.Errorf("%w: %w", ErrNotTLS, err)
	case strings.Contains(err.Error(), unproved):
		err = fmt.Errorf("%w: %w", ErrUnproved, err)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrHandshake, err)
	}
	return nil
}

// unproved is how crypto/tls says that a CertificateVerify is wrong. It has no error of
// its own for that; a test notices when the words change.
const unproved = "invalid signature by the server certificate"

// apart runs f on a goroutine of its own: a handshake needs a deep stack, which one
// that then waits for commands would keep. A panic comes out where it would have.
func apart(f func() error) (err error) {
	var panicked any
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() {
			if p := recover(); p != nil {
				panicked = fmt.Sprintf("%v\n%s", p, debug.Stack())
			}
		}()
		err = f()
	}()
	<-done
	if panicked != nil {
		panic(panicked)
	}
	return err
}

// An Outcome is how a server's handshake ended.
type Outcome string

// The outcomes of handshakes.
const (
	Done       Outcome = "done"
	Injected   Outcome = "injected"   // ErrInjected
	NotTLS     Outcome = "not_tls"    // ErrNotTLS
	Unsuitable Outcome = "unsuitable" // ErrVersion, ErrKeyExchange, ErrSignature, ErrProtocol
	Busy       Outcome = "busy"       // ErrBusy
	TimedOut   Outcome = "timeout"    // the client was too slow
	Left       Outcome = "left"       // the client was gone before the end
	Refused    Outcome = "refused"    // the client said that it does not want to
	Stopped    Outcome = "stopped"    // the caller's context was canceled
	Broken     Outcome = "broken"     // anything else: against TLS, or altered on the way
)

// Outcomes are all of them.
var Outcomes = []Outcome{Done, Injected, NotTLS, Unsuitable, Busy, TimedOut, Left, Refused, Stopped, Broken}

// outcome names how a handshake ended.
func outcome(err error) Outcome {
	is := func(targets ...error) bool {
		for _, t := range targets {
			if errors.Is(err, t) {
				return true
			}
		}
		return false
	}
	var op *net.OpError
	switch {
	case err == nil:
		return Done
	case is(ErrInjected):
		return Injected
	case is(ErrNotTLS):
		return NotTLS
	case is(ErrVersion, ErrKeyExchange, ErrSignature, ErrProtocol):
		return Unsuitable
	case is(ErrBusy):
		return Busy
	case is(context.Canceled):
		return Stopped
	case is(os.ErrDeadlineExceeded, context.DeadlineExceeded):
		return TimedOut
	case is(ErrTruncated, syscall.ECONNRESET, syscall.EPIPE):
		return Left
	case errors.As(err, &op) && op.Op == "remote error": // an alert, in crypto/tls
		return Refused
	}
	return Broken
}
