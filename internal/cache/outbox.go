package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"time"

	"github.com/ncruces/go-sqlite3"

	"cmtpd/internal/durable"
)

// A CopyState says how far a recipient's copy of a letter is.
type CopyState uint8

// The states of a copy.
const (
	Waiting    CopyState = iota // to be sealed
	Sealed                      // to be sent: its bytes are kept, and are sent again as they are
	Sent                        // the server has it, and gave a receipt
	Failed                      // it was given up: see Reason
	sealingNow                  // some of its bytes are kept; a crash makes it Waiting
)

// An Outgoing letter is in the outbox until it is removed.
type Outgoing struct {
	ID     int64
	Queued time.Time
	Draft  Draft // as it was then; without an ID
	Copies []Copy
	Own    *Copy // that the sender keeps; nil where there is none. It has no Recipient
}

// A Copy is for one recipient.
type Copy struct {
	ID        int64
	Letter    int64
	Recipient string
	State     CopyState
	Changed   time.Time
	Size      int64  // bytes, when sealed
	Digest    Digest // the core digest, when sealed or sent: by it the server tells a copy that comes twice
	Receipt   []byte
	Reason    string // of Failed; and of Sealed or Waiting, what the last attempt came to
}

// errNoRecipient: a draft to nobody was to be sent.
var errNoRecipient = errors.New("it has no recipient")

// Queue moves a draft to the outbox, with a copy for each recipient, and returns the
// letter's ID. The error wraps ErrNotFound, so that a draft is queued once.
func (c *Cache) Queue(ctx context.Context, draft int64) (id int64, err error) {
	now := c.now().UnixNano()
	err = c.write(ctx, "queueing a letter", func(d *db) error {
		one, err := d.draft(draft)
		if err != nil {
			return err
		}
		if len(one.Recipients) == 0 {
			return errNoRecipient
		}
		b, err := packJSON(one)
		if err != nil {
			return err
		}
		if err := d.exec(`INSERT INTO letter (queued, body) VALUES (?1, ?2)`, now, b); err != nil {
			return err
		}
		id = d.conn.LastInsertRowID()
		for _, to := range one.Recipients { // one copy each, however often they are named
			if err := d.exec(`INSERT OR IGNORE INTO copy (letter, recipient, state, changed) VALUES (?1, ?2, ?3, ?4)`, id, to, uint8(Waiting), now); err != nil {
				return err
			}
		}
		return d.exec(`DELETE FROM draft WHERE id = ?1`, draft)
	})
	return id, err
}

// Outbox returns the letters in the outbox, the oldest first.
func (c *Cache) Outbox(ctx context.Context) (all []Outgoing, err error) {
	err = c.read(ctx, "listing the outbox", func(d *db) error {
		at := make(map[int64]int)
		err := d.each(`SELECT id, queued, body FROM letter ORDER BY id`, nil, func(s *sqlite3.Stmt) error {
			l := Outgoing{ID: s.ColumnInt64(0), Queued: time.Unix(0, s.ColumnInt64(1)).UTC()}
			at[l.ID] = len(all)
			all = append(all, l)
			return unpackJSON(s.ColumnRawBlob(2), &all[len(all)-1].Draft)
		})
		if err != nil {
			return err
		}
		return d.each(`SELECT id, letter, recipient, state, changed, size, digest, receipt, reason FROM copy ORDER BY id`, nil, func(s *sqlite3.Stmt) error {
			i, ok := at[s.ColumnInt64(1)]
			one := scanCopy(s)
			switch {
			case !ok:
			case one.Recipient == "":
				all[i].Own = &one
			default:
				all[i].Copies = append(all[i].Copies, one)
			}
			return nil
		})
	})
	return all, err
}

// AddOwn gives a letter the copy that its sender keeps, once.
func (c *Cache) AddOwn(ctx context.Context, letter int64) error {
	return c.write(ctx, "adding the sender's own copy", func(d *db) error {
		return d.exec(`INSERT OR IGNORE INTO copy (letter, recipient, state, changed) SELECT id, '', ?2, ?3 FROM letter WHERE id = ?1`,
			letter, uint8(Waiting), c.now().UnixNano())
	})
}

func scanCopy(s *sqlite3.Stmt) Copy {
	one := Copy{
		ID: s.ColumnInt64(0), Letter: s.ColumnInt64(1), Recipient: s.ColumnText(2), State: CopyState(s.ColumnInt64(3)),
		Changed: time.Unix(0, s.ColumnInt64(4)).UTC(), Size: s.ColumnInt64(5), Receipt: s.ColumnBlob(7, nil), Reason: s.ColumnText(8),
	}
	copy(one.Digest[:], s.ColumnRawBlob(6))
	if one.State == sealingNow {
		one.State = Waiting
	}
	return one
}

