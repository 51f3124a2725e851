package spool

import (
	"errors"
	"iter"
)

// Change is the newest change of a message in its mailbox.
type Change struct {
	Number  uint64 // of the change; it only grows
	ID      ID
	Removed bool   // the message is not there any more; what follows is zero
	Arrived uint64 // number of the message's arrival: Number, unless it was marked
	Mark    Mark
}

// LastChange returns the highest change number that the chain up to h can hold. Who takes a
// Head and then asks for changes can go on from there, however old the last of them is.
func (h Head) LastChange() uint64 { return changeNumber(h.Number, maxRecords-1) }

// Changes yields what has changed in a mailbox after a change number, in the order of their
// numbers: the newest change of each message that arrived, was marked or was removed, up to
// the moment of the call. What is changed while it is listed may be left out; it has a
// higher number then. Whoever stops can go on after the last number they were given, and any
// change, also a removal, may be the first that they hear of a message. An after that is above
// Head().LastChange() is of a chain whose end was lost: nothing comes, and 0 is where to begin.
//
// A mark that is damaged comes with ErrDamaged and without its keywords, and the list goes on;
// any other error ends it. A removal of a message whose own record was damaged is in no mailbox.
func (s *Spool) Changes(mailbox MailboxID, after uint64) iter.Seq2[Change, error] {
	return func(yield func(Change, error) bool) {
		last := s.Head().LastChange()
		for after < last {
			var page []located
			var next uint64
			err := s.view(func(x *index) (err error) {
				if s.closed {
					return ErrClosed
				}
				page, next, err = x.changes(mailbox, after, last, listPage)
				return err
			})
			if err != nil {
				yield(Change{}, err)
				return
			}
			for i := range page {
				if !s.showChange(&page[i], yield) {
					return
				}
			}
			after = next
		}
	}
}

// located is a change, with the mark's place where the log has more of it.
type located struct {
	Change
	mark markRow
}

// showChange yields one change, with its keywords.
func (s *Spool) showChange(c *located, yield func(Change, error) bool) bool {
	if !c.mark.keywords {
		return yield(c.Change, nil)
	}
	p := place{row: row{id: c.ID}, mark: c.mark}
	m, err := s.readMark(&p)
	if errors.Is(err, ErrNotFound) || (err == nil && p.mark.change != c.Number) {
		return true // changed meanwhile
	}
	if err == nil {
		c.Mark.Keywords = []byte(m.keywords)
	}
	return yield(c.Change, err) && (err == nil || errors.Is(err, ErrDamaged))
}

// changes goes through up to n changes of a mailbox with numbers above after and up to last.
// It returns those that no newer one follows, and where to go on: at last, nothing is left.
func (x *index) changes(m MailboxID, after, last uint64, n int) (page []located, next uint64, err error) {
	for i := 0; i < len(x.segments); i++ {
		seg := x.segments[i]
		if i < len(x.segments)-1 && !seg.dirty && seg.after.head.LastChange() <= after {
			continue // where it is damaged, a commit may have counted only in the end
		}
		rows, err := seg.table.since(m, after, n)
		if err != nil {
			return nil, 0, blame(seg, err)
		}
		for _, r := range rows {
			if r.change > last {
				return page, last, nil
			}
			c, ok, err := x.current(r)
			if err != nil {
				return nil, 0, err
			}
			if after = r.change; ok {
				page = append(page, c)
			}
		}
		if n -= len(rows); n == 0 {
			return page, after, nil
		}
	}
	return page, last, nil
}

// current completes a change, if no newer one of the same message follows it.
func (x *index) current(r changeRow) (c located, ok bool, err error) {
	c.Number, c.ID = r.change, r.id
	if r.kind == kindRemoval {
		c.Removed = true
		return c, true, nil
	}
	if r.kind == kindMessage {
		c.Arrived = r.change
		if x.removed.has(r.id) {
			return c, false, nil
		}
		mark, err := x.mark(r.id)
		return c, mark.change == 0, err
	}
	if c.mark, err = x.mark(r.id); err != nil || c.mark.change != r.change {
		return c, false, err
	}
	_, message, ok, err := x.get(r.id)
	c.Arrived, c.Mark.Flags = message.change, c.mark.flags
	return c, ok, err
}
