package spool

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"

	"cmtpd/internal/durable"
)

// trust takes a segment over from its index file instead of walking it, if there is one
// that fits.
func (w *walker) trust(f durable.File, seg *segment, size int64) bool {
	seg.size = size
	t, err := openIndex(w.fs, w.dir, seg)
	if err != nil || t.after.head.Number <= seg.before.Number || !w.introduces(f, seg, t) {
		return false
	}
	gone, err := t.gone()
	if err != nil {
		return false
	}
	highest, err := t.highest()
	if len(gone) > 0 {
		highest = max(highest, gone[len(gone)-1])
	}
	if err != nil || highest >= t.after.next || t.after.next < w.chain.next {
		return false
	}
	removals, err := t.removals()
	if err != nil {
		return false
	}
	files, err := t.files()
	if err != nil {
		return false
	}
	seg.size, seg.after = t.end, t.after
	next := max(w.chain.next, t.after.next)
	w.chain.state, w.chain.known, w.last = t.after, true, nil
	w.chain.next = next
	w.chain.index.adopt(seg, t, highest)
	for _, id := range gone {
		w.gone.add(id)
	}
	for _, r := range removals {
		if delete(w.suspects, r.id); w.gone.has(r.id) {
			w.gone.remove(r.id)
		} else {
			w.chain.index.remove(r)
		}
	}
	for _, f := range files {
		w.large[f.name] = f.id
	}
	return true
}

// introduces says whether an index file's keys are those in force before its segment, or whether records of
// the segment introduce them: anybody can write a key into a file that nothing proves, and what it has
// signed would count then.
func (w *walker) introduces(f durable.File, seg *segment, t *indexFile) bool {
	c := chain{state: w.chain.state, known: w.chain.known}
	if c.known && c.keys == t.after.keys {
		return true
	}
	sc := &scanner{file: f, size: t.end, generation: seg.generation, offset: headerSize}
	var batch []record
	for {
		r, err := sc.next()
		if err != nil {
			return err == io.EOF && c.known && c.keys == t.after.keys
		}
		if r.kind != kindCommit {
			if batch = append(batch, newRecord(&r)); r.skipped || len(batch) > maxRecords {
				return false
			}
			continue
		}
		cm, err := parseCommit(r.head)
		found, missing, _, _ := match(&cm, r.data, batch)
		if err != nil || missing > 0 {
			return false
		}
		for i := range found {
			if found[i].kind != kindKeys {
				continue
			}
			key, known, err := c.inForce(Head{Hash: cm.previous}, found)
			if err != nil || !known || !cm.verify(key) {
				return false
			}
			c.keys, c.known = found[i].keys, true
		}
		batch = batch[:0]
	}
}

// remove judges a removal: it names a message that is there, or one whose data is gone
// because of it.
func (w *walker) remove(h *held, r *record) {
	id := r.removal.id
	delete(w.suspects, id)
	if w.gone.has(id) {
		w.gone.remove(id)
		r.settled = true
		return
	}
	_, m, ok, err := w.chain.index.get(id)
	if err != nil {
		w.err = err
		return
	}
	if ok && m.size == r.removal.size && m.large == r.removal.large {
		return
	}
	r.kind = 0 // it is passed over
	if len(w.damage) > 0 {
		return // its message may be what was lost
	}
	w.report(Damage{File: h.segment.name, Segment: h.segment.sequence, Offset: r.offset, Length: r.length,
		FirstCommit: h.commit.number, LastCommit: h.commit.number, Messages: []ID{id},
		class: woundRemoval, wound: fingerprint(woundRemoval, h.commit.head(), sha256.Sum256(r.leaf[:])), sound: true,
		Reason: fmt.Sprintf("message %s, which it removes, is not there", id)})
}

// suspected says whether a large file of a segment's is not right.
func (w *walker) suspected(seg *segment) bool {
	for _, d := range w.suspects {
		if d.Segment == seg.sequence {
			return true
		}
	}
	return false
}

// finish judges what only the whole log can tell.
func (w *walker) finish() error {
	if len(w.suspects)+len(w.gone) > 0 && w.sealed == nil && !w.alone {
		moved, err := w.moved()
		if err != nil || moved {
			return cmp.Or(err, ErrMoved)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(w.suspects)) {
		w.report(w.suspects[id])
		w.chain.index.damaged[id] = struct{}{}
	}
	lost := make(map[*segment][]ID)
	for at, bits := range w.gone {
		for i := range ID(len(bits) * 64) {
			if bits[i>>6]>>(i&63)&1 == 1 {
				seg := w.chain.index.at(at<<9 | i)
				lost[seg] = append(lost[seg], at<<9|i)
			}
		}
	}
	for _, seg := range w.chain.index.segments {
		if ids := lost[seg]; len(ids) > 0 {
			slices.Sort(ids)
			w.report(Damage{File: seg.name, Segment: seg.sequence, Messages: ids, sound: true,
				Reason: "the data of messages is gone, and no record says that they were removed"})
		}
	}
	w.forgive()
	return nil
}

// moved says whether the log has grown since its end was read.
func (w *walker) moved() (bool, error) {
	names, err := w.fs.ReadDir(filepath.Join(w.dir, "log"))
	if err != nil {
		return false, err
	}
	newest := w.before()
	if newest == nil || filepath.Join("log", names[len(names)-1]) != newest.name {
		return true, nil
	}
	f, err := w.fs.Open(newest.path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return false, err
	}
	tail, err := readTail(f, newest.size)
	return size != w.size || tail != w.tail, err
}

// readTail returns what a log shows where its last commit ends.
func readTail(f durable.File, at int64) (tail [frameSize]byte, err error) {
	if _, err = f.ReadAt(tail[:], at); err == io.EOF {
		err = nil
	}
	return tail, err
}
