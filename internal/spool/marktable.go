package spool

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"sort"

	"cmtpd/internal/durable"
)

// marks is the part of a table that tells the changes of messages in a segment: arrivals,
// marks and removals.
type marks interface {
	// marked finds the newest mark of a message among the segment's; key is the number's.
	marked(id ID, key contentKey) (markRow, error)
	// since returns up to n changes of a mailbox with numbers above after, ascending: the
	// arrivals, the removals, and of a message's marks the newest.
	since(m MailboxID, after uint64, n int) ([]changeRow, error)
	// lacks returns which messages are not in the mailboxes that wanted says, which is in
	// the order of the whole rows.
	lacks(wanted []boxRow) (missing []boxRow, err error)
}

// markRow is where a mark is.
type markRow struct {
	change   uint64 // 0 for no mark
	offset   int64  // of the record in its segment
	flags    Flags
	keywords bool // it has some, in the record
	segment  *segment
}

// changeRow is a change of a message in its mailbox.
type changeRow struct {
	change uint64
	id     ID
	kind   kind // kindMessage for an arrival, kindMark, or kindRemoval
}

// boxRow says that a message is in a mailbox.
type boxRow struct {
	mailbox MailboxID
	id      ID
}

func (r *boxRow) compare(o *boxRow) int {
	return cmp.Or(bytes.Compare(r.mailbox[:], o.mailbox[:]), cmp.Compare(r.id, o.id))
}

// changeNumber returns the number of a change (docs/spool.md, Change numbers).
func changeNumber(commit uint64, place uint16) uint64 { return commit<<16 | uint64(place) }

func (r *record) change(commit uint64) uint64 { return changeNumber(commit, r.place) }

// commit returns the number of the one that vouches for a message.
func (r *row) commit() uint64 { return r.change >> 16 }

// numberKey is what the filter of marked messages has of a number.
func numberKey(id ID) contentKey {
	sum := sha256.Sum256(binary.BigEndian.AppendUint64(make([]byte, 0, 8), uint64(id)))
	return contentKey(sum[:16])
}

func markKey(row []byte) contentKey { return numberKey(ID(binary.BigEndian.Uint64(row))) }

// memoryChanges are the marks and removals of a table in memory.
type memoryChanges struct {
	entries []memoryChange           // by ascending change number
	newest  map[ID]uint32            // place of a message's newest mark in entries
	boxes   map[MailboxID]*memoryBox // places in entries
}

type memoryChange struct {
	id     ID
	bits   uint64 // change number, with removalEntry or keywordsEntry
	offset uint32 // of a mark's record
	flags  Flags
}

// Change numbers leave these bits free.
const (
	removalEntry  = 1 << 63
	keywordsEntry = 1 << 62
)

func (e *memoryChange) change() uint64 { return e.bits &^ (removalEntry | keywordsEntry) }
func (e *memoryChange) removal() bool  { return e.bits&removalEntry != 0 }

func (e *memoryChange) kind() kind {
	if e.removal() {
		return kindRemoval
	}
	return kindMark
}

func (c *memoryChanges) add(m MailboxID, e memoryChange) {
	if c.boxes == nil {
		c.newest, c.boxes = make(map[ID]uint32), make(map[MailboxID]*memoryBox)
	}
	place := uint32(len(c.entries))
	c.entries = append(c.entries, e)
	box := c.boxes[m]
	if box == nil {
		box = new(memoryBox)
		c.boxes[m] = box
	}
	box.places = append(box.places, place)
	if !e.removal() {
		c.newest[e.id] = place
	}
}

// mark takes a mark with a change number higher than all before.
func (t *memory) mark(m *mark, change uint64, offset int64) {
	if m.keywords != "" {
		change |= keywordsEntry
	}
	t.changes.add(m.mailbox, memoryChange{m.id, change, uint32(offset), m.flags})
}

// remove takes a removal with a change number higher than all before.
func (t *memory) remove(r *removal, change uint64) {
	t.removed = append(t.removed, r.removedRow)
	t.changes.add(r.mailbox, memoryChange{id: r.id, bits: change | removalEntry})
}

// marks returns which messages are marked, and in which mailboxes; some more than once.
func (c *memoryChanges) marks() []boxRow {
	rows := make([]boxRow, 0, len(c.entries))
	for m, box := range c.boxes {
		for _, place := range box.places {
			if e := &c.entries[place]; !e.removal() {
				rows = append(rows, boxRow{m, e.id})
			}
		}
	}
	return rows
}

// forget takes marks back, and returns them.
func (c *memoryChanges) forget(wrong map[boxRow]bool) (forgotten []memoryChange) {
	was := *c
	*c = memoryChanges{}
	of := make([]MailboxID, len(was.entries))
	for m, box := range was.boxes {
		for _, place := range box.places {
			of[place] = m
		}
	}
	for place, e := range was.entries {
		if !e.removal() && wrong[boxRow{of[place], e.id}] {
			forgotten = append(forgotten, e)
			continue
		}
		c.add(of[place], e)
	}
	return forgotten
}

