package mailbox

// Limits are what can change of a Config while mailboxes are served. All must be positive.
type Limits struct {
	Size            int64 // bytes in a mailbox
	MaxWaits        int   // in all
	MaxWaitsAccount int   // of one mailbox
	MarkRate        int   // changes of flags and keywords in a minute, of one mailbox
	MarkBurst       int   // of those at once
}

// SetLimits has l count from now on. What is there stays: messages of a mailbox that
// has more than it may, clients that wait.
func (m *Mailboxes) SetLimits(l Limits) {
	m.size.Store(l.Size)
	m.marks.Set(l.MarkRate, l.MarkBurst)
	m.news.mu.Lock()
	defer m.news.mu.Unlock()
	m.news.max, m.news.maxEach = l.MaxWaits, l.MaxWaitsAccount
}
