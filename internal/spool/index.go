package spool

import (
	"errors"
	"fmt"
	"io/fs"
	"sort"
)

// index is where messages are found: derived from the log, in a table for each
// segment. It is guarded by the spool's lock, its reading included: a table on
// disk is replaced under that lock.
type index struct {
	segments []*segment // in the order of the log
	removed  idSet      // whose data is still there
	damaged  map[ID]struct{}
	top      ID // the highest number in the log
	messages int
	bytes    int64
	large    int
}

// tableError is a table on disk that cannot be read. It can be made again.
type tableError struct {
	segment *segment
	err     error
}

func (e *tableError) Error() string { return fmt.Sprintf("index of %s: %v", e.segment.name, e.err) }
func (e *tableError) Unwrap() error { return e.err }

// blame wraps what a table returned where making it again can help.
func blame(seg *segment, err error) error {
	if errors.Is(err, errIndex) || errors.Is(err, fs.ErrNotExist) {
		return &tableError{seg, err}
	}
	return err
}

func newIndex() *index {
	return &index{removed: make(idSet), damaged: make(map[ID]struct{})}
}

// begin makes a segment the newest.
func (x *index) begin(seg *segment) {
	seg.top = x.top
	x.segments = append(x.segments, seg)
}

// newest returns the segment that the log ends with.
func (x *index) newest() *segment { return x.segments[len(x.segments)-1] }

// add takes a message of the newest segment whose number is higher than all before;
// any other it refuses. One that is gone leaves its number only.
func (x *index) add(seg *segment, m *message, change uint64, offset int64, gone bool) bool {
	if m.id <= x.top {
		return false
	}
	x.top, seg.top = m.id, m.id
	t := seg.table.(*memory)
	if gone {
		t.missing = append(t.missing, m.id)
		return true
	}
	t.add(m, change, offset)
	x.messages++
	x.bytes += m.size
	if m.large {
		x.large++
	}
	return true
}

// adopt takes over a segment with its table on disk, as trust found it, and the highest
// number in it. The next one to give says too little of that: it passes over what was lost.
func (x *index) adopt(seg *segment, t *indexFile, highest ID) {
	seg.table = t
	x.top = max(x.top, highest)
	x.begin(seg)
	x.messages += int(t.sections[byNumber].count)
	x.bytes += t.bytes
	x.large += int(t.sections[fileRows].count)
}

// remove takes a message away that is there, once.
func (x *index) remove(r removedRow) {
	if x.removed.has(r.id) {
		return
	}
	x.removed.add(r.id)
	delete(x.damaged, r.id)
	x.messages--
	x.bytes -= r.size
	if r.large {
		x.large--
		return
	}
	x.at(r.id).dead += r.size
}

// at returns the segment that has a number, or the newest for one that is too high.
func (x *index) at(id ID) *segment { return x.segments[min(x.place(id), len(x.segments)-1)] }

// place returns the place of the segment that has a number, if any has.
func (x *index) place(id ID) int {
	return sort.Search(len(x.segments), func(i int) bool { return x.segments[i].top >= id })
}

// get finds a message by its number.
func (x *index) get(id ID) (*segment, row, bool, error) { return x.near(id, new(numbers)) }

// near is get for who looks up one message after another, and keeps in last what was read of an index file.
func (x *index) near(id ID, last *numbers) (seg *segment, r row, ok bool, err error) {
	i := x.place(id)
	if i == len(x.segments) || x.removed.has(id) {
		return nil, row{}, false, nil
	}
	seg = x.segments[i]
	if t, file := seg.table.(*indexFile); file {
		r, ok, err = t.near(id, last)
	} else {
		r, ok, err = seg.table.get(id)
	}
	return seg, r, ok, blame(seg, err)
}

// find finds a message by mailbox and core digest. A damaged one does not count:
// its sender may bring it again. Nor does one that was removed.
func (x *index) find(e *Entry) (ID, bool, error) {
	k := contentKeyOf(e)
	for i := len(x.segments) - 1; i >= 0; i-- {
		seg := x.segments[i]
		id, err := seg.table.find(k)
		if err != nil {
			return 0, false, blame(seg, err)
		}
		if id != 0 {
			// An earlier one was removed or damaged, or this would not be there.
			_, bad := x.damaged[id]
			return id, !bad && !x.removed.has(id), nil
		}
	}
	return 0, false, nil
}

// page returns up to n messages with numbers above after and up to last, ascending:
// those of a mailbox, or of all where it is nil. None means that there are no more.
func (x *index) page(m *MailboxID, after, last ID, n int) (page []ID, err error) {
	for i := x.place(after + 1); i < len(x.segments) && len(page) < n; {
		seg := x.segments[i]
		var ids []ID
		if m == nil {
			ids, err = seg.table.ids(after, n)
		} else {
			ids, err = seg.table.box(*m, after, n)
		}
		if err != nil {
			return nil, blame(seg, err)
		}
		for _, id := range ids {
			if id > last || len(page) == n {
				return page, nil
			}
			if id <= after {
				return nil, &tableError{seg, errIndex} // whoever goes on after it would turn in a circle
			}
			if after = id; !x.removed.has(id) {
				page = append(page, id)
			}
		}
		if len(ids) < n {
			i++
		}
	}
	return page, nil
}

// pageDown returns up to n messages of a mailbox with numbers below before, descending. None
// means that there are no more.
func (x *index) pageDown(m MailboxID, before ID, n int) (page []ID, err error) {
	if before == 0 || len(x.segments) == 0 {
		return nil, nil
	}
	for i := min(x.place(before-1), len(x.segments)-1); i >= 0 && len(page) < n; {
		seg := x.segments[i]
		ids, err := seg.table.boxDown(m, before, n)
		if err != nil {
			return nil, blame(seg, err)
		}
		for _, id := range ids {
			if len(page) == n {
				return page, nil
			}
			if id >= before {
				return nil, &tableError{seg, errIndex}
			}
			if before = id; !x.removed.has(id) {
				page = append(page, id)
			}
		}
		if len(ids) < n {
			i--
		}
	}
	return page, nil
}
