package mailbox

import (
	"fmt"
	"slices"

	"cmtpd/internal/spool"
)

// A count is how much is in a mailbox. It is counted once, when it is first asked for, and then
// told by the spool.
type count struct {
	ready chan struct{} // closed when it is counted, or has failed
	err   error         // why it was not counted; read once ready is closed

	// Under Mailboxes.mu.
	messages int
	bytes    int64
	commit   uint64    // the last one that is counted
	early    []arrival // while it is counted
	reserved int64     // bytes of messages that are being stored
}

// An arrival is what a commit did while a mailbox was counted.
type arrival struct {
	commit uint64
	change spool.BoxChange
}

// count returns the count of a mailbox.
func (m *Mailboxes) count(id spool.MailboxID) (*count, error) {
	m.mu.Lock()
	c := m.counts[id]
	if c != nil {
		m.mu.Unlock()
		<-c.ready
		return c, c.err
	}
	c = &count{ready: make(chan struct{})}
	m.counts[id] = c
	m.mu.Unlock()
	defer close(c.ready)
	u, err := m.spool.Usage(id)
	m.mu.Lock()
	defer m.mu.Unlock()
	if err != nil {
		c.err = err
		if m.counts[id] == c {
			delete(m.counts, id)
		}
		return c, err
	}
	c.messages, c.bytes, c.commit = u.Messages, u.Bytes, u.Commit
	for i := range c.early {
		c.apply(&c.early[i])
	}
	c.early = nil
	return c, nil
}

// apply takes what a commit did that came after the counting.
func (c *count) apply(a *arrival) {
	if a.commit > c.commit {
		c.messages, c.bytes, c.commit = c.messages+a.change.Messages, c.bytes+a.change.Bytes, a.commit
	}
}

// recount keeps the counts up to date. Where it is not known whose message was removed, all
// are counted anew when they are asked for.
func (m *Mailboxes) recount(commit uint64, boxes []spool.BoxChange) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, change := range boxes {
		if change.Mailbox == (spool.MailboxID{}) {
			clear(m.counts)
			return
		}
		if c := m.counts[change.Mailbox]; c == nil {
			continue
		} else if a := (arrival{commit, change}); c.commit > 0 {
			c.apply(&a)
		} else {
			c.early = append(c.early, a)
		}
	}
}

// used returns what a mailbox holds.
func (m *Mailboxes) used(c *count) (messages, bytes uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return uint64(max(c.messages, 0)), uint64(max(c.bytes, 0))
}

// Reserve keeps room in a mailbox for a message of n bytes until release is called, by when the
// message is stored or refused. It fails with ErrFull.
func (m *Mailboxes) Reserve(id spool.MailboxID, n int64) (release func(), err error) {
	if slices.Contains(m.cfg.Unlimited, id) {
		return func() {}, nil
	}
	c, err := m.count(id)
	if err != nil {
		return nil, fmt.Errorf("counting a mailbox: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if size := m.size.Load(); n > size-c.bytes-c.reserved {
		return nil, fmt.Errorf("%w: it has %d bytes, and may have %d (limits.mailbox_size)", ErrFull, c.bytes, size)
	}
	c.reserved += n
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		c.reserved -= n
	}, nil
}
