package spool

import (
	"sort"
)

// index is where messages are found: derived from the log, in memory. It takes
// about 80 bytes for each. Entries are never changed or removed, so a slice of
// them that was taken under the spool's lock stays valid without it.
type index struct {
	entries []indexEntry            // by ascending ID
	boxes   map[MailboxID]*indexBox // what each mailbox holds
	known   map[[16]byte]uint32     // place in entries, by contentKey
	damaged map[ID]struct{}         // known and not served
	bytes   int64
	large   int
}

type indexEntry struct {
	id      ID
	commit  uint64 // number of the one that vouches for it
	offset  uint32 // of the record in its segment
	segment uint32 // place in Spool.segments
}

type indexBox struct{ places []uint32 }

// contentKey stands for a mailbox and a core digest. Whoever finds two digests
// that agree in half of SHA-256 keeps only their own message from being stored.
func contentKey(e *Entry) (k [16]byte) {
	for i := range k {
		k[i] = e.Digest[i] ^ e.Mailbox[i]
	}
	return k
}

func newIndex() *index {
	return &index{
		boxes:   make(map[MailboxID]*indexBox),
		known:   make(map[[16]byte]uint32),
		damaged: make(map[ID]struct{}),
	}
}

// add takes a message whose number is higher than all before; any other it
// refuses.
func (x *index) add(m *message, commit uint64, segment uint32, offset int64) bool {
	if n := len(x.entries); n > 0 && m.id <= x.entries[n-1].id {
		return false
	}
	place := uint32(len(x.entries))
	x.entries = append(x.entries, indexEntry{m.id, commit, uint32(offset), segment})
	box := x.boxes[m.entry.Mailbox]
	if box == nil {
		box = new(indexBox)
		x.boxes[m.entry.Mailbox] = box
	}
	box.places = append(box.places, place)
	x.known[contentKey(&m.entry)] = place
	x.bytes += m.size
	if m.large {
		x.large++
	}
	return true
}

// get finds a message by its number.
func (x *index) get(id ID) (indexEntry, bool) {
	i := sort.Search(len(x.entries), func(i int) bool { return x.entries[i].id >= id })
	if i == len(x.entries) || x.entries[i].id != id {
		return indexEntry{}, false
	}
	return x.entries[i], true
}

// find finds a message by mailbox and core digest. A damaged one does not count:
// its sender may bring it again.
func (x *index) find(e *Entry) (ID, bool) {
	i, ok := x.known[contentKey(e)]
	if !ok {
		return 0, false
	}
	id := x.entries[i].id
	_, bad := x.damaged[id]
	return id, !bad
}

// all returns the messages with numbers above after.
func (x *index) all(after ID) []indexEntry {
	return x.entries[sort.Search(len(x.entries), func(i int) bool { return x.entries[i].id > after }):]
}

// list returns the messages of a mailbox with numbers above after, as places in
// the slice that comes with them.
func (x *index) list(m MailboxID, after ID) (places []uint32, entries []indexEntry) {
	box := x.boxes[m]
	if box == nil {
		return nil, nil
	}
	i := sort.Search(len(box.places), func(i int) bool { return x.entries[box.places[i]].id > after })
	return box.places[i:], x.entries
}
