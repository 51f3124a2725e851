package channel

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"io"
	"net"
)

// truncated is the type of ErrTruncated. crypto/tls takes io.EOF between two
// records for a proper end; it passes on what it does not know.
type truncated struct{}

func (truncated) Error() string {
	return "the connection ended without the peer having said so: it may have been cut"
}

func (truncated) Unwrap() error { return io.ErrUnexpectedEOF }

// A wire is what crypto/tls reads and writes.
type wire struct {
	net.Conn
	// turn is a server's place among the handshakes, nil once its own is over.
	// It belongs to the goroutine that performs the handshake.
	turn *turn
}

// Read reads from the connection; its end is ErrTruncated.
func (w *wire) Read(p []byte) (int, error) {
	again := w.turn != nil && w.turn.again
	if again {
		w.turn.end()
	}
	n, err := w.Conn.Read(p)
	switch {
	case n > 0:
		err = nil // the connection gives it again
	case err == io.EOF:
		err = ErrTruncated
	}
	if again && err == nil {
		err = w.turn.begin()
	}
	return n, err
}

// Write writes to the connection. In a server's handshake, that ends its turn
// first: a client that takes its time to read must not use up that of others.
func (w *wire) Write(p []byte) (int, error) {
	if w.turn == nil {
		return w.Conn.Write(p)
	}
	if w.turn.mute {
		return len(p), nil
	}
	w.turn.end()
	w.turn.wrote(p)
	n, err := w.Conn.Write(p)
	if err == nil && w.turn.again {
		err = w.turn.begin()
	}
	return n, err
}

// refuse sends an alert of our own choice and drops what crypto/tls sends from
// then on: it knows only "internal error" for a ClientHello that we do not take.
// Nothing is encrypted yet.
func (w *wire) refuse(a alert, err error) error {
	w.turn.mute = true
	const fatal = 2
	record := []byte{recordAlert, tls.VersionTLS12 >> 8, tls.VersionTLS12 & 0xff, 0, 2, fatal, byte(a)}
	w.Conn.Write(record) // err says more than that this failed
	return err
}

// Types of records, and of a handshake's message (RFC 8446 sections 5.1 and 4).
const (
	recordChangeCipherSpec = 20
	recordAlert            = 21
	recordHandshake        = 22
	messageServerHello     = 2
)

// An alert is an AlertDescription (RFC 8446 section 6).
type alert byte

const (
	alertHandshakeFailure alert = 40
	alertProtocolVersion  alert = 70
	alertNoProtocol       alert = 120
)

// retryRandom stands in place of a ServerHello's random when it is a
// HelloRetryRequest (RFC 8446 section 4.1.3).
var retryRandom = sha256.Sum256([]byte("HelloRetryRequest"))

// isRetry reports whether a record, not encrypted, begins a HelloRetryRequest.
func isRetry(record []byte) bool {
	const random = 5 + 4 + 2 // behind both headers and the version
	return len(record) >= random+len(retryRandom) && record[0] == recordHandshake && record[5] == messageServerHello &&
		bytes.Equal(record[random:random+len(retryRandom)], retryRandom[:])
}
