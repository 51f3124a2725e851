package spool

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"

	"cmtpd/internal/durable"
)

// A Plan is what Repair has found, and what its repair costs.
type Plan struct {
	Damage []Damage
	Lost   []ID // messages that are there in name only, and will count as removed
}

// A Mending is what Repair has done.
type Mending struct {
	Quarantine string   // the directory with all that was replaced, relative to the spool; "" for none
	Rewritten  []string // segments
	Removed    []ID     // messages whose data is damaged or gone
	Vouched    int      // places that cannot be mended, and that a signature now vouches for
	Report     Report   // of the whole spool, afterwards
}

// Repair makes a damaged spool whole again, as far as it can be: docs/spool.md, Repair. What is
// whole stays as it is; what is replaced is kept in quarantine. agree is told what was found,
// before anything is changed; where it returns an error nothing is. Without damage it is not
// called, and there is nothing to do. by is who repairs.
//
// Each step can be cut short, and the next Repair goes on from there. Errors: durable.ErrLocked,
// ErrIdentity, ErrLost, agree's, and the disk's.
func Repair(ctx context.Context, dir string, o Options, by string, agree func(Plan) error) (Mending, error) {
	if err := o.complete(); err != nil {
		return Mending{}, err
	}
	if len(by) > maxFrom {
		return Mending{}, ErrEntry
	}
	o.NoSpare = true
	s := &Spool{fs: o.FS, dir: dir, log: o.Log, options: o}
	s.queue.init()
	s.keeper.init()
	s.spare.init()
	m, err := s.repair(ctx, by, agree)
	if err = errors.Join(err, s.release()); err != nil {
		err = fmt.Errorf("repair spool %s: %w", dir, err)
	}
	return m, err
}

func (s *Spool) repair(ctx context.Context, by string, agree func(Plan) error) (m Mending, err error) {
	if _, err := s.fs.ReadDir(s.path("log")); err != nil {
		return m, err
	}
	if err := s.claim(); err != nil {
		return m, err
	}
	w, err := s.survey(ctx)
	if err != nil || len(w.damage) == 0 {
		return m, err
	}
	if err := agree(newPlan(w)); err != nil {
		return m, err
	}
	keep := &quarantine{s: s, made: make(map[string]bool)}
	keep.name = filepath.Join("quarantine", s.options.Now().UTC().Format("20060102T150405Z")+"-"+durable.RandomName()[:8])
	if err := keep.replaced(w); err != nil {
		return m, err
	}
	if w, m.Rewritten, err = s.rewrite(ctx, w, keep); err != nil {
		return m, err
	}
	if err := keep.orphans(w); err != nil {
		return m, err
	}
	if err := s.removeAll("index", func(string) bool { return true }); err != nil {
		return m, err
	}
	if _, err = s.start(context.WithoutCancel(ctx)); err != nil { // what was replaced still has to be signed
		return m, err
	}
	if err := s.vouch(&m, by); err != nil {
		return m, err
	}
	if len(keep.made) > 0 {
		m.Quarantine = keep.name
	}
	m.Report, err = verify(ctx, s.fs, s.dir, s.options.Identity.Public(), nil, nil, nil)
	return m, errors.Join(err, m.Report.Err())
}

// survey reads the whole log and every message.
func (s *Spool) survey(ctx context.Context) (*walker, error) {
	w, err := walk(ctx, s.fs, s.dir, func(w *walker) { w.own, w.deep, w.alone = s.options.Key.Public(), true, true })
	switch {
	case err != nil:
		return nil, err
	case w.chain.head.Number == 0 && len(w.damage) > 0:
		return nil, fmt.Errorf("%w: %v; restore a backup, or move the spool and spool.key away to begin a new one", ErrLost, w.damage[0])
	}
	s.chain = w.chain
	_, err = s.predecessor()
	return w, err
}

func newPlan(w *walker) Plan {
	p := Plan{Damage: w.damage}
	for _, d := range w.damage {
		if d.class == 0 {
			p.Lost = append(p.Lost, d.Messages...)
		}
	}
	slices.Sort(p.Lost)
	p.Lost = slices.Compact(p.Lost)
	return p
}