// LockOutbox waits until no other process chooses what to send. Who queues a letter or takes one up holds the
// lock until it has locked the letter, so that a copy is sealed once and sent by one.
func (c *Cache) LockOutbox(ctx context.Context) (io.Closer, error) {
	lock, err := waitLock(ctx, c.file(outboxLock))
	if err != nil {
		return nil, fmt.Errorf("waiting for another process that chooses what to send: %w", err)
	}
	return lock, nil
}

// LockLetter locks a letter of the outbox, for who sends it. Other letters can be sent meanwhile. The
// error wraps durable.ErrLocked where another one does. A letter that is gone can be locked, too: who has the
// lock looks whether it is there.
func (c *Cache) LockLetter(id int64) (io.Closer, error) {
	lock, err := durable.OS.Lock(c.letterLock(id))
	if err != nil {
		return nil, fmt.Errorf("locking letter %d of the outbox: %w", id, err)
	}
	return lock, nil
}

func (c *Cache) letterLock(id int64) string { return c.file(fmt.Sprintf("letter-%d.lock", id)) }

// chunkSize is how much of a sealed copy stands in one row.
const chunkSize = 256 << 10

// Seal keeps the sealed bytes of a Waiting copy, which write writes; it returns their core digest. After a
// crash within it the copy is Waiting still, and after it has returned the copy
// is sent as it is, however often it takes. The error wraps ErrState or ErrNotFound.
func (c *Cache) Seal(ctx context.Context, id int64, write func(io.Writer) (Digest, error)) error {
	err := c.step(ctx, id, "sealing a letter", sealingNow, func(d *db) error { return d.dropChunks(id) }, Waiting, sealingNow)
	if err != nil {
		return err
	}
	w := &chunkWriter{ctx: ctx, cache: c, first: id << 20}
	sum, err := write(w)
	if err == nil {
		err = w.flush()
	}
	if err != nil {
		return fmt.Errorf("sealing a letter: %w", err)
	}
	return c.step(ctx, id, "sealing a letter", Sealed, func(d *db) error {
		return d.exec(`UPDATE copy SET size = ?2, digest = ?3, reason = '' WHERE id = ?1`, id, w.size, sum[:])
	}, sealingNow)
}

// A chunkWriter puts what is written into rows of a copy.
type chunkWriter struct {
	ctx   context.Context
	cache *Cache
	first int64 // row
	count int64
	size  int64
	buf   []byte
}

func (w *chunkWriter) Write(b []byte) (n int, err error) {
	n = len(b)
	for len(b) > 0 {
		k := min(len(b), chunkSize-len(w.buf))
		w.buf, b = append(w.buf, b[:k]...), b[k:]
		if len(w.buf) == chunkSize {
			if err := w.flush(); err != nil {
				return 0, err
			}
		}
	}
	return n, nil
}

func (w *chunkWriter) flush() error {
	if len(w.buf) == 0 {
		return nil
	}
	err := w.cache.write(w.ctx, "keeping a sealed letter", func(d *db) error {
		return d.exec(`INSERT INTO chunk (id, data) VALUES (?1, ?2)`, w.first+w.count, pack(w.buf))
	})
	w.count++
	w.size += int64(len(w.buf))
	w.buf = w.buf[:0]
	return err
}

// Bytes returns the bytes of a Sealed copy, to be read at any place. They are read from the
// database a chunk at a time.
func (c *Cache) Bytes(ctx context.Context, one *Copy) io.ReaderAt {
	return &chunkReader{ctx: ctx, cache: c, first: one.ID << 20, size: one.Size, last: -1}
}

// A chunkReader keeps the chunk that was read last. It is for one goroutine.
type chunkReader struct {
	ctx   context.Context
	cache *Cache
	first int64
	size  int64
	last  int64 // the number of the chunk in buf; -1 for none
	buf   []byte
}

func (r *chunkReader) ReadAt(p []byte, at int64) (n int, err error) {
	if at < 0 {
		return 0, errors.New("cache: a negative offset")
	}
	for n < len(p) {
		if at >= r.size {
			return n, io.EOF
		}
		if err := r.load(at / chunkSize); err != nil {
			return n, err
		}
		k := copy(p[n:], r.buf[at%chunkSize:])
		n, at = n+k, at+int64(k)
	}
	return n, nil
}

func (r *chunkReader) load(i int64) error {
	if i == r.last {
		return nil
	}
	r.last = -1
	err := r.cache.read(r.ctx, "reading a sealed letter", func(d *db) error {
		found, err := d.one(`SELECT data FROM chunk WHERE id = ?1`, []any{r.first + i}, func(s *sqlite3.Stmt) (err error) {
			r.buf, err = unpack(s.ColumnRawBlob(0))
			return err
		})
		if err == nil && !found {
			err = ErrNotFound
		}
		if err == nil && int64(len(r.buf)) != min(chunkSize, r.size-i*chunkSize) {
			err = fmt.Errorf("%w: a part of a letter has %d bytes", ErrDamaged, len(r.buf))
		}
		return err
	})
	if err == nil {
		r.last = i
	}
	return err
}

