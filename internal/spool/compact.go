package spool

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"slices"
	"time"

	"cmtpd/internal/durable"
)

// idleShare is the share of removed data from which a segment is worth rewriting in the
// background.
const idleShare = 0.5

// Compact gives the space of all messages back that were removed before it was called and are
// not in the newest segment, but for a file that becomes the spare. The spool works on
// meanwhile; a crash at any point loses nothing but the work. ErrReadOnly, ErrFailed, ErrDamaged
// where what is to be copied is damaged (it is left as it is), ctx's error.
func (s *Spool) Compact(ctx context.Context) error {
	if s.readOnly {
		return ErrReadOnly
	}
	return s.compactAll(ctx, 0, 0)
}

// compactAll goes through the log once and compacts what has at least a share of removed data, at
// up to rate bytes a second, 0 for no bound. What is removed behind its back waits for the next
// time: it would never end beside somebody who removes without a pause.
func (s *Spool) compactAll(ctx context.Context, share float64, rate int64) error {
	s.compacting.Lock()
	defer s.compacting.Unlock()
	for done := uint64(0); ; {
		if err := errors.Join(ctx.Err(), s.failed()); err != nil {
			return err
		}
		group := s.plan(share, done)
		if group == nil {
			return nil
		}
		done = group[len(group)-1].last
		c := &compaction{s: s, group: group, pace: pace{rate: rate, start: time.Now()}}
		if err := c.run(ctx); err != nil {
			return fmt.Errorf("compacting %s: %w", group[0].name, err)
		}
	}
}

// plan picks segments that follow each other, fit one when their removed data is gone, and have
// a share of it; the last of them has a sequence number above done. nil for none.
func (s *Spool) plan(share float64, done uint64) []*segment {
	s.mu.RLock()
	defer s.mu.RUnlock()
	all := s.chain.index.segments
	for i := range all {
		var size, dead int64
		end := 0
		for j, seg := range all[i : len(all)-1] {
			size, dead = size+seg.size, dead+seg.dead
			if seg.dirty || seg.still || (j > 0 && size-dead > s.options.SegmentSize) {
				break
			}
			if seg.sequence > done && dead > 0 && float64(dead) >= share*float64(size) {
				end = i + j + 1
			}
		}
		if end > 0 {
			return slices.Clone(all[i:end])
		}
	}
	return nil
}

// pace bounds how fast something goes.
type pace struct {
	rate  int64 // bytes a second; 0 for no bound
	start time.Time
	done  int64
}

