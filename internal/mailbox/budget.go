package mailbox

import (
	"sync"
	"time"

	"cmtpd/internal/spool"
)

// A budget bounds how much each mailbox is changed by its user: what is noted of a message stays in the spool for
// good, also when it is noted otherwise (docs/spool.md, Mark). It is the generic cell rate algorithm, with one time for each mailbox.
type budget struct {
	every time.Duration // between two changes at the steady rate
	burst time.Duration // how far a mailbox may run ahead
	now   func() time.Time

	mu   sync.Mutex
	paid map[spool.MailboxID]time.Time // under mu: when a mailbox will have paid for all that it had
}

func newBudget(perMinute, burst int, now func() time.Time) *budget {
	every := time.Minute / time.Duration(perMinute)
	return &budget{every: every, burst: every * time.Duration(burst), now: now, paid: make(map[spool.MailboxID]time.Time)}
}

// take returns how many of n changes a mailbox may make now, and counts them.
func (b *budget) take(id spool.MailboxID, n int) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	paid := b.paid[id]
	if paid.Before(now) {
		paid = now
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
