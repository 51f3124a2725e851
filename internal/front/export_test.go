package front

import (
	"net"
	"net/netip"

	"cmtpd/internal/netbuf"
)

var ProxyLength = proxyLength

// ReadProxy takes a PROXY header off b and returns what is left.
func ReadProxy(b []byte) (left []byte, client netip.AddrPort, err error) {
	ours, theirs := net.Pipe()
	defer ours.Close()
	defer theirs.Close()
	go theirs.Write(b)
	in := netbuf.NewReader(ours)
	for len(in.Buffered()) < len(b) {
		if err := in.Fill(); err != nil {
			return nil, client, err
		}
	}
	client, _, err = readProxy(in)
	return in.Buffered(), client, err
}
