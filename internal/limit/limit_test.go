package limit_test

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"cmtpd/internal/limit"
)

func TestPrefix(t *testing.T) {
	for in, want := range map[string]string{
		"192.0.2.1":           "192.0.2.1/32",
		"::ffff:192.0.2.1":    "192.0.2.1/32",
		"2001:db8:1:2:3::4":   "2001:db8:1:2::/64",
		"fe80::1%eth0":        "fe80::/64",
		"2001:db8:1:2:ffff::": "2001:db8:1:2::/64",
	} {
		if got := limit.Prefix(netip.MustParseAddr(in)).String(); got != want {
			t.Errorf("Prefix(%s) = %s, want %s", in, got, want)
		}
	}
}

func TestRate_Allow(t *testing.T) {
	now := time.Unix(1e9, 0)
	r := limit.NewRate(6, 3, func() time.Time { return now })
	a, neighbour, other := netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2"), netip.MustParseAddr("192.0.2.1")
	for i := range 3 {
		if !r.Allow(a) {
			t.Fatalf("event %d of a burst of 3 was refused", i+1)
		}
	}
	if r.Allow(neighbour) {
		t.Error("the fourth event from one /64 was allowed")
	}
	if !r.Allow(other) {
		t.Error("another network paid for it")
	}
	now = now.Add(10*time.Second - 1)
	if r.Allow(a) {
		t.Error("an event came back before its time")
	}
	now = now.Add(1)
	if !r.Allow(a) {
		t.Error("an event did not come back after ten seconds at six a minute")
	}
	if r.Allow(a) {
		t.Error("two came back")
	}
}

// A stranger with more networks than are told apart gets no more than one
// shared budget for the rest, and costs no more memory.
func TestRate_Allow_ManyNetworks(t *testing.T) {
	now := time.Unix(1e9, 0)
	r := limit.NewRate(6, 2, func() time.Time { return now })
	allowed := 0
	for i := range uint32(1<<16 + 1000) {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], i+1)
		if r.Allow(netip.AddrFrom4(b)) {
			allowed++
		}
	}
	if want := 1<<16 + 2; allowed > want {
		t.Errorf("%d events were allowed, want at most %d", allowed, want)
	}
	now = now.Add(time.Hour)
	if !r.Allow(netip.MustParseAddr("203.0.113.1")) {
		t.Error("a new network is still refused when all others have paid")
	}
}

// Who has 65,536 networks, and comes once from each, shuts nobody out: not even for as long as one of them could owe.
func TestRate_Allow_PassingNetworks(t *testing.T) {
	now := time.Unix(1e9, 0)
	r := limit.NewRate(600, 1200, func() time.Time { return now })
	come := func(n uint64) {
		b := netip.MustParseAddr("2001:db8::").As16()
		for i := range n {
			binary.BigEndian.PutUint32(b[4:], uint32(i))
			now = now.Add(time.Millisecond)
			r.Allow(netip.AddrFrom16(b))
		}
	}
	come(1 << 16)
	for round := range uint32(2) {
		come(1<<16 + 5000) // the last ones are not told apart, if there is no room for them
		for i := range uint32(1000) {
			var b [4]byte
			binary.BigEndian.PutUint32(b[:], 1000*round+i)
			if !r.Allow(netip.AddrFrom4(b)) {
				t.Fatalf("stranger %d of round %d is refused", i, round)
			}
		}
	}
}