// SetSent says that the server has a Sealed copy, whose bytes are not kept any longer. The error wraps
// ErrState or ErrNotFound.
func (c *Cache) SetSent(ctx context.Context, id int64, receipt []byte) error {
	return c.step(ctx, id, "keeping a receipt", Sent, func(d *db) error {
		if err := d.exec(`UPDATE copy SET receipt = ?2, reason = '' WHERE id = ?1`, id, receipt); err != nil {
			return err
		}
		return d.dropChunks(id)
	}, Sealed)
}

// SetFailed gives a copy up that is not Sent, because the server has refused it, or the user wants it no more. Who
// does not know whether a copy has arrived leaves it Sealed and sends it again. The error wraps ErrState or
// ErrNotFound.
func (c *Cache) SetFailed(ctx context.Context, id int64, reason string) error {
	return c.step(ctx, id, "giving a letter up", Failed, func(d *db) error {
		return d.exec(`UPDATE copy SET reason = ?2 WHERE id = ?1`, id, reason)
	}, Waiting, sealingNow, Sealed, Failed)
}

// SetTried notes why an attempt with a Waiting or Sealed copy failed that will be repeated. The
// error wraps ErrNotFound.
func (c *Cache) SetTried(ctx context.Context, id int64, reason string) error {
	return c.write(ctx, "noting an attempt", func(d *db) error {
		if err := d.exec(`UPDATE copy SET reason = ?2, changed = ?3 WHERE id = ?1`, id, reason, c.now().UnixNano()); err != nil {
			return err
		}
		if d.conn.Changes() == 0 {
			return ErrNotFound
		}
		return nil
	})
}

// Retry makes a Failed copy Waiting, to be sealed anew: the recipient's key may be another one. The error wraps
// ErrState or ErrNotFound.
func (c *Cache) Retry(ctx context.Context, id int64) error {
	return c.step(ctx, id, "trying a letter again", Waiting, func(d *db) error {
		if err := d.exec(`UPDATE copy SET reason = '', size = 0, digest = NULL WHERE id = ?1`, id); err != nil {
			return err
		}
		return d.dropChunks(id)
	}, Failed)
}

// RemoveLetter removes a letter with all its copies, in whatever state. What was sent stays
// sent. The error wraps ErrNotFound.
func (c *Cache) RemoveLetter(ctx context.Context, id int64) error {
	err := c.removeLetter(ctx, id)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	// Whoever locks that file from now on, or another one of its name, finds no letter: no ID comes twice.
	if rerr := durable.OS.Remove(c.letterLock(id)); rerr != nil && !errors.Is(rerr, fs.ErrNotExist) {
		return errors.Join(err, rerr)
	}
	return err
}

func (c *Cache) removeLetter(ctx context.Context, id int64) error {
	return c.write(ctx, "removing a letter from the outbox", func(d *db) error {
		var copies []int64
		err := d.each(`SELECT id FROM copy WHERE letter = ?1`, []any{id}, func(s *sqlite3.Stmt) error {
			copies = append(copies, s.ColumnInt64(0))
			return nil
		})
		if err != nil {
			return err
		}
		for _, one := range copies {
			if err := d.dropChunks(one); err != nil {
				return err
			}
		}
		if err := d.exec(`DELETE FROM copy WHERE letter = ?1`, id); err != nil {
			return err
		}
		if err := d.exec(`DELETE FROM letter WHERE id = ?1`, id); err != nil {
			return err
		}
		if d.conn.Changes() == 0 {
			return ErrNotFound
		}
		return nil
	})
}

// step moves a copy from one of the states before to another, with what else do does.
func (c *Cache) step(ctx context.Context, id int64, what string, to CopyState, do func(*db) error, before ...CopyState) error {
	return c.write(ctx, what, func(d *db) error {
		var at CopyState
		found, err := d.one(`SELECT state FROM copy WHERE id = ?1`, []any{id}, func(s *sqlite3.Stmt) error {
			at = CopyState(s.ColumnInt64(0))
			return nil
		})
		if err == nil && !found {
			err = ErrNotFound
		}
		if err != nil {
			return err
		}
		if !slices.Contains(before, at) {
			return ErrState
		}
		if err := d.exec(`UPDATE copy SET state = ?2, changed = ?3 WHERE id = ?1`, id, uint8(to), c.now().UnixNano()); err != nil {
			return err
		}
		return do(d)
	})
}

func (d *db) dropChunks(id int64) error {
	return d.exec(`DELETE FROM chunk WHERE id >= ?1 AND id < ?2`, id<<20, (id+1)<<20)
}
