package mailbox

import (
	"sync"
	"time"

	"cmtpd/internal/spool"
)

// A budget bounds how much each mailbox is changed by its user: what is noted of a message stays in the spool for
// good, also when it is noted otherwise (docs/spool.md, Mark). It is the generic cell rate algorithm, with one time
// for each mailbox.
type budget struct {
	now func() time.Time

	mu    sync.Mutex
	every time.Duration                 // under mu: between two changes at the steady rate
	burst time.Duration                 // under mu: how far a mailbox may run ahead
	paid  map[spool.MailboxID]time.Time // under mu: when a mailbox will have paid for all that it had
}

func newBudget(perMinute, burst int, now func() time.Time) *budget {
	b := &budget{now: now, paid: make(map[spool.MailboxID]time.Time)}
	b.set(perMinute, burst)
	return b
}

// set changes the rate. What mailboxes have used stays used, as far as the new one can owe it.
func (b *budget) set(perMinute, burst int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.every = time.Minute / time.Duration(perMinute)
	b.burst = b.every * time.Duration(burst)
}

// take returns how many of n changes a mailbox may make now, and counts them.
func (b *budget) take(id spool.MailboxID, n int) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	paid := b.paid[id]
	if paid.Before(now) {
		paid = now
	} else if most := now.Add(b.burst); paid.After(most) { // another rate had it owe that
		paid = most
	}
	n = max(0, min(n, int((b.burst-paid.Sub(now))/b.every)))
	b.paid[id] = paid.Add(time.Duration(n) * b.every)
	return n
}

// giveBack takes n changes back that were not made.
func (b *budget) giveBack(id spool.MailboxID, n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.paid[id] = b.paid[id].Add(-time.Duration(n) * b.every)
}
