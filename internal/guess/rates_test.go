package guess_test

import (
	"net/netip"
	"testing"

	"cmtpd/internal/durable/durabletest"
	"cmtpd/internal/guess"
)

// TestBudget_SetRates: other allowances count at once, both of them, and what was used stays used.
func TestBudget_SetRates(t *testing.T) {
	clock := newClock()
	b := open(t, durabletest.New(), clock.options())
	far := func(n int) netip.Addr { return network(n + 1000) }
	near := func(int) netip.Addr { return network(1) }
	if n := granted(t, b, alice, 20, far); n != 10 {
		t.Fatalf("%d attempts at once", n)
	}
	b.SetRates(guess.Rates{Rate: 10, Burst: 12, NetworkRate: 60, NetworkBurst: 30})
	if n := granted(t, b, alice, 20, far); n != 2 {
		t.Errorf("%d more attempts at once", n)
	}
	b.SetRates(guess.Rates{Rate: 10, Burst: 3, NetworkRate: 60, NetworkBurst: 2})
	if n := granted(t, b, alice, 20, far); n != 0 {
		t.Errorf("%d attempts when less is allowed than was used", n)
	}
	clock.pass(3 * every)
	if n := granted(t, b, alice, 20, far); n != 3 {
		t.Errorf("%d attempts after as long as three take", n)
	}
	if n := granted(t, b, bob, 20, near); n != 2 {
		t.Errorf("%d attempts at once from one network", n)
	}
}
