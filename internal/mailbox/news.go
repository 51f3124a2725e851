package mailbox

import (
	"fmt"
	"sync"

	"cmtpd/internal/spool"
)

// news wakes who waits. Nobody has a goroutine for it: whoever waits is blocked in something that
// their wake ends.
type news struct {
	mu      sync.Mutex
	max     int // under mu: waits in all
	maxEach int // under mu: of one mailbox
	waits   map[spool.MailboxID][]*Wait
	total   int
	fresh   map[spool.MailboxID]struct{} // who has news that are not told yet
	telling bool                         // somebody is telling them
}

func newNews(most, each int) *news {
	return &news{max: most, maxEach: each, waits: make(map[spool.MailboxID][]*Wait), fresh: make(map[spool.MailboxID]struct{})}
}

// A Wait is one client that waits for news of its mailbox.
type Wait struct {
	box  *Box
	wake func()
}

// Wait calls wake, from another goroutine, whenever something has changed, until the Wait is
// ended. wake must be quick. What has changed before is to be looked for after this call. It fails with
// ErrWaits.
func (b *Box) Wait(wake func()) (*Wait, error) {
	n := b.all.news
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case len(n.waits[b.id]) >= n.maxEach:
		return nil, fmt.Errorf("%w: %d of this account (limits.max_waits_account)", ErrWaits, n.maxEach)
	case n.total >= n.max:
		return nil, fmt.Errorf("%w: %d in all (limits.max_waits)", ErrWaits, n.max)
	}
	w := &Wait{b, wake}
	n.waits[b.id] = append(n.waits[b.id], w)
	n.total++
	return w, nil
}

// End ends the wait. wake is not called any more once it returns.
func (w *Wait) End() {
	n := w.box.all.news
	n.mu.Lock()
	defer n.mu.Unlock()
	waits := n.waits[w.box.id]
	for i := range waits {
		if waits[i] == w {
			last := len(waits) - 1
			waits[i], waits[last] = waits[last], nil
			n.waits[w.box.id] = waits[:last]
			n.total--
			break
		}
	}
	if len(n.waits[w.box.id]) == 0 {
		delete(n.waits, w.box.id)
	}
}

func (n *news) waiting() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.total
}

// tell wakes those who wait for these mailboxes, soon: who calls it may be the spool's committer.
func (n *news) tell(boxes []spool.BoxChange) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for i := range boxes {
		if len(n.waits[boxes[i].Mailbox]) > 0 {
			n.fresh[boxes[i].Mailbox] = struct{}{}
		}
	}
	if len(n.fresh) > 0 && !n.telling {
		n.telling = true
		go n.run()
	}
}

// run tells news until there are none.
func (n *news) run() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for len(n.fresh) > 0 {
		for id := range n.fresh {
			delete(n.fresh, id)
			for _, w := range n.waits[id] {
				w.wake()
			}
			n.mu.Unlock() // the committer is let in
			n.mu.Lock()
		}
	}
	n.telling = false
}
