package mailbox

// Limits are what can change of a Config while mailboxes are served, with the same
// meaning.
type Limits struct {
	Size            int64
	MaxWaits        int
	MaxWaitsAccount int
	MarkRate        int
	MarkBurst       int
}

// SetLimits has l count from now on. What is there stays: messages of a mailbox that
// has more than it may, clients that wait.
func (m *Mailboxes) SetLimits(l Limits) {
	m.size.Store(l.Size)
	m.marks.set(l.MarkRate, l.MarkBurst)
	m.news.mu.Lock()
	defer m.news.mu.Unlock()
	m.news.max, m.news.maxEach = l.MaxWaits, l.MaxWaitsAccount
}
