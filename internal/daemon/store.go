package daemon

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"cmtpd/internal/account"
	"cmtpd/internal/session"
	"cmtpd/internal/spool"
)

// errDiskFull refuses mail before the disk is full: a spool needs room to finish
// what it has begun.
var errDiskFull = errors.New("there is too little free space on the spool's disk (limits.min_free_space)")

// A store lets sessions write to the spool while there is room for it.
type store struct {
	spool  *spool.Spool
	room   *room
	failed chan<- error // takes one: the spool has stopped
}

// NewWriter implements session.Store.
func (s *store) NewWriter() (session.Writer, error) {
	if err := s.room.check(); err != nil {
		return nil, err
	}
	return writer{s.spool.NewWriter(), s.failed}, nil
}

// A writer tells the daemon when the spool has stopped: what is on disk after a
// failed flush is known only once it was opened again.
type writer struct {
	*spool.Writer
	failed chan<- error
}

// Commit implements session.Writer.
func (w writer) Commit(ctx context.Context, e spool.Entry) (spool.Stored, error) {
	stored, err := w.Writer.Commit(ctx, e)
	if errors.Is(err, spool.ErrFailed) {
		select {
		case w.failed <- err:
		default: // somebody has told already
		}
	}
	return stored, err
}

// A room knows whether a file system has free space, and asks it at most once a
// second.
type room struct {
	dir  string
	need uint64 // bytes

	mu    sync.Mutex
	asked time.Time // under mu
	err   error     // under mu
}

func newRoom(dir string, need uint64) *room { return &room{dir: dir, need: need} }

func (r *room) check() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now := time.Now(); now.Sub(r.asked) >= time.Second {
		r.asked, r.err = now, enough(r.dir, r.need)
	}
	return r.err
}

func enough(dir string, need uint64) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return fmt.Errorf("asking for the free space of %s: %w", dir, err)
	}
	if free := st.Bavail * uint64(st.Bsize); free < need {
		return fmt.Errorf("%w: %d bytes are free, %d are asked for", errDiskFull, free, need)
	}
	return nil
}

// localUsers are the accounts of this daemon's domains.
type localUsers struct {
	*account.Store
	directory *account.Directory
}

// Add refuses what the Store cannot know: a foreign domain.
func (u localUsers) Add(r account.Registration) (*account.Account, error) {
	if _, err := u.directory.Domain(r.Address.Domain.String()); err != nil {
		return nil, fmt.Errorf("adding %s: %w", r.Address, err)
	}
	return u.Store.Add(r)
}