func (p *pace) wait(ctx context.Context, n int64) error {
	p.done += n
	if p.rate <= 0 {
		return ctx.Err()
	}
	due := time.Duration(float64(p.done) / float64(p.rate) * float64(time.Second))
	t := time.NewTimer(time.Until(p.start.Add(due)))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// compaction rewrites a group of segments as one.
type compaction struct {
	s     *Spool
	group []*segment
	pace  pace
	into  *segment
	out   durable.File
	buf   []byte
	gone  []ID // whose data was left out
	head  Head // of the last commit that was copied
	used  used // what becomes the spare
}

const compactBuffer = 1 << 20

// run does it all. Up to the rename a failure costs nothing but a temporary file, which
// is removed.
//
//	open       tmp/<name>             O_CREAT|O_EXCL
//	pwrite     tmp/<name>             header and records
//	fdatasync  tmp/<name>
//	(the index file, as seal makes it)
//	link       log/<sequence>.seg     spare/<name>   the old one that recycle is to use
//	rename     tmp/<name>             log/<sequence>.seg
//	fsync      log/
//	unlink     log/<sequence>.seg     those of the others
//	unlink     index/<...>.idx        the old ones
//	(recycle)
func (c *compaction) run(ctx context.Context) error {
	s, first, last := c.s, c.group[0], c.group[len(c.group)-1]
	c.into = &segment{path: first.path, name: first.name, header: first.header, top: last.top, after: last.after}
	c.into.last, c.into.generation = last.last, newGeneration()
	for _, seg := range c.group {
		c.into.walked = c.into.walked || seg.walked
	}
	tmp := s.path("tmp", durable.RandomName())
	var err error
	if c.out, err = s.fs.Create(tmp, 0o600); err != nil {
		return err
	}
	err = c.fill(ctx)
	err = errors.Join(err, c.out.Close())
	if err != nil {
		return errors.Join(err, s.fs.Remove(tmp))
	}
	t := c.into.table
	if c.into.walked {
		// Every start looks at it again.
	} else if stored, err := s.writeIndex(c.into); err == nil {
		c.into.table = stored
	} else {
		s.log.Warn("no index file: the next start reads the segment", "segment", c.into.sequence, "error", err)
	}
	c.used = s.reserve(c.group)
	if err := c.publish(tmp, t.(*memory)); err != nil {
		return errors.Join(err, s.discard(c.used))
	}
	return c.tidy()
}

// fill writes the new segment, flushes it, and reads it back into its table.
func (c *compaction) fill(ctx context.Context) error {
	c.buf = c.into.header.append(make([]byte, 0, compactBuffer+compactBuffer/4))
	for _, seg := range c.group {
		if err := c.copy(ctx, seg); err != nil {
			if errors.Is(err, ErrDamaged) {
				c.s.condemn(seg, err)
			}
			return err
		}
	}
	if c.head != c.into.after.head {
		return fmt.Errorf("%w: the copy ends with commit %s, not %s", ErrDamaged, c.head, c.into.after.head)
	}
	err := c.flush()
	if err == nil {
		err = c.out.Sync()
	}
	if err != nil {
		return err
	}
	t, err := load(c.out, c.into)
	if err != nil {
		return err
	}
	// A removal may have been passed over, because its message was lost.
	t.removed = nil
	for _, seg := range c.group {
		var rows []removedRow
		err := c.s.view(func(*index) (err error) {
			rows, err = seg.table.removals()
			return blame(seg, err)
		})
		if err != nil {
			return err
		}
		t.removed = append(t.removed, rows...)
	}
	c.into.table = t
	return nil
}

func (c *compaction) flush() error {
	n, err := c.out.WriteAt(c.buf, c.into.size)
	c.into.size += int64(n)
	c.buf = c.buf[:0]
	return err
}

// copy appends one segment's records. It proves each batch against its commit, so that no
// damage is made to look whole.
func (c *compaction) copy(ctx context.Context, seg *segment) error {
	f, err := c.s.fs.Open(seg.path)
	if err != nil {
		return err
	}
	defer f.Close()
	sc := &scanner{file: f, size: seg.size, generation: seg.generation, offset: headerSize}
	leaves, read := sha256.New(), int64(0)
	for {
		r, err := sc.next()
		if err == io.EOF {
			return c.pace.wait(ctx, read)
		}
		if err != nil {
			return err
		}
		if r.skipped || r.damaged {
			return fmt.Errorf("%w: %s at offset %d", ErrDamaged, seg.name, r.offset)
		}
		if r.kind == kindCommit {
			cm, err := parseCommit(r.head)
			if err != nil || !c.fits(&cm, [32]byte(leaves.Sum(nil)), r.data) {
				return fmt.Errorf("%w: %s: commit %d does not fit its batch", ErrDamaged, seg.name, cm.number)
			}
			leaves.Reset()
			c.head = cm.head()
		} else {
			l := leaf(r.kind, r.head)
			leaves.Write(l[:])
		}
		c.record(&r)
		if read += r.length; len(c.buf) < compactBuffer {
			continue
		}
		if err := errors.Join(c.flush(), c.pace.wait(ctx, read)); err != nil {
			return err
		}
		read = 0
	}
}

// fits says whether the leaves of the records before a commit, hashed one after the other, are
// those that it names, as its data has to be, or those of what a repair has vouched for.
func (c *compaction) fits(cm *commit, leaves [32]byte, data []byte) bool {
	if cm.leaves == leaves {
		return sha256.Sum256(data) == leaves
	}
	c.s.mu.RLock()
	defer c.s.mu.RUnlock()
	_, ok := c.s.chain.repaired[batchWound(cm.head(), leaves)]
	return ok
}

// record appends a record, without its data where its message was removed.
func (c *compaction) record(r *scanned) {
	flags, data := r.flags, r.data
	if m := newRecord(r); flags&flagGone == 0 && (m.kind == kindMessage || m.kind == kindLarge) {
		c.s.mu.RLock()
		removed := c.s.chain.index.removed.has(m.message.id)
		c.s.mu.RUnlock()
		if removed {
			flags, data = flags|flagGone, nil
			c.gone = append(c.gone, m.message.id)
		}
	}
	c.buf = appendFrame(c.buf, c.into.generation, r.kind, flags, r.head, len(data), crc32.Checksum(data, castagnoli))
	c.buf = append(c.buf, data...)
}

// publish puts the new segment in the place of the group, on disk and in memory at once, so
// that no reader meets one without the other.
func (c *compaction) publish(tmp string, t *memory) error {
	s := c.s
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.failure
	for _, seg := range c.group {
		if seg.dirty && err == nil {
			err = ErrDamaged // a reader has met damage meanwhile
		}
	}
	if err == nil {
		if err = s.fs.Rename(tmp, c.into.path); err == nil || c.renamed() {
			c.replace(t)
			return nil
		}
	}
	return errors.Join(err, s.fs.Remove(tmp), s.unlinkIndex(c.into))
}

// renamed says whether a rename that failed took effect nonetheless.
func (c *compaction) renamed() bool {
	f, err := c.s.fs.Open(c.into.path)
	if err != nil {
		return false
	}
	defer f.Close()
	b := make([]byte, headerSize)
	if n, err := f.ReadAt(b, 0); n < len(b) && err != nil {
		return false
	}
	h, err := parseHeader(b)
	return err == nil && h.generation == c.into.generation
}

// replace is publish in memory.
func (c *compaction) replace(t *memory) {
	x := c.s.chain.index
	i := slices.Index(x.segments, c.group[0])
	x.segments = slices.Concat(x.segments[:i], []*segment{c.into}, x.segments[i+len(c.group):])
	for _, id := range c.gone {
		x.removed.remove(id)
	}
	for i := range t.entries { // those that were removed since they were copied
		if size, large := unpackSize(t.entries[i].size); !large && x.removed.has(t.entries[i].id) {
			c.into.dead += size
		}
	}
}

// tidy makes the new segment durable in the old ones' place, and frees them.
func (c *compaction) tidy() error {
	s := c.s
	if err := s.fs.SyncDir(s.path("log")); err != nil {
		return s.fail(err)
	}
	var errs []error
	for _, seg := range c.group[1:] {
		err := s.fs.Remove(seg.path)
		if errs = append(errs, err); err != nil && seg == c.used.segment {
			errs = append(errs, s.discard(c.used))
			c.used = used{}
		}
	}
	for _, seg := range c.group {
		errs = append(errs, s.unlinkIndex(seg))
	}
	if err := errors.Join(errs...); err != nil {
		s.log.Warn("what a compaction has replaced is left until the next start", "error", err)
	}
	return s.recycle(c.used, c.used.segment != c.group[0])
}

// unlinkIndex removes a segment's index file, if there is one.
func (s *Spool) unlinkIndex(seg *segment) error {
	err := s.fs.Remove(s.path("index", indexName(&seg.header)))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// condemn notes damage that no message's reader met.
func (s *Spool) condemn(seg *segment, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if seg.dirty {
		return
	}
	d := Damage{File: seg.name, Segment: seg.sequence, Reason: err.Error()}
	s.damage = append(s.damage, d)
	s.log.Error("spool is damaged", "damage", d)
	if err := s.distrust(seg); err != nil {
		s.log.Warn("the next start may not see the damage", "error", err)
	}
}
