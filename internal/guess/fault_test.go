package guess_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"cmtpd/internal/durable/durabletest"
)

// Attempts are made while calls to the disk fail, and the power is cut; a new process
// goes on where the old one was. Strangers never get more than their budget, nor does
// the network of the user; and what is missing of it is no more than what failed.
func TestBudget_Faults(t *testing.T) {
	calls := runFault(t, func(int) durabletest.Fault { return durabletest.None }, nil)
	if calls < 40 {
		t.Fatalf("only %d calls to the disk", calls)
	}
	for n := 1; n <= calls; n++ {
		for _, fault := range []durabletest.Fault{durabletest.Before, durabletest.After, durabletest.Short} {
			for _, forGood := range []bool{false, true} {
				for seed := range uint64(3) {
					t.Run(fmt.Sprintf("call %d/fault %d/for good %v/crash %d", n, fault, forGood, seed), func(t *testing.T) {
						runFault(t, func(call int) durabletest.Fault {
							if call == n || forGood && call > n {
								return fault
							}
							return durabletest.None
						}, rand.New(rand.NewPCG(seed, uint64(n))))
					})
				}
			}
		}
	}
}

// runFault has the calls after the first Open fail as fault says.
func runFault(t *testing.T, fault func(call int) durabletest.Fault, r *rand.Rand) (calls int) {
	t.Helper()
	c, fsys, home := newClock(), durabletest.New(), network(1)
	b := open(t, fsys, c.options())
	first := fsys.Calls()
	fsys.Inject(func(c durabletest.Call) durabletest.Fault { return fault(c.N - first) })
	guesses, own, failed := 0, 0, 0 // attempts of strangers, and from home; those that failed
	charge := func(n int) {
		from := network(1000 + n)
		if n%3 == 0 {
			from = home
		}
		switch err := b.Charge(alice, from); {
		case err == nil && n%3 == 0:
			own++
		case err == nil:
			guesses++
		case !isExhausted(err):
			failed++
		}
	}
	// The user tries twice, and is proven. Where that fails, all is charged on one allowance.
	for range 2 {
		charge(0)
	}
	tried := own
	if err := b.Refund(alice, home, own); err != nil {
		failed += own + 1
	}
	for n := range 9 {
		charge(n)
	}
	_ = b.Close()
	calls = fsys.Calls() - first
	fsys.Inject(nil)

	for range 2 { // the second crash finds nothing that is not on disk
		fsys = fsys.Crash(r)
		b = open(t, fsys, c.options())
		for n := range 12 {
			charge(100 + n)
		}
	}
	for n := range 60 {
		charge(200 + n)
	}
	if guesses > 10 || own > tried+10 {
		t.Errorf("%d attempts of strangers and %d from the user's network, want at most 10 and %d", guesses, own, tried+10)
	}
	if all := guesses + own + failed; all < 10+tried {
		t.Errorf("%d attempts and %d that failed: some are lost", guesses+own, failed)
	}
	return calls
}
