package spool

import (
	"fmt"
	"maps"
	"slices"

	"cmtpd/internal/crypt"
)

// judge parses a commit and says why it does not count, if so.
func (w *walker) judge(seg *segment, head Head, r *scanned, records []record) (h *held, reason string) {
	c, err := parseCommit(r.head)
	h = &held{commit: c}
	if err != nil {
		return h, "the commit's head is malformed"
	}
	chain := w.chain
	if int(c.count) < len(records) {
		records = records[len(records)-int(c.count):]
	}
	h.key, h.proven, err = chain.inForce(Head{Number: head.Number, Hash: c.previous}, records)
	if err != nil {
		return h, fmt.Sprintf("commit %d: %v", c.number, err)
	}
	if !c.verify(h.key) && !w.assume(seg, head, h) {
		w.strange = true
		return h, fmt.Sprintf("the signature of commit %d is false", c.number)
	}
	if c.number <= head.Number {
		return h, fmt.Sprintf("commit %d stands after commit %d", c.number, head.Number)
	}
	return h, ""
}

// assume finds the key of a commit whose introduction is missing: one that is proven otherwise, the
// caller's own, or, in a broken chain, one that only a header names.
func (w *walker) assume(seg *segment, head Head, h *held) bool {
	h.proven = false
	keys := append(slices.Collect(maps.Keys(w.trusted)), w.own)
	if !w.chain.known || len(w.damage) > 0 || w.held != nil || h.commit.number != head.Number+1 {
		keys = append(keys, w.assumed, w.hint(seg))
	}
	for _, k := range keys {
		if k != (crypt.PublicKey{}) && h.commit.verify(k) {
			h.key = k
			return true
		}
	}
	return false
}

// hint is the key that may have signed a segment's commits when the record that
// says so is lost.
func (w *walker) hint(seg *segment) crypt.PublicKey {
	if w.own != (crypt.PublicKey{}) {
		return w.own
	}
	return seg.key
}

// link reports where a commit does not continue the chain, or is signed by a key that no
// record introduced.
func (w *walker) link(h *held, head Head) {
	c, seg := &h.commit, h.segment
	if c.number == head.Number+1 && c.previous != head.Hash {
		w.report(Damage{File: seg.name, Segment: seg.sequence, Offset: h.start, FirstCommit: c.number, LastCommit: c.number,
			class: woundGap, wound: gapWound(head, c.head()), sound: true, Reason: "the commit continues another chain"})
	} else if c.number > head.Number+1 {
		w.lost(seg, h.start, head.Number+1, c.number-1, gapWound(head, c.head()))
	}
	switch {
	case h.proven:
		if w.assumed != (crypt.PublicKey{}) && c.number == w.signed.Number+1 && c.previous == w.signed.Hash {
			w.attested[w.assumed] = true
		}
		w.assumed = crypt.PublicKey{}
	case h.key != w.assumed:
		w.assumed = h.key
		w.report(Damage{File: seg.name, Segment: seg.sequence, Offset: h.start, FirstCommit: c.number, LastCommit: c.number,
			class: woundKey, wound: keyWound(c, h.key), key: h.key, sound: true,
			Reason: fmt.Sprintf("the record that introduced the spool key %s is missing", h.key)})
	}
	w.signed = c.head()
}
