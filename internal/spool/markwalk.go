package spool

import (
	"cmp"
	"fmt"
	"slices"
	"sort"
)

// mark judges a mark as far as that costs nothing: whether its message may be there. checkMarks
// judges the rest.
func (w *walker) mark(h *held, r *record) {
	id := r.mark.id
	if w.gone.has(id) {
		r.settled = true // its removal is yet to come
		return
	}
	x := w.chain.index
	lost := id > x.top && id < w.chain.next && len(w.damage) > 0 // a number that is not given again
	if lost || (id <= x.top && !x.removed.has(id)) {
		return
	}
	r.kind = 0 // it is passed over
	if len(w.damage) == 0 {
		w.report(w.falseMark(h.segment, id, r.offset, r.change(h.commit.number)))
	}
}

func (w *walker) falseMark(seg *segment, id ID, offset int64, change uint64) Damage {
	return Damage{File: seg.name, Segment: seg.sequence, Offset: offset, FirstCommit: change >> 16, LastCommit: change >> 16, Messages: []ID{id},
		class: woundMark, wound: markWound(id, change), sound: true,
		Reason: fmt.Sprintf("message %s, which it marks, is not there", id)}
}

// checkMarks looks, at the end of a segment, for the messages that its marks are of: all at once,
// so that each table is read once, in order, and not at random for each mark. Where the log
// is damaged a message may be what was lost.
func (w *walker) checkMarks(seg *segment) {
	x := w.chain.index
	wanted := seg.table.(*memory).changes.marks()
	slices.SortFunc(wanted, func(a, b boxRow) int { return cmp.Compare(a.id, b.id) })
	wrong := make(map[boxRow]bool)
	for len(wanted) > 0 {
		at := x.at(wanted[0].id)
		n := sort.Search(len(wanted), func(i int) bool { return x.at(wanted[i].id) != at })
		some := wanted[:n]
		wanted = wanted[n:]
		slices.SortFunc(some, func(a, b boxRow) int { return a.compare(&b) })
		missing, err := at.table.lacks(some)
		if err != nil {
			w.err = blame(at, err)
			return
		}
		for _, row := range missing {
			wrong[row] = true
		}
	}
	w.judgeMarks(seg, wrong)
}

// judgeMarks reports marks of messages that are not in their mailboxes, and takes them back.
func (w *walker) judgeMarks(seg *segment, wrong map[boxRow]bool) {
	if len(wrong) > 0 && len(w.damage) > 0 {
		for row := range wrong {
			_, _, there, err := w.chain.index.get(row.id)
			if err != nil {
				w.err = err
				return
			}
			if !there {
				delete(wrong, row) // it may be there again when the damage is repaired
			}
		}
	}
	if len(wrong) == 0 {
		return
	}
	for _, e := range seg.table.(*memory).changes.forget(wrong) {
		w.report(w.falseMark(seg, e.id, int64(e.offset), e.change()))
	}
}
