package discovery

import (
	"net"
	"net/netip"
)

// OwnAddresses returns the addresses of this machine's interfaces, or nil where they are not known:
// what DNS says of the local domains is held against them.
func OwnAddresses() (own []netip.Addr) {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	for _, a := range all {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			own = append(own, p.Addr().Unmap())
		}
	}
	return own
}
