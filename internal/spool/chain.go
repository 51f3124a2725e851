package spool

import (
	"bytes"
	"crypto/sha256"
	"fmt"

	"cmtpd/internal/crypt"
)

// state is what the end of a log, or of a segment, passes on.
type state struct {
	head Head
	next ID
	keys keys // in force; the zero value before the first commit
}

// chain is what a log says so far: it is advanced by apply, in recovery as in
// normal work, and by the segments whose index files say what is in them.
type chain struct {
	state
	index *index
	// known is false until keys come from a record: before, keys.key may hold
	// the hint of a segment's header.
	known bool
	// repaired are the wounds that repair records vouch for, by fingerprint.
	repaired map[[32]byte]repair
}

func newChain() *chain {
	return &chain{state: state{next: 1}, index: newIndex(), repaired: make(map[[32]byte]repair)}
}

// record is one of a batch's, with its place in the segment.
type record struct {
	kind    kind
	leaf    [32]byte
	offset  int64
	length  int64
	message message // kinds 3 and 4
	keys    keys    // kind 2
	removal removal // kind 5
	mark    *mark   // kind 6
	place   uint16  // of the leaf in its commit
	repair  *repair // kind 9
	gone    bool    // a message without its data
	settled bool    // a removal or mark whose message's data is gone: nothing is left for it
	damaged bool    // the head is whole, the data is not
	bare    bool    // it has no data
}

// apply makes a durable commit of the newest segment part of the chain: it takes over
// its head, its keys, its messages, removals and marks. Messages whose numbers are not above
// all before are returned; that cannot be in a log that this package wrote.
func (c *chain) apply(cm *commit, seg *segment, records []record) (refused []ID) {
	c.head = cm.head()
	for i := range records {
		r := &records[i]
		switch r.kind {
		case kindKeys:
			c.keys, c.known = r.keys, true
		case kindMessage, kindLarge:
			if !c.index.add(seg, &r.message, r.change(cm.number), r.offset, r.gone) {
				refused = append(refused, r.message.id)
			} else if r.damaged {
				c.index.damaged[r.message.id] = struct{}{}
			}
			c.next = max(c.next, r.message.id+1)
		case kindRemoval:
			seg.table.(*memory).remove(&r.removal, r.change(cm.number))
			if !r.settled {
				c.index.remove(r.removal.removedRow)
			}
		case kindMark:
			if !r.settled {
				seg.table.(*memory).mark(r.mark, r.change(cm.number), r.offset)
			}
		case kindRepair:
			c.repaired[r.repair.wound] = *r.repair
			seg.walked = true
		}
	}
	c.next = max(c.next, cm.next)
	return refused
}

// newRecord reads what the chain needs of a record other than a commit. One of a
// known kind with a malformed head counts as one of an unknown kind: its leaf is
// all that a signature can vouch for.
func newRecord(s *scanned) record {
	r := record{kind: s.kind, leaf: leaf(s.kind, s.head), offset: s.offset, length: s.length, damaged: s.damaged, gone: s.flags&flagGone != 0,
		bare: len(s.data) == 0}
	var err error
	switch s.kind {
	case kindKeys:
		r.keys, err = parseKeys(s.head)
		r.damaged = r.damaged || len(s.data) > 0
	case kindMessage, kindLarge:
		r.message, err = parseMessage(s.kind, s.head)
		want := r.message.size
		if r.message.large || r.gone {
			want = 0
		}
		r.damaged = r.damaged || (!s.damaged && int64(len(s.data)) != want)
	case kindRemoval:
		r.removal, err = parseRemoval(s.head)
		r.damaged = r.damaged || len(s.data) > 0
	case kindMark:
		var m mark
		m, err = parseMark(s.head)
		r.mark, r.damaged = &m, r.damaged || len(s.data) > 0
	case kindRepair:
		var p repair
		p, err = parseRepair(s.head)
		r.repair, r.damaged = &p, r.damaged || len(s.data) > 0
	default:
		r.damaged = r.damaged || len(s.data) > 0
	}
	if err != nil {
		r.kind, r.damaged = 0, true
	}
	return r
}

// inForce returns the key that must have signed a commit whose batch is records,
// following the chain's head: the one in force, unless the batch replaces it. known is
// false where no record has introduced it.
func (c *chain) inForce(head Head, records []record) (key crypt.PublicKey, known bool, err error) {
	key, identity, known := c.keys.key, c.keys.identity, c.known
	for i := range records {
		k := &records[i].keys
		if records[i].kind != kindKeys {
			continue
		}
		if !known {
			identity = k.identity
		}
		if known && k.spool != c.keys.spool {
			return key, false, fmt.Errorf("its keys belong to another spool")
		}
		if !k.verify(head.Hash, identity) {
			return key, false, fmt.Errorf("the signatures of its keys are false")
		}
		key, identity, known = k.key, k.identity, true
	}
	return key, known, nil
}

// match compares a commit's leaves with the records that came before it in its
// segment. found are those that the commit names, in its order, and missing how many it
// names besides; extra says that there were others, and altered that the leaves, whose check sum
// may be right nonetheless, are not what the commit was signed over.
func match(cm *commit, leaves []byte, records []record) (found []record, missing int, extra, altered bool) {
	n := int(cm.count)
	altered = len(leaves) != 32*n
	if len(records) >= n {
		last := records[len(records)-n:]
		h, rest := sha256.New(), leaves
		for i := range last {
			h.Write(last[i].leaf[:])
			last[i].place = uint16(i)
			if !altered {
				altered, rest = [32]byte(rest) != last[i].leaf, rest[32:]
			}
		}
		if bytes.Equal(h.Sum(nil), cm.leaves[:]) {
			return last, 0, len(records) > n, altered
		}
	}
	if len(leaves) != 32*n || sha256.Sum256(leaves) != cm.leaves {
		return nil, n, len(records) > 0, true
	}
	places := make(map[[32]byte]int, len(records))
	for i := range records {
		places[records[i].leaf] = i
	}
	next := 0
	for i := range n {
		place, ok := places[[32]byte(leaves[32*i:])]
		if !ok || place < next {
			missing++
			continue
		}
		found = append(found, records[place])
		found[len(found)-1].place = uint16(i)
		next = place + 1
	}
	return found, missing, len(found) < len(records), false
}
