package relay

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/pires/go-proxyproto"

	"cmtpd/internal/config"
	"cmtpd/internal/netbuf"
)

// errNotSMTP: what the backend sent is no reply of RFC 5321.
var errNotSMTP = errors.New("relay: the backend does not speak as an SMTP server")

// A refusedError is a backend's greeting that refuses the session: 4xx or 5xx.
type refusedError struct {
	code     int
	greeting []byte // all its lines
}

func (e *refusedError) Error() string {
	return fmt.Sprintf("relay: the backend refuses the session: %d", e.code)
}

// connect opens a connection to the backend for the client c and swallows the
// greeting. What the backend sent after that is unread in the Reader.
func (r *Relay) connect(ctx context.Context, c *netbuf.Conn) (net.Conn, *netbuf.Reader, error) {
	header, err := proxyHeader(r.cfg.Proxy, c.Client, c.Local)
	if err != nil {
		return nil, nil, err
	}
	backend, err := r.cfg.dial(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer context.AfterFunc(ctx, func() { backend.Close() })()
	in := netbuf.NewReader(backend)
	if err := greet(backend, in, header); err != nil {
		in.Release()
		backend.Close()
		return nil, nil, err
	}
	backend.SetDeadline(time.Time{})
	return backend, in, nil
}

// dial connects to the backend, and leaves its deadline on the conn.
func (c Config) dial(ctx context.Context) (net.Conn, error) {
	deadline := time.Now().Add(c.ConnectTimeout)
	d := net.Dialer{Deadline: deadline, KeepAlive: -1}
	backend, err := d.DialContext(ctx, "tcp", c.Backend)
	if err != nil {
		return nil, err
	}
	return backend, backend.SetDeadline(deadline)
}

// greet sends the PROXY header, if any, and takes the greeting off in.
func greet(backend net.Conn, in *netbuf.Reader, header []byte) error {
	if len(header) > 0 {
		if _, err := backend.Write(header); err != nil {
			return err
		}
	}
	n, code, err := awaitReply(in)
	if err != nil {
		return fmt.Errorf("relay: no greeting from the backend: %w", err)
	}
	defer in.Discard(n)
	return judge(in.Buffered()[:n], code)
}

// awaitReply reads until a whole reply is unread in in, and returns its length
// and code.
func awaitReply(in *netbuf.Reader) (n, code int, err error) {
	for {
		n, code, err := parseReply(in.Buffered())
		if err != nil || n > 0 {
			return n, code, err
		}
		if err := in.Fill(); err != nil {
			return 0, 0, err
		}
	}
}

// judge returns nil for a greeting that welcomes.
func judge(greeting []byte, code int) error {
	switch {
	case code == 220:
		return nil
	case bytes.HasPrefix(greeting, synchronization):
		return errUnheard
	case code >= 400 && code <= 599:
		return &refusedError{code, bytes.Clone(greeting)}
	}
	return errNotSMTP
}

// Bounds of a reply. RFC 5321 section 4.5.3.1.5 allows a line 512 bytes.
const (
	maxReplyLine = 1024
	maxReply     = netbuf.Size
)

// parseReply returns the length and the code of the reply that b begins with
// (RFC 5321 section 4.2: one or more lines, ended by CRLF, of three digits and,
// on all but the last line, a hyphen). The length is 0 when more bytes are needed.
func parseReply(b []byte) (n, code int, err error) {
	for {
		line := b[n:]
		end := bytes.IndexByte(line[:min(len(line), maxReplyLine)], '\n')
		if end < 0 {
			if len(line) >= maxReplyLine || len(b) >= maxReply {
				return 0, 0, errNotSMTP
			}
			return 0, 0, nil
		}
		this, last, ok := parseLine(line[:end+1])
		if !ok || code != 0 && this != code {
			return 0, 0, errNotSMTP
		}
		code = this
		n += end + 1
		if last {
			return n, code, nil
		}
	}
}

// parseLine reads one line of a reply, its CRLF included.
func parseLine(line []byte) (code int, last, ok bool) {
	text, ok := bytes.CutSuffix(line, []byte("\r\n"))
	if !ok || len(text) < 3 || len(text) > 3 && text[3] != ' ' && text[3] != '-' {
		return 0, false, false
	}
	for _, d := range text[:3] {
		if d < '0' || d > '9' {
			return 0, false, false
		}
		code = 10*code + int(d-'0')
	}
	return code, len(text) == 3 || text[3] == ' ', code >= 200
}

// errNoAddress: a backend that expects a PROXY header would take a session
// without an address for one of this host's own, and relay for it.
var errNoAddress = errors.New("relay: the client has no address to pass on")

// proxyHeader returns what the backend has to read before anything else.
func proxyHeader(p config.ProxyProtocol, client, local netip.AddrPort) ([]byte, error) {
	version := byte(2)
	switch p {
	case config.ProxyNone:
		return nil, nil
	case config.ProxyV1:
		version = 1
	case config.ProxyV2:
	default:
		return nil, fmt.Errorf("relay: unknown PROXY protocol %q", p)
	}
	if !client.IsValid() || !local.IsValid() {
		return nil, errNoAddress
	}
	return proxyproto.HeaderProxyFromAddrs(version, net.TCPAddrFromAddrPort(client), net.TCPAddrFromAddrPort(local)).Format()
}
