package spool

import (
	"context"
	"errors"
	"fmt"
	"io"

	"cmtpd/internal/durable"
)

// markAtOnce is how many marks MarkAll has under way.
const markAtOnce = 1024

// ErrChanged: a message's change number is not the one that was expected.
var ErrChanged = errors.New("spool: the message has changed meanwhile")

// Mark is what a mailbox's owner notes of a message: both parts are replaced together.
type Mark struct {
	Flags    Flags
	Keywords []byte // that only the owner can read; at most 128 bytes
}

// Marking asks for a mark.
type Marking struct {
	ID   ID
	Mark Mark
	// Expect, unless 0, is the change number that the message has to have: that of the
	// Info or Change that the new mark was made from.
	Expect uint64
}

// Marked is the answer to a Marking.
type Marked struct {
	Change  uint64 // the message's change number now; 0 with another error than ErrChanged
	Changed bool   // false: it was so already, and nothing was written
	Err     error
}

// Mark sets a message's flags and keywords, whatever they were. When it returns without an error
// they are durable. ErrNotFound, ErrEntry for more than 128 bytes of keywords, ErrDamaged where
// it cannot be read whose the message is, and as Writer.Commit.
func (s *Spool) Mark(ctx context.Context, id ID, m Mark) (Marked, error) {
	a, err := s.MarkAll(ctx, []Marking{{ID: id, Mark: m}})
	return a[0], err
}

// MarkIf is Mark for who has seen the message's change number. If it is another by now,
// nothing is done: the error is ErrChanged, and Marked.Change the number. So two who
// mark the same message do not lose each other's marks.
func (s *Spool) MarkIf(ctx context.Context, id ID, expect uint64, m Mark) (Marked, error) {
	if expect == 0 {
		return Marked{Err: ErrChanged}, ErrChanged // no message has it
	}
	a, err := s.MarkAll(ctx, []Marking{{id, m, expect}})
	return a[0], err
}

// MarkAll is Mark or MarkIf for many, which share their flushes. Each answer stands in
// the place of its question; the error is the first of theirs.
func (s *Spool) MarkAll(ctx context.Context, all []Marking) (answers []Marked, err error) {
	answers = make([]Marked, len(all))
	for at := 0; at < len(all); at += markAtOnce {
		n := min(len(all)-at, markAtOnce)
		s.markSome(ctx, all[at:at+n], answers[at:at+n])
	}
	for i := range answers {
		if err = answers[i].Err; err != nil {
			break
		}
	}
	return answers, err
}

// markSome sets marks that one or a few batches hold.
func (s *Spool) markSome(ctx context.Context, all []Marking, answers []Marked) {
	waiting := make([]*request, len(all))
	for i := range all {
		r, err := s.prepareMark(ctx, &all[i])
		if err == nil {
			err = s.queue.put(r)
		}
		if answers[i].Err = err; err == nil {
			waiting[i] = r
		}
	}
	for i, r := range waiting {
		if r == nil {
			continue
		}
		if _, err := s.await(ctx, r); err != nil {
			answers[i].Err = err
			continue
		}
		answers[i] = r.marking.answer
	}
}

// marking is a mark on its way to a batch.
type marking struct {
	mark   mark
	expect uint64
	before marked // as it was when the mark was prepared
	place  *segment
	answer Marked // by the committer
}

// marked is a message's state and its change number.
type marked struct {
	change   uint64
	flags    Flags
	keywords string
	damaged  bool // keywords cannot be read
}

// prepareMark makes the request; what can be read beforehand does not hold up the committer.
func (s *Spool) prepareMark(ctx context.Context, m *Marking) (*request, error) {
	if len(m.Mark.Keywords) > maxKeywords {
		return nil, ErrEntry
	}
	if s.readOnly {
		return nil, ErrReadOnly
	}
	if err := errors.Join(ctx.Err(), s.failed()); err != nil {
		return nil, err
	}
	p, err := s.locate(m.ID, nil)
	if err != nil {
		return nil, err
	}
	defer p.file.Close()
	head, _, err := p.readHead()
	if err != nil {
		return nil, s.quarantine(&p, err)
	}
	before, err := s.markedAs(&p)
	if err != nil && !before.damaged {
		return nil, err
	}
	return &request{answer: make(chan answer, 1), marking: &marking{
		mark:   mark{m.ID, head.entry.Mailbox, s.options.Now(), m.Mark.Flags, string(m.Mark.Keywords)},
		expect: m.Expect, before: before, place: p.segment,
	}}, nil
}

