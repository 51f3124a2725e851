package spool

import (
	"errors"
	"fmt"
	"io"
	"iter"
)

// List yields the messages of a mailbox with numbers above after, ascending, that were there
// when it was called and were not removed since. One that is damaged comes with ErrDamaged and
// whatever is known of it; the list goes on after it. Any other error ends the list.
func (s *Spool) List(mailbox MailboxID, after ID) iter.Seq2[Info, error] {
	return s.each(&listing{mailbox: &mailbox, from: after})
}

// ListDown is List for numbers below before, descending.
func (s *Spool) ListDown(mailbox MailboxID, before ID) iter.Seq2[Info, error] {
	return s.each(&listing{mailbox: &mailbox, from: before, down: true})
}

// All is List for all mailboxes together.
func (s *Spool) All(after ID) iter.Seq2[Info, error] { return s.each(&listing{from: after}) }

// ListStarts is List, or with down ListDown, with the first n bytes of each message in
// Info.Start: of none that is known to be damaged.
func (s *Spool) ListStarts(mailbox MailboxID, from ID, down bool, n int) iter.Seq2[Info, error] {
	return s.each(&listing{mailbox: &mailbox, from: from, down: down, start: n})
}

// GetStart is Get with the first n bytes of the message in Info.Start.
func (s *Spool) GetStart(id ID, n int) (info Info, err error) {
	var p place
	err = fmt.Errorf("%w: %s", ErrNotFound, id)
	s.show(id, &listing{start: n}, &p, func(i Info, e error) bool {
		info, err = i, e
		return false
	})
	if p.file != nil {
		p.file.Close()
	}
	return info, err
}

// listing says which messages are listed, and what of them.
type listing struct {
	mailbox *MailboxID // nil for all
	from    ID         // above which, or below which
	down    bool       // of one mailbox only
	start   int        // bytes
}

// listPage is how many messages a list finds at once.
const listPage = 256

// each reads the records of a list, and keeps a segment open while they lie in it.
func (s *Spool) each(l *listing) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		s.mu.RLock()
		last := s.chain.index.top
		s.mu.RUnlock()
		var p place
		defer func() {
			if p.file != nil {
				p.file.Close()
			}
		}()
		for at := l.from; l.down || at < last; {
			var page []ID
			err := s.view(func(x *index) (err error) {
				if l.down {
					page, err = x.pageDown(*l.mailbox, min(at, last+1), listPage)
				} else {
					page, err = x.page(l.mailbox, at, last, listPage)
				}
				return err
			})
			if err != nil {
				yield(Info{}, err)
				return
			}
			if len(page) == 0 {
				return
			}
			for _, id := range page {
				if !s.show(id, l, &p, yield) {
					return
				}
			}
			at = page[len(page)-1]
		}
	}
}

// show yields one message of a list; p is where the one before was. A message that its record puts into
// another mailbox is not shown: the index file was wrong, and is made again.
func (s *Spool) show(id ID, l *listing, p *place, yield func(Info, error) bool) bool {
	next, err := s.locate(id, p)
	if errors.Is(err, ErrNotFound) {
		return true
	}
	if err != nil {
		yield(Info{}, err)
		return false
	}
	*p = next
	m, data, err := p.readHead()
	if err != nil && !errors.Is(err, ErrDamaged) {
		yield(Info{}, err)
		return false
	}
	if err == nil && l.mailbox != nil && m.entry.Mailbox != *l.mailbox {
		if err = s.heal(&tableError{p.segment, errIndex}); err != nil {
			yield(Info{}, err)
		}
		return err == nil
	}
	known := err == nil
	if err == nil && s.isDamaged(id) {
		err = fmt.Errorf("%w: message %s", ErrDamaged, id)
	}
	var start []byte
	if err == nil && l.start > 0 {
		start, err = s.readStart(&m, p, data, l.start)
	}
	switch {
	case err != nil && !errors.Is(err, ErrDamaged):
		yield(Info{}, err)
		return false
	case err != nil:
		if err = s.quarantine(p, err); errors.Is(err, ErrNotFound) {
			return true
		}
	}
	if !known {
		m = message{}
	}
	info, markErr := s.info(&m, p)
	if errors.Is(markErr, ErrNotFound) {
		return true
	}
	info.Start = start
	if err == nil {
		err = markErr
	}
	return yield(info, err) && (err == nil || errors.Is(err, ErrDamaged))
}

// readStart reads up to n bytes from a message's beginning. They are not verified.
func (s *Spool) readStart(m *message, p *place, data int64, n int) ([]byte, error) {
	f := p.file
	if m.large {
		var err error
		if f, err = s.openLarge(m); err != nil {
			return nil, err
		}
		defer f.Close()
		data = 0
	}
	b := make([]byte, min(int64(n), m.size))
	if k, err := f.ReadAt(b, data); k < len(b) {
		if err == io.EOF {
			err = fmt.Errorf("%w: message %s: it ends after %d of %d bytes", ErrDamaged, m.id, k, m.size)
		}
		return nil, err
	}
	return b, nil
}

// Usage is how much a mailbox holds.
type Usage struct {
	Messages int
	Bytes    int64
	Commit   uint64 // that of the last commit that is counted
}

// Usage counts what is in a mailbox. It takes long where that is much: Options.Changed tells what
// comes and goes after it.
func (s *Spool) Usage(mailbox MailboxID) (u Usage, err error) {
	err = s.view(func(x *index) error {
		if s.closed {
			return ErrClosed
		}
		u = Usage{Commit: s.chain.head.Number}
		for _, seg := range x.segments {
			err := seg.table.sizes(mailbox, func(id ID, size int64) {
				if !x.removed.has(id) {
					u.Messages++
					u.Bytes += size
				}
			})
			if err != nil {
				return blame(seg, err)
			}
		}
		return nil
	})
	return u, err
}

// Has reports whether a mailbox has a message already, which is stored no second time.
func (s *Spool) Has(e *Entry) (bool, error) {
	_, ok, err := s.known(e)
	return ok, err
}

// A BoxChange is what a commit did to a mailbox.
type BoxChange struct {
	Mailbox  MailboxID // zero where the record of a message that was removed is damaged
	Messages int       // that came, less those that were removed
	Bytes    int64     // of them
}

// boxChanges returns what records did, each mailbox once, in the room of all.
func boxChanges(all []BoxChange, records []record) []BoxChange {
	places := make(map[MailboxID]int, min(len(records), 64))
	note := func(m MailboxID, messages int, bytes int64) {
		i, ok := places[m]
		if !ok {
			i = len(all)
			places[m], all = i, append(all, BoxChange{Mailbox: m})
		}
		all[i].Messages += messages
		all[i].Bytes += bytes
	}
	for i := range records {
		switch r := &records[i]; r.kind {
		case kindMessage, kindLarge:
			note(r.message.entry.Mailbox, 1, r.message.size)
		case kindRemoval:
			note(r.removal.mailbox, -1, -r.removal.size)
		case kindMark:
			note(r.mark.mailbox, 0, 0)
		}
	}
	return all
}
