package spool

import (
	"errors"
	"fmt"
)

// known answers for a message that its mailbox has already. What an index file says is held against
// the record, for on this word alone a message is acknowledged and not stored.
func (s *Spool) known(e *Entry) (stored Stored, ok bool, err error) {
	stored.Duplicate = true
	find := func() error {
		return s.view(func(x *index) (err error) {
			stored.Head = s.chain.head
			stored.ID, ok, err = x.find(e)
			return err
		})
	}
	if err = find(); err == nil && ok {
		var bad *tableError
		if bad, err = s.confirm(stored.ID, e); errors.Is(err, ErrDamaged) || errors.Is(err, ErrNotFound) {
			return Stored{}, false, nil // its sender brings it again
		}
		if bad != nil {
			if err = s.heal(bad); err == nil {
				err = find()
			}
		}
	}
	if err != nil {
		return Stored{}, false, fmt.Errorf("spool: %w", err)
	}
	return stored, ok, nil
}

// confirm says which table is bad, if an index file made another message of one. A table in memory is from
// the log itself.
func (s *Spool) confirm(id ID, e *Entry) (bad *tableError, err error) {
	var p place
	err = s.view(func(x *index) error {
		seg, r, ok, err := x.get(id)
		if err != nil {
			return err
		}
		if !ok {
			return fmt.Errorf("%w: %s", ErrNotFound, id)
		}
		if _, file := seg.table.(*indexFile); file {
			p = place{row: r, segment: seg}
			p.file, err = s.fs.Open(seg.path)
		}
		return err
	})
	if err != nil || p.file == nil {
		return nil, err
	}
	defer p.file.Close()
	m, _, err := p.readHead()
	if err != nil {
		return nil, s.quarantine(&p, err)
	}
	if m.entry.Mailbox != e.Mailbox || m.entry.Digest != e.Digest {
		bad = &tableError{p.segment, errIndex}
	}
	return bad, nil
}
