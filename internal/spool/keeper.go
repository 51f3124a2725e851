package spool

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"cmtpd/internal/durable"
)

// keeper is what works behind the committer: it makes index files and compacts. No
// message waits for it.
type keeper struct {
	wake    chan struct{} // holds a token when there may be something to do
	ctx     context.Context
	cancel  context.CancelFunc
	stopped chan struct{}
}

func (k *keeper) init() {
	k.wake, k.stopped = make(chan struct{}, 1), make(chan struct{})
	k.ctx, k.cancel = context.WithCancel(context.Background())
}

func (k *keeper) signal() {
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

func (k *keeper) stop() {
	k.cancel()
	<-k.stopped
}

// keep is the keeper's goroutine.
func (s *Spool) keep() {
	defer close(s.keeper.stopped)
	for {
		s.sealAll()
		if s.options.CompactRate > 0 {
			if err := s.compactAll(s.keeper.ctx, idleShare, s.options.CompactRate); err != nil && s.keeper.ctx.Err() == nil {
				s.log.Warn("compaction has stopped until the next removal", "error", err)
			}
		}
		select {
		case <-s.keeper.wake:
		case <-s.keeper.ctx.Done():
			s.sealAll()
			return
		}
	}
}

// sealAll makes the index files that are missing.
func (s *Spool) sealAll() {
	var unsealed []*segment
	s.mu.RLock()
	if all := s.chain.index.segments; s.failure == nil && len(all) > 0 {
		for _, seg := range all[:len(all)-1] {
			if _, ok := seg.table.(*memory); ok && !seg.dirty && !seg.walked {
				unsealed = append(unsealed, seg)
			}
		}
	}
	s.mu.RUnlock()
	for _, seg := range unsealed {
		s.seal(seg)
	}
}

// seal makes the index file of a segment that takes no more records, and uses it from then
// on. Without one the segment's table stays in memory, and the next start walks it.
//
//	open       index/<name>.tmp   O_CREAT|O_EXCL
//	pwrite     index/<name>.tmp
//	fdatasync  index/<name>.tmp
//	rename     index/<name>.tmp   index/<sequence>-<generation>.idx
func (s *Spool) seal(seg *segment) {
	t, err := s.writeIndex(seg)
	if err != nil {
		s.log.Warn("no index file: the next start reads the segment", "segment", seg.sequence, "error", err)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !seg.dirty {
		seg.table = t
	}
}

// writeIndex writes what seal uses. Nobody changes the segment's table meanwhile.
func (s *Spool) writeIndex(seg *segment) (*indexFile, error) {
	tmp := s.path("index", durable.RandomName()+".tmp")
	f, err := s.fs.Create(tmp, 0o600)
	if err != nil {
		return nil, err
	}
	err = putIndex(f, seg, seg.table.(*memory))
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, errors.Join(err, s.fs.Remove(tmp))
	}
	if err := s.fs.Rename(tmp, s.path("index", indexName(&seg.header))); err != nil {
		return nil, errors.Join(err, s.fs.Remove(tmp))
	}
	return openIndex(s.fs, s.dir, seg)
}

// distrust makes the next start walk a segment, because it holds damage: its index file
// goes on under a name that no start looks for. It is called under the lock.
//
//	rename  index/<sequence>-<generation>.idx   index/<sequence>-<generation>.bad
func (s *Spool) distrust(seg *segment) error {
	seg.dirty = true
	t, ok := seg.table.(*indexFile)
	if !ok || strings.HasSuffix(t.path, badSuffix) {
		return nil
	}
	bad := strings.TrimSuffix(t.path, filepath.Ext(t.path)) + badSuffix
	if err := s.fs.Rename(t.path, bad); err != nil {
		return err
	}
	t.path = bad
	return nil
}

const badSuffix = ".bad"

// view calls read under the lock. Where a table on disk cannot be read it is made again from
// its segment.
func (s *Spool) view(read func(*index) error) error {
	for {
		s.mu.RLock()
		err := read(s.chain.index)
		s.mu.RUnlock()
		var bad *tableError
		if !errors.As(err, &bad) {
			return err
		}
		if healErr := s.heal(bad); healErr != nil {
			return errors.Join(err, healErr)
		}
	}
}

// heal replaces a table that cannot be read.
func (s *Spool) heal(bad *tableError) error {
	seg := bad.segment
	f, err := s.openFound(seg)
	if errors.Is(err, ErrMoved) {
		return nil // its table went with it
	}
	if err != nil {
		return err
	}
	defer f.Close()
	t, err := load(f, seg)
	if err != nil {
		return err
	}
	s.log.Warn("made an index again", "error", bad)
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := seg.table.(*indexFile); ok {
		seg.table = t
	}
	s.keeper.signal()
	return nil
}

// load makes a segment's table from its file, which must be undamaged.
func load(f durable.File, seg *segment) (*memory, error) {
	t := newMemory()
	sc := &scanner{file: f, size: seg.size, generation: seg.generation, offset: headerSize}
	var batch []record
	for {
		r, err := sc.next()
		if err == io.EOF {
			return t, nil
		}
		if err != nil {
			return nil, err
		}
		if r.skipped || r.damaged {
			return nil, fmt.Errorf("%w: %s at offset %d", ErrDamaged, seg.name, r.offset)
		}
		if r.kind != kindCommit {
			batch = append(batch, newRecord(&r))
			continue
		}
		c, err := parseCommit(r.head)
		if err != nil {
			return nil, fmt.Errorf("%w: %s at offset %d: %w", ErrDamaged, seg.name, r.offset, err)
		}
		found, _, _, _ := match(&c, r.data, batch) // a repaired batch may lack some
		for i := range found {
			t.take(&found[i], c.number)
		}
		batch = batch[:0]
	}
}

// take adds what a record of a commit says.
func (t *memory) take(r *record, commit uint64) {
	switch {
	case r.kind == kindRemoval:
		t.remove(&r.removal, r.change(commit))
	case r.kind == kindMark:
		t.mark(r.mark, r.change(commit), r.offset)
	case r.kind != kindMessage && r.kind != kindLarge:
	case r.gone:
		t.missing = append(t.missing, r.message.id)
	default:
		t.add(&r.message, r.change(commit), r.offset)
	}
}
