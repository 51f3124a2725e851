package limit

import (
	"sync"
	"time"
)

// A Budget bounds how much each of its holders uses, as a Rate does for networks. It has one time for each holder that has not
// paid for all that it had; who they are has to be bounded already, as accounts are.
type Budget[K comparable] struct {
	now func() time.Time
	per time.Duration

	mu    sync.Mutex
	pace  pace            // under mu
	paid  map[K]time.Time // under mu: when a holder will have paid for all that it had
	sweep int             // under mu: at how many of them those are forgotten that have paid
}

// minSweep is from how many holders on those are looked for that have paid.
const minSweep = 1024

// NewBudget allows burst units at once, and rate in each duration per after that. Both are positive, and rate is no more than
// per has nanoseconds.
func NewBudget[K comparable](rate, burst int, per time.Duration, now func() time.Time) *Budget[K] {
	b := &Budget[K]{now: now, per: per, paid: make(map[K]time.Time), sweep: minSweep}
	b.Set(rate, burst)
	return b
}

// Set changes the rate. What was used stays used, as far as the new one can owe it.
func (b *Budget[K]) Set(rate, burst int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.pace = newPace(rate, burst, b.per)
}

// Take returns how many of n units k may use now, and counts them.
func (b *Budget[K]) Take(k K, n int) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	paid := b.pace.owed(b.paid[k], now)
	n = max(0, min(n, int((b.pace.burst-paid.Sub(now))/b.pace.every)))
	b.put(k, paid.Add(time.Duration(n)*b.pace.every), now)
	return n
}

// TakeAll counts n units for k, or none and says how long there will not be as many. More than a burst count as one.
func (b *Budget[K]) TakeAll(k K, n int) (wait time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	paid, wait := b.pace.take(b.paid[k], now, n)
	b.put(k, paid, now)
	return wait
}

// put is called under mu.
func (b *Budget[K]) put(k K, paid, now time.Time) {
	if b.paid[k] = paid; len(b.paid) < b.sweep {
		return
	}
	for k, paid := range b.paid {
		if !paid.After(now) {
			delete(b.paid, k)
		}
	}
	b.sweep = max(minSweep, 2*len(b.paid))
}

// GiveBack takes n units back that were not used.
func (b *Budget[K]) GiveBack(k K, n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if paid, ok := b.paid[k]; ok {
		b.paid[k] = paid.Add(-time.Duration(n) * b.pace.every)
	}
}