// replaced moves what does not belong where it is: strange files in the log, segments that a
// compaction has left behind, large files that are not what the log says. It copies the newest segment
// where its end is about to be cut off, for that may have been more than a torn tail.
func (q *quarantine) replaced(w *walker) error {
	names, err := w.fs.ReadDir(filepath.Join(w.dir, "log"))
	if err != nil {
		return err
	}
	var strange []string
	for _, name := range names {
		if _, err := parseSegmentName(name); err != nil {
			strange = append(strange, filepath.Join("log", name))
		}
	}
	for _, seg := range w.superseded {
		strange = append(strange, seg.name)
	}
	for _, d := range w.suspects {
		strange = append(strange, d.File)
	}
	slices.Sort(strange)
	for _, name := range strange {
		if err := q.move(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if w.torn > 0 {
		return q.copy(w.before().name)
	}
	return nil
}

// rewrite writes each segment again whose bytes are not as they should be.
func (s *Spool) rewrite(ctx context.Context, found *walker, keep *quarantine) (*walker, []string, error) {
	r := &rewriter{s: s, keep: keep}
	r.plan(found)
	w := newWalker(s.fs, s.dir)
	w.own, w.deep, w.alone, w.trusted = found.own, true, true, found.trusted
	w.began, w.applied = r.began, r.applied
	err := w.walk(ctx)
	r.err = errors.Join(r.err, err)
	r.end()
	return w, r.wrote, r.err
}

// orphans keeps large files that no message names: their records may be what was lost.
func (q *quarantine) orphans(w *walker) error {
	names, err := w.fs.ReadDir(filepath.Join(w.dir, "large"))
	if err != nil {
		return err
	}
	named := make(map[string]bool)
	for file, id := range w.large {
		if !w.chain.index.removed.has(id) {
			m := message{file: file}
			named[m.fileName()] = true
		}
	}
	for _, name := range names {
		if named[name] {
			continue
		}
		if err := q.move(filepath.Join("large", name)); err != nil {
			return err
		}
	}
	return nil
}

// vouch commits what is left to say: that messages without data are removed, and that what
// cannot be mended is known. The records have a segment of their own, since every start walks
// it.
func (s *Spool) vouch(m *Mending, by string) error {
	if len(s.damage) == 0 {
		return nil
	}
	if err := s.rollUsed(); err != nil {
		return err
	}
	b := &batch{}
	b.reset(s.chain.next)
	done := make(map[ID]bool)
	for _, d := range s.damage {
		if d.wound == ([32]byte{}) {
			if err := s.giveUp(b, d, done); err != nil {
				return err
			}
			continue
		}
		r := &repair{time: s.options.Now(), class: d.class, first: d.FirstCommit, last: d.LastCommit, wound: d.wound, key: d.key, by: by}
		b.add(s.newest().generation, record{kind: kindRepair, repair: r}, r.append(nil), nil)
		m.Vouched++
		if err := s.writeFull(b, maxRecords); err != nil {
			return err
		}
	}
	if err := s.writeFull(b, 1); err != nil {
		return err
	}
	m.Removed = slices.Sorted(maps.Keys(done))
	s.damage = nil
	return nil
}

// giveUp adds the removals of messages whose data is not there any more.
func (s *Spool) giveUp(b *batch, d Damage, done map[ID]bool) error {
	heads, err := s.heads(d)
	if err != nil {
		return err
	}
	for _, id := range d.Messages {
		h, ok := heads[id]
		if !ok {
			return fmt.Errorf("%w: %s: the record of message %s cannot be found", ErrDamaged, d.File, id)
		}
		if done[id] {
			continue
		}
		done[id] = true
		_, _, there, err := s.chain.index.get(id)
		if err != nil {
			return err
		}
		r := removal{removedRow: removedRow{id, h.size, h.large}, mailbox: h.entry.Mailbox, time: s.options.Now(), by: repairActor}
		b.add(s.newest().generation, record{kind: kindRemoval, removal: r, settled: !there}, r.append(nil), nil)
		if err := s.writeFull(b, maxRecords); err != nil {
			return err
		}
	}
	return nil
}

// heads reads what the log says of the messages that damage names.
func (s *Spool) heads(d Damage) (map[ID]message, error) {
	heads := make(map[ID]message, len(d.Messages))
	if len(d.Messages) == 0 {
		return heads, nil
	}
	for _, id := range d.Messages {
		heads[id] = message{}
	}
	seg := s.chain.index.at(d.Messages[0])
	f, err := s.fs.Open(seg.path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	sc := &scanner{file: f, size: seg.size, generation: seg.generation, offset: headerSize}
	for {
		r, err := sc.next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
		if r.skipped {
			continue
		}
		m := newRecord(&r).message
		if _, ok := heads[m.id]; ok {
			heads[m.id] = m
		}
	}
	maps.DeleteFunc(heads, func(_ ID, m message) bool { return m.id == 0 })
	return heads, nil
}

// writeFull commits a batch of at least n records.
func (s *Spool) writeFull(b *batch, n int) error {
	if len(b.records) < n {
		return nil
	}
	if err := s.write(b); err != nil {
		return err
	}
	b.reset(s.chain.next)
	return s.rollUsed()
}

// rollUsed begins a new segment, unless the newest is empty.
func (s *Spool) rollUsed() error {
	if s.newest().size == headerSize {
		return nil
	}
	return s.roll()
}
