package spool

import "sort"

// table finds the messages of one segment. Those that were removed are in it as
// long as their data is; the index leaves them out.
type table interface {
	// get finds a message by its number.
	get(ID) (row, bool, error)
	// find returns the newest message with a content key, 0 for none.
	find(contentKey) (ID, error)
	// box returns up to n messages of a mailbox with numbers above after, ascending.
	box(m MailboxID, after ID, n int) ([]ID, error)
	// boxDown returns up to n messages of a mailbox with numbers below before, descending.
	boxDown(m MailboxID, before ID, n int) ([]ID, error)
	// sizes tells the length of each message of a mailbox, in bytes.
	sizes(m MailboxID, tell func(ID, int64)) error
	// ids is box for all mailboxes.
	ids(after ID, n int) ([]ID, error)
	// removals, gone and files return what else the segment's records say.
	removals() ([]removedRow, error)
	gone() ([]ID, error)
	files() ([]fileRow, error)
	marks
}

// row is where a message is.
type row struct {
	id     ID
	change uint64 // number of its arrival
	offset int64  // of the record in its segment
	size   int64  // of the message
	large  bool
}

// removedRow is what a removal takes away.
type removedRow struct {
	id    ID
	size  int64
	large bool
}

// fileRow says whose a large file is.
type fileRow struct {
	name [16]byte
	id   ID
}

// contentKey stands for a mailbox and a core digest. Whoever finds two digests
// that agree in half of SHA-256 keeps only their own message from being stored.
type contentKey [16]byte

func contentKeyOf(e *Entry) (k contentKey) {
	for i := range k {
		k[i] = e.Digest[i] ^ e.Mailbox[i]
	}
	return k
}

// memory is the table of a segment that has no index file: the newest, one with
// damage, and any before its file is written. It takes about 80 bytes a message or mark. Only
// the one of the newest segment changes.
type memory struct {
	entries  []memoryEntry // by ascending number
	boxes    map[MailboxID]*memoryBox
	known    map[contentKey]uint32 // place of the newest in entries
	removed  []removedRow
	missing  []ID // gone
	fileRows []fileRow
	changes  memoryChanges
}

const largeBit = 1 << 63 // of a size

type memoryEntry struct {
	id     ID
	change uint64
	size   uint64 // with largeBit
	offset uint32
}

type memoryBox struct{ places []uint32 }

func newMemory() *memory { return newMemoryLike(0, 0) }

// newMemoryLike makes a table with room for as many messages and mailboxes.
func newMemoryLike(messages, boxes int) *memory {
	return &memory{entries: make([]memoryEntry, 0, messages), boxes: make(map[MailboxID]*memoryBox, boxes),
		known: make(map[contentKey]uint32, messages)}
}

// add takes a message with a number higher than all before.
func (t *memory) add(m *message, change uint64, offset int64) {
	place := uint32(len(t.entries))
	t.entries = append(t.entries, memoryEntry{m.id, change, packSize(m.size, m.large), uint32(offset)})
	box := t.boxes[m.entry.Mailbox]
	if box == nil {
		box = new(memoryBox)
		t.boxes[m.entry.Mailbox] = box
	}
	box.places = append(box.places, place)
	t.known[contentKeyOf(&m.entry)] = place
	if m.large {
		t.fileRows = append(t.fileRows, fileRow{m.file, m.id})
	}
}

func packSize(size int64, large bool) uint64 {
	if large {
		return uint64(size) | largeBit
	}
	return uint64(size)
}

func unpackSize(v uint64) (size int64, large bool) { return int64(v &^ largeBit), v&largeBit != 0 }

// from returns the place of the first entry with a number above after.
func (t *memory) from(after ID) int {
	return sort.Search(len(t.entries), func(i int) bool { return t.entries[i].id > after })
}

func (t *memory) get(id ID) (row, bool, error) {
	i := sort.Search(len(t.entries), func(i int) bool { return t.entries[i].id >= id })
	if i == len(t.entries) || t.entries[i].id != id {
		return row{}, false, nil
	}
	e := &t.entries[i]
	r := row{id: id, change: e.change, offset: int64(e.offset)}
	r.size, r.large = unpackSize(e.size)
	return r, true, nil
}

func (t *memory) find(k contentKey) (ID, error) {
	if i, ok := t.known[k]; ok {
		return t.entries[i].id, nil
	}
	return 0, nil
}

func (t *memory) box(m MailboxID, after ID, n int) (ids []ID, err error) {
	box := t.boxes[m]
	if box == nil {
		return nil, nil
	}
	i := sort.Search(len(box.places), func(i int) bool { return t.entries[box.places[i]].id > after })
	for _, place := range box.places[i:min(i+n, len(box.places))] {
		ids = append(ids, t.entries[place].id)
	}
	return ids, nil
}

func (t *memory) boxDown(m MailboxID, before ID, n int) (ids []ID, err error) {
	box := t.boxes[m]
	if box == nil {
		return nil, nil
	}
	i := sort.Search(len(box.places), func(i int) bool { return t.entries[box.places[i]].id >= before })
	for ; i > 0 && len(ids) < n; i-- {
		ids = append(ids, t.entries[box.places[i-1]].id)
	}
	return ids, nil
}

func (t *memory) sizes(m MailboxID, tell func(ID, int64)) error {
	if box := t.boxes[m]; box != nil {
		for _, place := range box.places {
			size, _ := unpackSize(t.entries[place].size)
			tell(t.entries[place].id, size)
		}
	}
	return nil
}

func (t *memory) ids(after ID, n int) (ids []ID, err error) {
	i := t.from(after)
	for _, e := range t.entries[i:min(i+n, len(t.entries))] {
		ids = append(ids, e.id)
	}
	return ids, nil
}

func (t *memory) removals() ([]removedRow, error) { return t.removed, nil }
func (t *memory) gone() ([]ID, error)             { return t.missing, nil }
func (t *memory) files() ([]fileRow, error)       { return t.fileRows, nil }
