package spool

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
)

// removeAtOnce is how many removals RemoveAll has under way.
const removeAtOnce = 1024

// Remove takes a message away for good. When it returns without an error the removal is
// durable: the message is not found any more, and the chain says who removed it and
// when. Its bytes stay on disk until its segment is compacted. Whoever has it open can read
// to its end. ErrNotFound, ErrEntry for a by of more than 255 bytes, and as Writer.Commit.
func (s *Spool) Remove(ctx context.Context, id ID, by string) error {
	n, err := s.RemoveAll(ctx, []ID{id}, by)
	if err == nil && n == 0 {
		err = fmt.Errorf("%w: %s", ErrNotFound, id)
	}
	return err
}

// RemoveAll is Remove for many, which share their flushes. Messages that are not there are passed
// over. It returns how many were removed, also with an error; which, is known from the spool.
func (s *Spool) RemoveAll(ctx context.Context, ids []ID, by string) (removed int, err error) {
	if len(by) > maxFrom {
		return 0, ErrEntry
	}
	if s.readOnly {
		return 0, ErrReadOnly
	}
	for len(ids) > 0 && err == nil {
		n := min(len(ids), removeAtOnce)
		var some int
		some, err = s.removeSome(ctx, ids[:n], by)
		removed += some
		ids = ids[n:]
	}
	if removed > 0 {
		s.keeper.signal()
	}
	return removed, err
}

// removeSome removes what one or a few batches hold.
//
//	unlink  large/<name>   after the flush
func (s *Spool) removeSome(ctx context.Context, ids []ID, by string) (removed int, err error) {
	if err := errors.Join(ctx.Err(), s.failed()); err != nil {
		return 0, err
	}
	var waiting []*request
	for _, id := range ids {
		r, prepareErr := s.prepareRemoval(id, by)
		if errors.Is(prepareErr, ErrNotFound) {
			continue
		}
		if prepareErr == nil {
			prepareErr = s.queue.put(r)
		}
		if prepareErr != nil {
			err = prepareErr
			break
		}
		waiting = append(waiting, r)
	}
	for _, r := range waiting {
		_, answerErr := s.await(ctx, r)
		switch {
		case answerErr == nil:
			removed++
			s.unlinkLarge(&r.message)
		case !errors.Is(answerErr, ErrNotFound) && err == nil:
			err = answerErr
		}
	}
	return removed, err
}

// prepareRemoval makes the request; message is filled in as far as it is known.
func (s *Spool) prepareRemoval(id ID, by string) (*request, error) {
	p, err := s.locate(id, nil)
	if err != nil {
		return nil, err
	}
	defer p.file.Close()
	m, _, err := p.readHead()
	if err != nil && !errors.Is(err, ErrDamaged) {
		return nil, err
	}
	r := &removal{removedRow: removedRow{p.id, p.size, p.large}, mailbox: m.entry.Mailbox, time: s.options.Now(), by: by}
	return &request{message: m, removal: r, answer: make(chan answer, 1)}, nil
}

// unlinkLarge removes a large file whose message was removed. If a crash comes first, the next
// start does it.
func (s *Spool) unlinkLarge(m *message) {
	if !m.large {
		return
	}
	if err := s.fs.Remove(s.path("large", m.fileName())); err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.log.Warn("the large file of a removed message is left until the next start", "error", err)
	}
}
