package spool

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"cmtpd/internal/crypt"
	"cmtpd/internal/durable"
)

// Spool is an open spool. Its methods are safe for concurrent use.
type Spool struct {
	fs       durable.FS
	dir      string
	log      *slog.Logger
	options  Options
	readOnly bool
	lock     io.Closer
	budget   budget
	queue    queue
	keeper   keeper
	spare    spare
	recycles bool // files that compaction frees may be used again
	// compacting is held by the one compaction at a time.
	compacting sync.Mutex

	// active is the newest segment's file, owned by Open and then by the committer.
	active durable.File

	mu      sync.RWMutex // guards what follows; held for writing only by the committer's apply, and briefly
	chain   *chain
	damage  []Damage
	failure error // why nothing is acknowledged any more
	closed  bool

	scrubbed time.Time // when a round of Scrub has ended
}

// Open opens the spool in dir for reading and writing, and makes it if there is
// none. It cuts off a torn tail, removes what messages that were never
// acknowledged left behind, and reports damage in the log and by Damage. One
// process can hold it at a time: durable.ErrLocked.
//
// docs/spool.md, Writing, has the order of calls.
func Open(dir string, o Options) (*Spool, error) {
	return OpenContext(context.Background(), dir, o)
}

// OpenContext is Open, and gives up reading the log when ctx ends: with ctx's error, and nothing of the log changed. What
// follows the reading is done to its end. The spool that is open does not depend on ctx.
func OpenContext(ctx context.Context, dir string, o Options) (*Spool, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	s := &Spool{fs: o.FS, dir: dir, log: o.Log, options: o}
	s.budget.limit = o.MemoryBudget
	s.queue.init()
	s.keeper.init()
	s.spare.init()
	if err := s.open(ctx); err != nil {
		s.release()
		return nil, fmt.Errorf("open spool %s: %w", dir, err)
	}
	go s.committer()
	go s.keep()
	go s.prewrite()
	return s, nil
}