// current says whether no later mark of the segment replaces an entry.
func (c *memoryChanges) current(place uint32) bool {
	e := &c.entries[place]
	return e.removal() || c.newest[e.id] == place
}

func (t *memory) marked(id ID, _ contentKey) (markRow, error) {
	place, ok := t.changes.newest[id]
	if !ok {
		return markRow{}, nil
	}
	e := &t.changes.entries[place]
	return markRow{change: e.change(), offset: int64(e.offset), flags: e.flags, keywords: e.bits&keywordsEntry != 0}, nil
}

func (t *memory) since(m MailboxID, after uint64, n int) ([]changeRow, error) {
	var arrivals, changes []changeRow
	if box := t.boxes[m]; box != nil {
		i := sort.Search(len(box.places), func(i int) bool { return t.entries[box.places[i]].change > after })
		for _, place := range box.places[i:min(i+n, len(box.places))] {
			arrivals = append(arrivals, changeRow{t.entries[place].change, t.entries[place].id, kindMessage})
		}
	}
	c := &t.changes
	if box := c.boxes[m]; box != nil {
		i := sort.Search(len(box.places), func(i int) bool { return c.entries[box.places[i]].change() > after })
		for _, place := range box.places[i:] {
			if len(changes) == n {
				break
			}
			if e := &c.entries[place]; c.current(place) {
				changes = append(changes, changeRow{e.change(), e.id, e.kind()})
			}
		}
	}
	return firstChanges(arrivals, changes, n), nil
}

// firstChanges returns the first n of two lists, each of which is in order and has n or all.
func firstChanges(a, b []changeRow, n int) []changeRow {
	all := append(a, b...)
	slices.SortFunc(all, func(a, b changeRow) int { return cmp.Compare(a.change, b.change) })
	return all[:min(n, len(all))]
}

func (t *memory) lacks(wanted []boxRow) (missing []boxRow, err error) {
	for _, w := range wanted {
		if ids, _ := t.box(w.mailbox, w.id-1, 1); len(ids) == 0 || ids[0] != w.id {
			missing = append(missing, w)
		}
	}
	return missing, nil
}

// removalBit is in the number of a removal's row, keywordsBit in the offset of a mark that has some.
const (
	removalBit  = 1 << 63
	keywordsBit = 1 << 63
)

