package admin

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"

	"cmtpd/internal/account"
	"cmtpd/internal/config"
	"cmtpd/internal/control"
	"cmtpd/internal/datadir"
	"cmtpd/internal/durable"
	"cmtpd/internal/queue"
	"cmtpd/internal/spool"
)

// ErrStopped: what is asked for takes a running daemon.
var ErrStopped = errors.New("cmtpd is not running here, and only the running daemon changes the queue: start it first")

// Queue shows and changes the mail of one server that waits for others.
type Queue struct {
	control.Queue
	close func() error
}

// OpenQueue returns the queue of the server that cfg describes: through the daemon where one
// runs, and else as it is on disk, which can be looked at only.
func OpenQueue(cfg *config.Config) (*Queue, error) {
	lock, err := datadir.Lock(cfg)
	if errors.Is(err, datadir.ErrRunning) {
		return &Queue{control.Dial(cfg.ControlSocket()).Queue(), func() error { return nil }}, nil
	}
	if err != nil {
		return nil, err
	}
	s, err := spool.OpenReadOnly(cfg.SpoolDir(), durable.OS)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return &Queue{stoppedQueue{}, lock.Close}, nil // nothing was ever stored
	case err != nil:
		return nil, errors.Join(fmt.Errorf("opening the spool: %w", err), lock.Close())
	}
	return &Queue{stoppedQueue{s}, func() error { return errors.Join(s.Close(), lock.Close()) }}, nil
}

// Drop takes messages out of the queue in the name of the user of this process.
func (q *Queue) Drop(ids []spool.ID, report bool) (n int, err error) {
	return q.Queue.Drop(ids, caller(), report)
}

// Each calls show for every message, of one domain unless it is empty.
func (q *Queue) Each(domain string, show func(*queue.Entry) error) error {
	after := spool.ID(0)
	for {
		page, err := q.List(domain, after, queue.MaxEntries)
		for i := range page {
			if err := show(&page[i]); err != nil {
				return err
			}
			if after, err = spool.ParseID(page[i].ID); err != nil {
				return err
			}
		}
		if err != nil || len(page) == 0 {
			return err
		}
	}
}

// Close lets a daemon start again.
func (q *Queue) Close() error { return q.close() }

// stoppedQueue is a queue on disk. spool is nil where there is none yet.
type stoppedQueue struct{ spool *spool.Spool }

var outgoing = spool.MailboxID(account.Outgoing)

func (s stoppedQueue) List(domain string, after spool.ID, n int) ([]queue.Entry, error) {
	if s.spool == nil {
		return nil, nil
	}
	return queue.List(queue.Spool{Spool: s.spool}, outgoing, domain, after, n)
}

func (s stoppedQueue) Show(id spool.ID) (queue.Entry, error) {
	if s.spool == nil {
		return queue.Entry{}, fmt.Errorf("%w: %s", spool.ErrNotFound, id)
	}
	return queue.Show(queue.Spool{Spool: s.spool}, outgoing, id)
}

// noMail is where nothing was ever stored.
type noMail struct{ queue.Store }

func (noMail) List(spool.MailboxID, spool.ID) iter.Seq2[spool.Info, error] {
	return func(func(spool.Info, error) bool) {}
}

func (s stoppedQueue) Summary(n int) (queue.Summary, error) {
	if s.spool == nil {
		return queue.Summarize(context.Background(), noMail{}, outgoing, n)
	}
	return queue.Summarize(context.Background(), queue.Spool{Spool: s.spool}, outgoing, n)
}

func (stoppedQueue) Retry([]spool.ID) (int, error)              { return 0, ErrStopped }
func (stoppedQueue) RetryDomain(string) (int, error)            { return 0, ErrStopped }
func (stoppedQueue) RetryAll() (int, error)                     { return 0, ErrStopped }
func (stoppedQueue) Hold([]spool.ID) (int, error)               { return 0, ErrStopped }
func (stoppedQueue) Release([]spool.ID) (int, error)            { return 0, ErrStopped }
func (stoppedQueue) Drop([]spool.ID, string, bool) (int, error) { return 0, ErrStopped }
