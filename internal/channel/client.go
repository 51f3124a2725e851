package channel

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"time"

	"cmtpd/internal/crypt"
)

// Client starts TLS as the client, on a connection whose server has agreed to it.
// unread is how many bytes of the server lie in the caller's buffers: any at all
// are ErrInjected. A timeout of 0 is DefaultTimeout; when ctx ends, the connection
// is closed.
//
// The key that the Conn names is not judged yet: send nothing before it is. On
// success the connection's deadlines are cleared; after an error, close it.
func Client(ctx context.Context, below net.Conn, unread int, timeout time.Duration) (*Conn, error) {
	if unread > 0 {
		return nil, ErrInjected
	}
	if timeout <= 0 {
		timeout = DefaultTimeout
	}
	var key crypt.PublicKey
	w := &wire{Conn: below}
	t := tls.Client(w, &tls.Config{
		MinVersion:             tls.VersionTLS13,
		MaxVersion:             tls.VersionTLS13,
		NextProtos:             []string{Protocol},
		CurvePreferences:       keyExchanges,
		SessionTicketsDisabled: true,
		// No name and no CA is checked: VerifyConnection takes the key alone, and
		// the caller judges it.
		InsecureSkipVerify: true,
		VerifyConnection: func(state tls.ConnectionState) (err error) {
			if state.NegotiatedProtocol != Protocol {
				return ErrProtocol
			}
			key, err = serverKey(state)
			return err
		},
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return nil, ErrCertificateRequest
		},
	})
	if err := shake(ctx, t, below, time.Now().Add(timeout)); err != nil {
		return nil, fmt.Errorf("starting TLS: %w", err)
	}
	return newConn(t, w, key)
}
