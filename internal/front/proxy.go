package front

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/pires/go-proxyproto"

	"cmtpd/internal/netbuf"
)

// errNoProxy: a peer that has to send a PROXY header sent something else.
var errNoProxy = errors.New("front: no PROXY header where one is required")

const (
	maxProxyV1    = 107 // bytes with the CRLF, from the PROXY protocol's section 2.1
	proxyV2Prefix = 16  // bytes: signature, version and command, family, length (section 2.2)
)

// proxyLength says how long the PROXY header is that b begins with: 0 when more
// bytes are needed to tell, an error when b begins with none or with one that
// is too long.
func proxyLength(b []byte) (int, error) {
	v1, v2 := proxyproto.SIGV1, proxyproto.SIGV2
	switch {
	case bytes.HasPrefix(b, v1):
		if end := bytes.IndexByte(b[:min(len(b), maxProxyV1)], '\n'); end >= 0 {
			return end + 1, nil
		}
		if len(b) >= maxProxyV1 {
			return 0, errNoProxy
		}
		return 0, nil
	case bytes.HasPrefix(b, v2):
		if len(b) < proxyV2Prefix {
			return 0, nil
		}
		n := proxyV2Prefix + int(binary.BigEndian.Uint16(b[proxyV2Prefix-2:]))
		if n > netbuf.Size {
			return 0, errNoProxy
		}
		return n, nil
	case bytes.HasPrefix(v1, b), bytes.HasPrefix(v2, b):
		return 0, nil
	}
	return 0, errNoProxy
}

// readProxy takes the PROXY header off in and returns what it names: the
// client's address and the one that the client connected to. Both are invalid
// when the header speaks for the proxy itself (LOCAL, as a health check does)
// or names no TCP addresses.
func readProxy(in *netbuf.Reader) (client, local netip.AddrPort, err error) {
	var n int
	for {
		b := in.Buffered()
		if n, err = proxyLength(b); err != nil {
			return client, local, err
		}
		if n > 0 && len(b) >= n {
			break
		}
		if err := in.Fill(); err != nil {
			return client, local, err
		}
	}
	h, err := proxyproto.Read(bufio.NewReaderSize(bytes.NewReader(in.Buffered()[:n]), n))
	in.Discard(n)
	if err != nil {
		return client, local, fmt.Errorf("%w: %w", errNoProxy, err)
	}
	src, dst, ok := h.TCPAddrs()
	if h.Command.IsLocal() || !ok {
		return client, local, nil
	}
	return addrPort(src), addrPort(dst), nil
}

// addrPort turns a socket's address into a value in one normal form: no zone,
// and IPv4 never dressed as IPv6. It is invalid for other than TCP addresses.
func addrPort(a net.Addr) netip.AddrPort {
	t, ok := a.(*net.TCPAddr)
	if !ok || t == nil {
		return netip.AddrPort{}
	}
	ap := t.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port())
}
