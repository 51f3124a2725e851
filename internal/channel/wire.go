package channel

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"io"
	"net"
	"sync"
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

	mu     sync.Mutex
	gather *[gatherSize]byte // under mu: records that are written together; nil while each is written alone
	have   int               // under mu: bytes of them
	failed error             // under mu: of a write of gathered records, after which nothing is written
}

// gatherSize is how many bytes of records are written at once: what tls makes of four times as much as a record
// holds. A write to a socket costs as much as encrypting 16 KiB.
const gatherSize = 4 * (maxRecord + 64)

// maxRecord is how many bytes of plaintext a record has at most (RFC 8446 section 5.1).
const maxRecord = 1 << 14

var gathers = sync.Pool{New: func() any { return new([gatherSize]byte) }}

// hold keeps what is written from now on back, until release or until there is too much.
func (w *wire) hold() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.gather = gathers.Get().(*[gatherSize]byte)
}

// release writes what was kept back.
func (w *wire) release() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	err := w.writeGathered()
	gathers.Put(w.gather)
	w.gather = nil
	return err
}

// writeGathered writes what has been gathered.
func (w *wire) writeGathered() error {
	if w.have > 0 && w.failed == nil {
		_, w.failed = w.Conn.Write(w.gather[:w.have])
	}
	w.have = 0
	return w.failed
}

// write writes a record, or keeps it back. A record of Read's, an answer to a change of keys say, takes its place
// among the others.
func (w *wire) write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.failed != nil {
		return 0, w.failed
	}
	if w.gather == nil {
		return w.Conn.Write(p)
	}
	if w.have+len(p) > gatherSize {
		if err := w.writeGathered(); err != nil {
			return 0, err
		}
	}
	if len(p) > gatherSize {
		return w.Conn.Write(p)
	}
	w.have += copy(w.gather[w.have:], p)
	return len(p), nil
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
		return w.write(p)
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