// fillMark puts a mark into a batch, unless it is set already, or not wanted any more. Also
// what it finds of another mark in the same batch is true only once that is durable.
func (s *Spool) fillMark(b *batch, generation uint64, r *request) {
	m := r.marking
	now, err := s.markedNow(b, m)
	if err != nil {
		r.answer <- answer{err: err}
		return
	}
	m.answer.Change = now.change
	switch {
	case m.expect != 0 && m.expect != now.change:
		m.answer.Err = fmt.Errorf("%w: message %s has change number %d, not %d", ErrChanged, m.mark.id, now.change, m.expect)
	case now.damaged || m.mark.flags != now.flags || m.mark.keywords != now.keywords:
		b.head = m.mark.append(b.head[:0])
		b.add(generation, record{kind: kindMark, mark: &m.mark}, b.head, nil)
		m.answer.Change, m.answer.Changed = b.records[len(b.records)-1].change(s.chain.head.Number+1), true
		b.marked[m.mark.id] = marked{change: m.answer.Change, flags: m.mark.flags, keywords: m.mark.keywords}
	}
	b.waiting = append(b.waiting, waiting{request: r})
}

// markedNow returns a message's state after all that is before in the batch: ErrNotFound. The
// log is read only where another mark came since this one was prepared.
func (s *Spool) markedNow(b *batch, m *marking) (now marked, err error) {
	id := m.mark.id
	if b.removed[id] {
		return now, fmt.Errorf("%w: %s", ErrNotFound, id)
	}
	if now, ok := b.marked[id]; ok {
		return now, nil
	}
	same := false
	err = s.view(func(x *index) error {
		if there := !x.removed.has(id) && x.at(id) == m.place; !there {
			if _, _, ok, err := x.get(id); err != nil {
				return err
			} else if !ok {
				return fmt.Errorf("%w: %s", ErrNotFound, id)
			}
		}
		r, err := x.mark(id)
		same = r.change == 0 || r.change == m.before.change
		return err
	})
	if err != nil || same {
		return m.before, err
	}
	p, err := s.locate(id, nil)
	if err != nil {
		return now, err
	}
	defer p.file.Close()
	if now, err = s.markedAs(&p); now.damaged {
		err = nil
	}
	return now, err
}

// mark finds the newest mark of a message that is there.
func (x *index) mark(id ID) (r markRow, err error) {
	key := numberKey(id)
	for i := len(x.segments) - 1; i >= x.place(id); i-- {
		seg := x.segments[i]
		if r, err = seg.table.marked(id, key); err != nil || r.change != 0 {
			r.segment = seg
			return r, blame(seg, err)
		}
	}
	return r, nil
}

// markedAs returns the state of a message that was located. Keywords are read from the log:
// where that is damaged they are left out, and the error is ErrDamaged.
func (s *Spool) markedAs(p *place) (marked, error) {
	if p.mark.change == 0 {
		return marked{change: p.change}, nil
	}
	var keywords string
	var err error
	if p.mark.keywords {
		var m mark
		m, err = s.readMark(p)
		keywords = m.keywords
	}
	return marked{p.mark.change, p.mark.flags, keywords, errors.Is(err, ErrDamaged)}, err
}

// readMark reads the record of a message's newest mark.
func (s *Spool) readMark(p *place) (m mark, err error) {
	f, err := s.openMark(p)
	if err != nil {
		return m, err
	}
	defer f.Close()
	var b [frameSize + markHead + maxKeywords]byte
	n, err := f.ReadAt(b[:], p.mark.offset)
	if err != nil && err != io.EOF {
		return m, err
	}
	fr, _, err := parseFrame(b[:n], p.mark.segment.generation)
	if err == nil && fr.kind != kindMark {
		err = errFrame
	}
	if err == nil {
		m, err = parseMark(fr.head)
	}
	if err == nil && (m.id != p.id || m.flags != p.mark.flags) {
		err = errHead
	}
	if err != nil {
		err = fmt.Errorf("%w: the mark of message %s in %s at offset %d: %w", ErrDamaged, p.id, p.mark.segment.name, p.mark.offset, err)
		s.condemn(p.mark.segment, err)
	}
	return m, err
}

// openMark opens the segment of a message's newest mark. Compaction may have taken it away since
// the message was located: then the mark is found again, or a newer one.
func (s *Spool) openMark(p *place) (f durable.File, err error) {
	err = s.view(func(x *index) (err error) {
		if s.closed {
			return ErrClosed
		}
		if p.mark, err = x.mark(p.id); err != nil {
			return err
		}
		if p.mark.change == 0 {
			return fmt.Errorf("%w: %s", ErrNotFound, p.id)
		}
		f, err = s.openSegment(p.mark.segment)
		return err
	})
	return f, err
}
