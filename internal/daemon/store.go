package daemon

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"cmtpd/internal/account"
	"cmtpd/internal/address"
	"cmtpd/internal/durable"
	"cmtpd/internal/mailbox"
	"cmtpd/internal/session"
	"cmtpd/internal/spool"
)

// errDiskFull refuses mail and marks before the disk is full: a spool needs room to finish
// what it has begun.
var errDiskFull = fmt.Errorf("%w: there is too little free space on the spool's disk (limits.min_free_space)", mailbox.ErrNoRoom)

// perMessage is what a message takes on disk besides its bytes: its record's head, and its part of
// commit and index.
const perMessage = 512

// A store lets sessions write to the spool while there is room for it.
type store struct {
	spool  *spool.Spool
	room   *room
	boxes  *mailbox.Mailboxes
	failed chan<- error // takes one: the spool has stopped
}

// NewWriter implements session.Store.
func (s *store) NewWriter() (session.Writer, error) {
	if err := s.room.take(perMessage); err != nil {
		return nil, err
	}
	return &writer{store: s, Writer: s.spool.NewWriter()}, nil
}

// A writer tells the daemon when the spool has stopped: what is on disk after a
// failed flush is known only once it was opened again.
type writer struct {
	*store
	*spool.Writer
	size int64
}

// Write implements session.Writer. A message that came in while there was room is
// refused when there is none left for its rest: strangers who all begin at
// once, and send much, must not fill the disk that the log needs.
func (w *writer) Write(p []byte) (int, error) {
	if err := w.room.take(uint64(len(p))); err != nil {
		return 0, err
	}
	n, err := w.Writer.Write(p)
	w.size += int64(n)
	return n, err
}

// Submit implements session.Writer. A message for a mailbox that is full is refused, unless it is there
// already and only its sender does not know.
func (w *writer) Submit(e spool.Entry) session.Pending {
	release, err := w.boxes.Reserve(e.Mailbox, w.size)
	if errors.Is(err, mailbox.ErrFull) {
		if there, unknown := w.spool.Has(&e); unknown == nil && there {
			release, err = func() {}, nil
		}
	}
	if err != nil {
		return refusal{err}
	}
	return &pending{w.Writer.Submit(e), release, w.failed}
}

// A refusal is why a message is not even submitted.
type refusal struct{ error }

// Ready and Wait implement session.Pending.
func (r refusal) Ready() bool                 { return true }
func (r refusal) Wait() (spool.Stored, error) { return spool.Stored{}, r.error }

// A pending message keeps its room in the mailbox, and tells the daemon, too.
type pending struct {
	*spool.Pending
	release func() // of what was reserved; the spool has told of the message by then
	failed  chan<- error
}

// Wait implements session.Pending.
func (p *pending) Wait() (spool.Stored, error) {
	stored, err := p.Pending.Wait()
	p.release()
	p.release = func() {}
	if errors.Is(err, spool.ErrFailed) {
		tell(p.failed, err)
	}
	return stored, err
}

// tell says that the spool has stopped, unless somebody has already.
func tell(failed chan<- error, err error) {
	select {
	case failed <- err:
	default:
	}
}

// A room knows how much space a file system has left. It asks once a second, and after
// every quarter of what has to stay free, and counts what is taken in between: the log also
// writes ahead, and others write to the same disk.
type room struct {
	dir  string
	need uint64 // bytes that have to stay free

	mu    sync.Mutex
	asked time.Time // under mu
	free  uint64    // under mu: bytes at that time, less what was taken since
	taken uint64    // under mu: bytes since that time
	err   error     // under mu
}

func newRoom(dir string, need uint64) *room { return &room{dir: dir, need: need} }

// take takes n bytes, or refuses when less than what is needed would be left.
func (r *room) take(n uint64) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now := time.Now(); now.Sub(r.asked) >= time.Second || r.taken >= r.need/4 {
		r.asked, r.taken = now, 0
		r.free, r.err = durable.FreeSpace(r.dir)
	}
	switch {
	case r.err != nil:
		return r.err
	case r.free < r.need || r.free-r.need < n:
		return fmt.Errorf("%w: %d bytes are free", errDiskFull, r.free)
	}
	r.free -= n
	r.taken += n
	return nil
}

// localUsers are the accounts of this daemon's domains.
type localUsers struct {
	*account.Store
	names *names
}

// Add refuses what the Store cannot know: a command line with another configuration may ask.
func (u localUsers) Add(r account.Registration) (*account.Account, error) {
	if err := u.names.now.Load().CheckNew(r.Address); err != nil {
		return nil, fmt.Errorf("adding %s: %w", r.Address, err)
	}
	return u.Store.Add(r)
}

// Invite refuses what Add does.
func (u localUsers) Invite(addr address.Address, reset bool, life time.Duration) (*account.Invited, error) {
	if err := u.names.now.Load().CheckNew(addr); err != nil {
		return nil, fmt.Errorf("inviting %s: %w", addr, err)
	}
	return u.Store.Invite(addr, reset, life)
}
