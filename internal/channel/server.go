package channel

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"runtime"
	"slices"
	"time"

	"cmtpd/internal/crypt"
)

// An Observer counts what happens. Its method is called from many connections.
type Observer interface {
	// Handshake is called at the end of each, with how long it took.
	Handshake(o Outcome, took time.Duration)
}

type nobody struct{}

func (nobody) Handshake(Outcome, time.Duration) {}

// Config says how a server starts TLS.
type Config struct {
	Key *crypt.PrivateKey // the server's identity
	// Timeout bounds a handshake; 0 is DefaultTimeout.
	Timeout time.Duration
	// MaxHandshakes is how many may compute at once; 0 is as many as there are
	// processors. Those that wait for their client do not count.
	MaxHandshakes int
	Observer      Observer // may be nil
}

// A Server starts TLS for connections that were accepted. It is used by many at
// once.
type Server struct {
	tls      *tls.Config
	key      crypt.PublicKey
	timeout  time.Duration
	slots    chan struct{} // one element for each that is taken
	observer Observer
}

// NewServer returns a Server with a certificate made of cfg.Key, which is nowhere
// else.
func NewServer(cfg Config) (*Server, error) {
	if cfg.Timeout < 0 || cfg.MaxHandshakes < 0 {
		return nil, errors.New("channel: a negative limit")
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = DefaultTimeout
	}
	if cfg.MaxHandshakes == 0 {
		cfg.MaxHandshakes = runtime.GOMAXPROCS(0)
	}
	if cfg.Observer == nil {
		cfg.Observer = nobody{}
	}
	der, err := Certificate(cfg.Key)
	if err != nil {
		return nil, err
	}
	return &Server{
		tls: &tls.Config{
			Certificates:           []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: signer{cfg.Key}}},
			MinVersion:             tls.VersionTLS13,
			MaxVersion:             tls.VersionTLS13,
			NextProtos:             []string{Protocol},
			CurvePreferences:       keyExchanges,
			SessionTicketsDisabled: true,
			ClientAuth:             tls.NoClientCert,
			GetConfigForClient:     take,
		},
		key:      cfg.Key.Public(),
		timeout:  cfg.Timeout,
		slots:    make(chan struct{}, cfg.MaxHandshakes),
		observer: cfg.Observer,
	}, nil
}

// Computing returns how many handshakes compute now, which is never more than
// Config.MaxHandshakes.
func (s *Server) Computing() int { return len(s.slots) }

// Handshake starts TLS as the server, on a connection whose client has been told
// to begin. unread is how many bytes of the client lie in the caller's buffers: any
// at all are ErrInjected; before STARTTLS is answered, the caller has to look for
// itself (section 15.2). When ctx ends, the connection is closed.
//
// On success the connection's deadlines are cleared. After an error nothing can be
// said on it any more; netbuf.Conn's Farewell(nil), before it is closed, keeps a
// reset from overtaking the alert that says why.
func (s *Server) Handshake(ctx context.Context, below net.Conn, unread int) (*Conn, error) {
	began := time.Now()
	c, err := s.handshake(ctx, below, unread)
	s.observer.Handshake(outcome(err), time.Since(began))
	if err != nil {
		return nil, fmt.Errorf("starting TLS: %w", err)
	}
	return c, nil
}

func (s *Server) handshake(ctx context.Context, below net.Conn, unread int) (*Conn, error) {
	if unread > 0 {
		return nil, ErrInjected
	}
	end := time.Now().Add(s.timeout)
	waiting, cancel := context.WithDeadline(ctx, end)
	defer cancel()
	turn := &turn{slots: s.slots, over: waiting.Done()}
	defer turn.end()
	w := &wire{Conn: below, turn: turn}
	t := tls.Server(w, s.tls)
	if err := shake(ctx, t, below, end); err != nil {
		return nil, err
	}
	w.turn = nil
	return newConn(t, w, s.key)
}

// take is called when a ClientHello is there. What can be refused is refused here,
// before a key exchange is computed for it; then the handshake waits for its turn.
func take(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	w := hello.Conn.(*wire)
	hasGroup := func(c tls.CurveID) bool { return slices.Contains(hello.SupportedCurves, c) }
	switch {
	case !slices.Contains(hello.SupportedVersions, tls.VersionTLS13):
		return nil, w.refuse(alertProtocolVersion, ErrVersion)
	case !slices.Contains(hello.SupportedProtos, Protocol):
		return nil, w.refuse(alertNoProtocol, ErrProtocol)
	case !slices.ContainsFunc(keyExchanges, hasGroup):
		return nil, w.refuse(alertHandshakeFailure, ErrKeyExchange)
	case !slices.Contains(hello.SignatureSchemes, tls.Ed25519):
		return nil, w.refuse(alertHandshakeFailure, ErrSignature)
	}
	return nil, w.turn.begin()
}

// A turn is a handshake's right to compute. It is held from a whole ClientHello
// until the answer is written, and again for the second ClientHello after a
// HelloRetryRequest, whose arrival only the bytes on the wire show: there, it is
// held whenever the handshake does not wait for them.
type turn struct {
	slots chan struct{}
	over  <-chan struct{} // closed when there is no time left
	held  bool
	again bool // a HelloRetryRequest was the last answer
	mute  bool // an alert of ours was the last word
}

// begin waits for a slot, first come first served.
func (t *turn) begin() error {
	if t.held {
		return nil
	}
	select {
	case t.slots <- struct{}{}:
		t.held = true
		return nil
	case <-t.over:
		return ErrBusy
	}
}

// end gives the slot back, if one is held.
func (t *turn) end() {
	if t.held {
		<-t.slots
		t.held = false
	}
}

// wrote takes note of the kind of answer that is written.
func (t *turn) wrote(p []byte) {
	if len(p) > 0 && p[0] == recordChangeCipherSpec {
		return // comes behind a HelloRetryRequest and says nothing
	}
	t.again = isRetry(p)
}