// OpenReadOnly opens the spool in dir for reading, as it is now. It cuts and removes nothing,
// and keeps nobody from writing, so it may run beside the process that writes. It shows all that was
// acknowledged before, perhaps a batch whose flush is under way, and nothing that comes later.
// Where a compaction has taken that away meanwhile, reading gives ErrMoved. The writer uses no file
// again until Close.
func OpenReadOnly(dir string, fsys durable.FS) (*Spool, error) {
	lock, err := lockShared(fsys, dir)
	if err != nil {
		return nil, fmt.Errorf("read spool %s: %w", dir, err)
	}
	var w *walker
	err = again(func() (err error) {
		w, err = walk(context.Background(), fsys, dir, func(*walker) {})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read spool %s: %w", dir, errors.Join(err, lock.Close()))
	}
	return &Spool{fs: fsys, dir: dir, readOnly: true, log: slog.New(slog.DiscardHandler),
		chain: w.chain, damage: w.damage, lock: lock}, nil
}

// again reads a log again that moved meanwhile. Compaction is slower than reading, so a
// few times are enough.
func again(read func() error) (err error) {
	for range 10 {
		if err = read(); !errors.Is(err, ErrMoved) {
			return err
		}
	}
	return err
}

func (s *Spool) path(elem ...string) string {
	return filepath.Join(append([]string{s.dir}, elem...)...)
}

func (s *Spool) open(ctx context.Context) error {
	if err := s.claim(); err != nil {
		return err
	}
	w, err := s.start(ctx)
	if err != nil {
		return err
	}
	s.log.Info("spool is open", "head", s.chain.head, "messages", s.chain.index.messages,
		"segments", len(s.chain.index.segments), "damage", len(s.damage), "repaired", len(w.scars))
	return nil
}

// LogDir returns the directory of the log of a spool in dir, which is made before anything is signed.
func LogDir(dir string) string { return filepath.Join(dir, "log") }

// claim makes the directories and takes the lock.
func (s *Spool) claim() (err error) {
	for _, d := range []string{"", "log", "large", "index", "spare", "tmp"} {
		if err := durable.MkdirAll(s.fs, s.path(d), 0o700); err != nil {
			return err
		}
		if d != "" {
			continue
		}
		if s.lock, err = s.fs.Lock(s.path("lock")); err != nil {
			return err
		}
		if err := s.makeReaders(); err != nil {
			return err
		}
	}
	return nil
}

// start reads the log and makes it ready for the next batch.
func (s *Spool) start(ctx context.Context) (*walker, error) {
	w, err := s.recover(ctx)
	if err != nil {
		return nil, err
	}
	s.chain, s.damage = w.chain, w.damage
	if s.chain.head.Number == 0 && len(s.damage) > 0 {
		return nil, fmt.Errorf("%w: %v", ErrLost, s.damage[0])
	}
	before, err := s.predecessor()
	if err != nil {
		return nil, err
	}
	for _, d := range s.damage {
		s.log.Error("spool is damaged", "damage", d)
	}
	if err := s.settle(w); err != nil {
		return nil, err
	}
	if err := s.clean(w); err != nil {
		return nil, err
	}
	if err := s.resume(); err != nil {
		return nil, err
	}
	return w, s.introduce(before)
}

// recover reads the log, from index files where they can be trusted. One that turns out to be
// damaged is removed, and its segment walked.
func (s *Spool) recover(ctx context.Context) (*walker, error) {
	for {
		w, err := walk(ctx, s.fs, s.dir, func(w *walker) {
			w.own, w.sealed, w.alone = s.options.Key.Public(), s.seal, true
		})
		var bad *tableError
		if !errors.As(err, &bad) {
			return w, err
		}
		s.log.Warn("walking a segment whose index file is damaged", "error", bad)
		if err := s.fs.Remove(s.path("index", indexName(&bad.segment.header))); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
}

// settle makes durable what was read. The process before may have ended between a write and
// its flush, or after a flush that failed and dropped pages: then the kernel shows a commit that is
// not on disk, or a compaction's rename. Only the last commit can be such a one, so it is written again,
// and flushed before anybody can rely on it, and before anything is unlinked because of it.
//
//	ftruncate  log/<sequence>.seg   only where there is a torn tail, or room behind damage
//	pwrite     log/<sequence>.seg   the last batch and its commit, as they were read
//	fdatasync  log/<sequence>.seg
//	fsync      log/
func (s *Spool) settle(w *walker) error {
	if len(s.chain.index.segments) == 0 {
		return nil
	}
	if err := s.settleLast(w); err != nil {
		return err
	}
	return s.fs.SyncDir(s.path("log"))
}

// resume makes the newest segment ready for the next batch.
func (s *Spool) resume() error {
	if len(s.chain.index.segments) == 0 {
		return s.roll()
	}
	seg := s.chain.index.newest()
	if seg.dirty {
		return s.roll()
	}
	var err error
	s.active, err = s.fs.OpenWrite(seg.path)
	return err
}

// settleLast cuts the torn tail, and the room of a segment that another will follow, and makes the last commit durable.
func (s *Spool) settleLast(w *walker) error {
	newest := s.chain.index.newest()
	if w.torn > 0 {
		s.log.Warn("cutting off a torn tail", "segment", newest.sequence, "offset", newest.size, "bytes", w.torn)
	}
	if w.torn > 0 || newest.dirty {
		if err := s.change(newest, func(f durable.File) error { return f.Truncate(newest.size) }); err != nil {
			return err
		}
	}
	if w.last == nil {
		return nil
	}
	return s.change(w.last.segment, func(f durable.File) error {
		b := make([]byte, w.last.end-w.last.start)
		if n, err := f.ReadAt(b, w.last.start); n < len(b) {
			return err
		}
		_, err := f.WriteAt(b, w.last.start)
		return err
	})
}

// change changes a segment and flushes it.
func (s *Spool) change(seg *segment, do func(durable.File) error) error {
	f, err := s.fs.OpenWrite(seg.path)
	if err != nil {
		return err
	}
	err = do(f)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// roll begins a new segment.
func (s *Spool) roll() error {
	h := header{sequence: 1, generation: newGeneration(), before: s.chain.head, key: s.options.Key.Public()}
	var before *segment
	if s.active != nil || len(s.chain.index.segments) > 0 {
		before = s.newest()
		h.sequence = before.last + 1
	}
	if h.sequence > maxNumber {
		return fmt.Errorf("%w: move %s away, which claims the last one", ErrNumbers, before.name)
	}
	h.last = h.sequence
	name := filepath.Join("log", segmentName(h.sequence))
	seg := &segment{path: s.path(name), name: name, header: h, size: headerSize, table: newMemory()}
	if err := s.cutRoom(before); err != nil {
		return err
	}
	f, err := s.newSegmentFile(seg)
	if err != nil {
		return err
	}
	if s.active != nil {
		s.active.Close() // its bytes are durable already
	}
	s.active = f
	s.mu.Lock()
	if before != nil {
		before.after = s.chain.state
		if t, ok := before.table.(*memory); ok {
			seg.table = newMemoryLike(len(t.entries), len(t.boxes))
		}
	}
	s.chain.index.begin(seg)
	s.mu.Unlock()
	s.keeper.signal()
	return nil
}

// introduce commits a record of the spool's keys where the one in force names others: in
// a new spool, and when the caller brings another spool key or identity. before is the
// identity in force. Up to the flush the spool is what it was, and the next start does it again.
//
//	pwrite     log/<sequence>.seg   the record and its commit
//	fdatasync  log/<sequence>.seg
func (s *Spool) introduce(before *crypt.PrivateKey) error {
	now := &s.chain.keys
	if s.options.skip > 0 && now.key == s.options.Key.Public() {
		return fmt.Errorf("%w: the spool has gone on under this key elsewhere", ErrOptions)
	}
	if s.chain.known && now.key == s.options.Key.Public() && now.identity == s.options.Identity.Public() {
		return nil
	}
	k := keys{spool: now.spool, time: s.options.Now(), key: s.options.Key.Public(), identity: s.options.Identity.Public()}
	if !s.chain.known {
		rand.Read(k.spool[:])
	} else {
		s.log.Warn("the spool has new keys", "key", now.key.String(), "now", k.key.String(),
			"identity", now.identity.String(), "identity_now", k.identity.String())
	}
	k.sign(s.chain.head.Hash, before, s.options.Identity)
	if s.chain.next > maxNumber-s.options.skip {
		return fmt.Errorf("%w: there are no message numbers left", ErrOptions)
	}
	b := &batch{next: s.chain.next + s.options.skip}
	b.add(s.newest().generation, record{kind: kindKeys, keys: k}, k.append(nil), nil)
	return s.write(b)
}

// Close waits for the commits under way, refuses further ones, and gives the
// spool back.
func (s *Spool) Close() error {
	s.mu.Lock()
	was := s.closed
	s.closed = true
	s.mu.Unlock()
	if was {
		return nil
	}
	if s.readOnly {
		return s.lock.Close()
	}
	s.queue.close()
	<-s.queue.drained
	s.keeper.stop()
	s.spare.stop()
	return s.release()
}

func (s *Spool) release() (err error) {
	s.spare.mu.Lock()
	err = errors.Join(s.dropSpare(), s.dropSpare())
	s.spare.mu.Unlock()
	if s.active != nil {
		err = errors.Join(err, s.active.Close())
	}
	if s.lock != nil {
		err = errors.Join(err, s.lock.Close())
	}
	return err
}

// Head returns the chain's head. All that was acknowledged before is in it.
func (s *Spool) Head() Head {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.chain.head
}

// Key returns the spool key in force.
func (s *Spool) Key() crypt.PublicKey {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.chain.keys.key
}

// Damage lists what was found to be damaged, at Open and since.
func (s *Spool) Damage() []Damage {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return slices.Clone(s.damage)
}

// Stats returns the spool's numbers.
func (s *Spool) Stats() Stats {
	s.mu.RLock()
	defer s.mu.RUnlock()
	x := s.chain.index
	return Stats{Head: s.chain.head, Messages: x.messages, Bytes: x.bytes, Large: x.large,
		Segments: len(x.segments), Memory: s.budget.used.Load(), Damage: len(s.damage), Failed: s.failure != nil, Scrubbed: s.scrubbed}
}
