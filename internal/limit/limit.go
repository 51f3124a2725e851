// Package limit bounds how often strangers may ask for something, by the
// network that they ask from, and how much each account may use. It guarantees a bound on its own memory whatever
// number of networks there is.
package limit

import (
	"net/netip"
	"sync"
	"time"
)

// Prefix lengths that stand for one stranger: an IPv4 address, and the IPv6
// network that one household or host is given (protocol.md section 1).
const (
	bits4 = 32
	bits6 = 64
)

// Prefix returns the network that limits count a as.
func Prefix(a netip.Addr) netip.Prefix {
	a = a.Unmap().WithZone("")
	bits := bits6
	if a.Is4() {
		bits = bits4
	}
	p, _ := a.Prefix(bits) // fails only for an invalid address: all of those are one
	return p
}

const (
	// maxKeys bounds how many networks are told apart at one time.
	maxKeys = 1 << 16
	// looks is how many of them are looked at to make room for another.
	looks = 16
)

// A Rate allows each network a number of events in a burst and refills them
// evenly. It has one time a network, and a network that has paid needs none.
type Rate struct {
	now func() time.Time

	mu   sync.Mutex
	pace pace                       // under mu
	paid map[netip.Prefix]time.Time // under mu: when the network will have paid for all it had
}

// NewRate allows burst events at once and perMinute a minute after that.
func NewRate(perMinute, burst int, now func() time.Time) *Rate {
	r := &Rate{now: now, paid: make(map[netip.Prefix]time.Time)}
	r.Set(perMinute, burst)
	return r
}

// Set changes the rate from now on. What a network has used stays used, as far as the new one can owe it.
func (r *Rate) Set(perMinute, burst int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pace = newPace(perMinute, burst, time.Minute)
}

// Allow reports whether an event from a is within the rate, and counts it if so.
func (r *Rate) Allow(a netip.Addr) bool {
	key, now := Prefix(a), r.now()
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, known := r.paid[key]; !known && len(r.paid) >= maxKeys {
		r.makeRoom(now)
		if len(r.paid) >= maxKeys {
			// More networks than can be told apart: the rest share one budget.
			key = netip.Prefix{}
		}
	}
	paid, wait := r.pace.take(r.paid[key], now, 1)
	r.paid[key] = paid
	return wait == 0
}

// makeRoom forgets networks that have paid, of a few that chance chooses. To keep strangers from being told apart, somebody so has to
// keep nearly all of maxKeys networks in debt, not only to have come from that many: whoever is routed an IPv6 /48 can do that.
func (r *Rate) makeRoom(now time.Time) {
	left := looks
	for k, paid := range r.paid {
		if !paid.After(now) {
			delete(r.paid, k)
		}
		if left--; left == 0 {
			return
		}
	}
}
