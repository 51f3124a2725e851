package spool

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"slices"
	"time"
)

// A scrub reads what no reader may come to for years, so that damage shows while a backup still
// has what it took. It holds records against their check sums and messages against their SHA-256;
// a proof against somebody who changes both is Verify's.
type scrub struct {
	s          *Spool
	pace       pace
	buf        []byte
	unreadable map[uint64]bool // segments, by sequence number, that were reported
}

const (
	// minScrub is how fast a scrub reads at least, in bytes a second.
	minScrub = 1 << 20
	// scrubStep is how much it reads at once.
	scrubStep = 256 << 10
)

// Scrub reads the whole spool once in every time of that length, slowly, and again, until ctx
// ends. What it finds is quarantined, logged and listed by Damage like all damage. It begins at
// a random place, so that a process that never lives for a whole round leaves no place out for
// good. It returns nil when ctx has ended.
func (s *Spool) Scrub(ctx context.Context, every time.Duration) error {
	c := &scrub{s: s, buf: make([]byte, scrubStep), unreadable: make(map[uint64]bool)}
	for {
		began := time.Now()
		if err := c.round(ctx, every); err != nil && ctx.Err() == nil {
			s.log.Warn("the scrub has stopped until its next round", "error", err)
		} else if err == nil {
			s.mu.Lock()
			s.scrubbed = time.Now()
			s.mu.Unlock()
		}
		next := time.NewTimer(time.Until(began.Add(every)))
		select {
		case <-next.C:
		case <-ctx.Done():
			next.Stop()
			return nil
		}
	}
}

// round reads every segment that is there from its beginning to its end.
func (c *scrub) round(ctx context.Context, every time.Duration) error {
	st := c.s.Stats()
	c.pace = pace{start: time.Now(), rate: max(minScrub, int64(float64(st.Bytes)/every.Seconds()))}
	last := c.s.newest().last
	from := rand.Uint64N(last + 1)
	for _, part := range [][2]uint64{{from, last}, {0, from}} {
		for at := part[0]; at < part[1]; {
			seg, size := c.next(at)
			if seg == nil {
				break
			}
			at = seg.last
			if err := c.segment(ctx, seg, size); err != nil {
				return err
			}
		}
	}
	return nil
}

// next returns the first segment that stands for more than a sequence number, and its length now.
func (c *scrub) next(after uint64) (*segment, int64) {
	c.s.mu.RLock()
	defer c.s.mu.RUnlock()
	for _, seg := range c.s.chain.index.segments {
		if seg.last > after {
			return seg, seg.size
		}
	}
	return nil, 0
}

// segment reads one segment and the large files of its messages.
func (c *scrub) segment(ctx context.Context, seg *segment, size int64) error {
	f, err := c.s.openFound(seg)
	if errors.Is(err, ErrMoved) || errors.Is(err, fs.ErrNotExist) {
		return nil // what it became has its turn in the next round; the next start finds it missing
	}
	if err != nil {
		return err
	}
	defer f.Close()
	sc := &scanner{file: f, size: size, generation: seg.generation, offset: headerSize}
	broken := int64(-1)
	for read := int64(0); ; {
		r, err := sc.next()
		if err == io.EOF {
			break
		}
		if err != nil {
			c.report(seg, err)
			return nil
		}
		if !c.record(ctx, &r) && broken < 0 {
			broken = r.offset
		}
		if read += r.length; read >= scrubStep {
			if err := c.pace.wait(ctx, read); err != nil {
				return err
			}
			read = 0
		}
	}
	if broken >= 0 {
		return c.broken(seg, broken)
	}
	return ctx.Err()
}

// record looks at one record. It returns false for damage that is not a message's data.
func (c *scrub) record(ctx context.Context, r *scanned) bool {
	if r.skipped {
		return false
	}
	rec := newRecord(r)
	m := &rec.message
	switch {
	case rec.kind == kindLarge && !rec.gone:
		c.message(ctx, m.id)
	case rec.kind == kindMessage && !rec.gone:
		if rec.damaged || sha256.Sum256(r.data) != m.sha256 {
			c.message(ctx, m.id)
		}
		return true
	}
	return !r.damaged
}

// message reads a message to its end: its Reader takes note of what is wrong.
func (c *scrub) message(ctx context.Context, id ID) {
	r, err := c.s.Open(id)
	if err != nil {
		return // it is noted already, or was removed
	}
	defer r.Close()
	for err == nil {
		var n int
		n, err = r.Read(c.buf)
		err = errors.Join(err, c.pace.wait(ctx, int64(n)))
	}
}

// broken finds whose record it was that is none any more, and reports the segment if it was no
// message's.
func (c *scrub) broken(seg *segment, offset int64) error {
	for after, more := ID(0), true; more; {
		var ids []ID
		err := c.s.view(func(x *index) (err error) {
			if slices.Contains(x.segments, seg) { // it was not compacted meanwhile
				ids, err = seg.table.ids(after, listPage)
			}
			return blame(seg, err)
		})
		if err != nil && !errors.Is(err, ErrDamaged) {
			return err
		}
		for _, id := range ids {
			if _, err := c.s.Get(id); errors.Is(err, ErrClosed) {
				return err
			}
			after = id
		}
		more = len(ids) == listPage
	}
	c.s.condemn(seg, fmt.Errorf("%w: %s at offset %d", ErrDamaged, seg.name, offset))
	return nil
}

// report lists a segment that the disk does not give, once. Its index file stays: without it the
// next start would have to read what cannot be read.
func (c *scrub) report(seg *segment, cause error) {
	if c.unreadable[seg.sequence] {
		return
	}
	c.unreadable[seg.sequence] = true
	d := Damage{File: seg.name, Segment: seg.sequence, Reason: fmt.Sprintf("it cannot be read: %v", cause)}
	s := c.s
	s.mu.Lock()
	s.damage = append(s.damage, d)
	s.mu.Unlock()
	s.log.Error("spool is damaged", "damage", d)
}