// appendMarks appends the rows of the table of marks.
func (c *memoryChanges) appendMarks(b []byte) []byte {
	be := binary.BigEndian
	ids := make([]ID, 0, len(c.newest))
	for id := range c.newest {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	for _, id := range ids {
		e := &c.entries[c.newest[id]]
		offset := uint64(e.offset)
		if e.bits&keywordsEntry != 0 {
			offset |= keywordsBit
		}
		b = be.AppendUint64(b, uint64(id))
		b = be.AppendUint64(b, e.change())
		b = be.AppendUint64(b, offset)
		b = be.AppendUint32(b, uint32(e.flags))
	}
	return b
}

// appendChanges appends the rows of the table of changes.
func (c *memoryChanges) appendChanges(b []byte) []byte {
	be := binary.BigEndian
	for _, m := range sorted(c.boxes) {
		for _, place := range c.boxes[m].places {
			e := &c.entries[place]
			if !c.current(place) {
				continue
			}
			id := uint64(e.id)
			if e.removal() {
				id |= removalBit
			}
			b = be.AppendUint64(append(b, m[:]...), e.change())
			b = be.AppendUint64(b, id)
		}
	}
	return b
}

// cursor looks rows up in a table that is open, and keeps the block where it last was.
type cursor struct {
	*section
	file  durable.File
	at    int // of rows; -1 for none
	block []byte
}

// open makes a table ready for many look-ups. The caller closes the cursor's file.
func (x *indexFile) open(table int) (*cursor, error) {
	f, err := x.fs.Open(x.path)
	if err != nil {
		return nil, err
	}
	return &cursor{section: &x.sections[table], file: f, at: -1}, nil
}

// row returns the row that begins with key, nil for none. It is valid until the next call.
func (c *cursor) row(key []byte) ([]byte, error) {
	i := sort.Search(int(blocks(c.count)), func(i int) bool { return bytes.Compare(c.first[i*c.key:(i+1)*c.key], key) > 0 }) - 1
	if i < 0 {
		return nil, nil
	}
	if err := c.load(i); err != nil {
		return nil, err
	}
	n := len(c.block) / c.width
	at := sort.Search(n, func(r int) bool { return bytes.Compare(c.block[r*c.width:(r+1)*c.width], key) >= 0 })
	if at == n || !bytes.HasPrefix(c.block[at*c.width:], key) {
		return nil, nil
	}
	return c.block[at*c.width : (at+1)*c.width], nil
}

func (c *cursor) load(i int) (err error) {
	if i != c.at {
		c.at = -1
		if c.block, err = c.section.block(c.file, int64(i)); err == nil {
			c.at = i
		}
	}
	return err
}

func (x *indexFile) marked(id ID, key contentKey) (r markRow, err error) {
	if !passes(x.markFilter, key) {
		return r, nil
	}
	be := binary.BigEndian
	err = x.each(markRows, be.AppendUint64(nil, uint64(id)), func(b []byte) bool {
		if ID(be.Uint64(b)) == id {
			offset := be.Uint64(b[16:])
			r = markRow{change: be.Uint64(b[8:]), offset: int64(offset &^ keywordsBit), keywords: offset&keywordsBit != 0,
				flags: Flags(be.Uint32(b[24:]))}
		}
		return false
	})
	if err == nil && r.change != 0 && (!x.within(r.change) || r.offset < headerSize || r.offset >= x.end) {
		err = errIndex
	}
	return r, err
}

// within says whether a change can be the segment's.
func (x *indexFile) within(change uint64) bool {
	commit := change >> 16
	return commit > x.before && commit <= x.after.head.Number
}

func (x *indexFile) since(m MailboxID, after uint64, n int) ([]changeRow, error) {
	c, err := x.open(byNumber)
	if err != nil {
		return nil, err
	}
	defer c.file.Close()
	arrivals, err := x.arrivals(c, m, after, n)
	if err != nil {
		return nil, err
	}
	var changes []changeRow
	be := binary.BigEndian
	s := &x.sections[changeRows]
	err = s.each(c.file, be.AppendUint64(m[:], after+1), func(b []byte) bool {
		if MailboxID(b) != m {
			return false
		}
		r := changeRow{be.Uint64(b[16:]), ID(be.Uint64(b[24:]) &^ removalBit), kindMark}
		if be.Uint64(b[24:])&removalBit != 0 {
			r.kind = kindRemoval
		}
		changes = append(changes, r)
		return len(changes) < n
	})
	if err != nil {
		return nil, err
	}
	rows := firstChanges(arrivals, changes, n)
	for _, r := range rows {
		if r.change <= after || !x.within(r.change) {
			return nil, errIndex
		}
		after = r.change
	}
	return rows, nil
}

// arrivals is since for arrivals alone; c looks up messages by number.
func (x *indexFile) arrivals(c *cursor, m MailboxID, after uint64, n int) (rows []changeRow, err error) {
	first := ID(0)
	if after>>16 > x.before {
		if first, err = c.firstAfter(after); err != nil || first == 0 {
			return nil, err
		}
	}
	be := binary.BigEndian
	err = x.sections[byMailbox].each(c.file, be.AppendUint64(m[:], uint64(first)), func(b []byte) bool {
		if MailboxID(b) == m {
			rows = append(rows, changeRow{id: ID(be.Uint64(b[16:])), kind: kindMessage})
			return len(rows) < n
		}
		return false
	})
	for i := range rows {
		b, rowErr := c.row(be.AppendUint64(nil, uint64(rows[i].id)))
		if rowErr == nil && b == nil {
			rowErr = errIndex
		}
		if err = cmp.Or(err, rowErr); err != nil {
			return nil, err
		}
		rows[i].change = be.Uint64(b[8:])
	}
	return rows, err
}

// firstAfter returns the number of the first message that arrived after a change, 0 for none.
// Numbers and change numbers grow together.
func (c *cursor) firstAfter(after uint64) (id ID, err error) {
	change := func(i, row int) uint64 {
		if err == nil {
			err = c.load(i)
		}
		if err != nil {
			return 0
		}
		id = ID(binary.BigEndian.Uint64(c.block[row*c.width:]))
		return binary.BigEndian.Uint64(c.block[row*c.width+8:])
	}
	n := int(blocks(c.count))
	i := sort.Search(n, func(i int) bool { return change(i, 0) > after })
	if i > 0 {
		rows := int(min(c.count-int64(i-1)*blockRows, blockRows))
		row := sort.Search(rows, func(row int) bool { return change(i-1, row) > after })
		if row < rows {
			change(i-1, row)
			return id, err
		}
	}
	if i == n {
		return 0, err
	}
	change(i, 0)
	return id, err
}

func (x *indexFile) lacks(wanted []boxRow) (missing []boxRow, err error) {
	c, err := x.open(byMailbox)
	if err != nil {
		return nil, err
	}
	defer c.file.Close()
	for _, w := range wanted {
		b, err := c.row(binary.BigEndian.AppendUint64(w.mailbox[:], uint64(w.id)))
		if err != nil {
			return nil, err
		}
		if b == nil {
			missing = append(missing, w)
		}
	}
	return missing, nil
}
