package spool

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"time"

	"cmtpd/internal/crypt"
)

// A woundClass says what a repair record vouches for (docs/spool.md, Repair).
type woundClass byte

const (
	woundGap     woundClass = 1 // commits are missing, or a commit continues another chain
	woundBatch   woundClass = 2 // of a commit's batch, records are missing
	woundKey     woundClass = 3 // the record that introduced the key of a commit is missing
	woundNumbers woundClass = 4 // a batch gives message numbers that were given before
	woundRemoval woundClass = 5 // a removal of a message that is not there
	woundMark    woundClass = 6 // a mark of a message that is not there
)

const (
	woundLabel  = "CMTP-1 spool wound\x00"
	repairHead  = 89
	repairActor = "repair" // who removes messages whose data a repair could not save
)

// fingerprint names one wound: its class, the commit at which it shows, and SHA-256 of
// exactly what is found there. Whatever changes about it makes another fingerprint.
func fingerprint(class woundClass, at Head, found [32]byte) [32]byte {
	b := append([]byte(woundLabel), byte(class))
	b = append(appendHead(b, at), found[:]...)
	return sha256.Sum256(b)
}

func appendHead(dst []byte, h Head) []byte {
	return append(binary.BigEndian.AppendUint64(dst, h.Number), h.Hash[:]...)
}

func gapWound(before, after Head) [32]byte {
	return fingerprint(woundGap, after, sha256.Sum256(appendHead(nil, before)))
}

// batchWound is for a batch of which records are there whose leaves hash, one after
// the other, to found.
func batchWound(at Head, found [32]byte) [32]byte { return fingerprint(woundBatch, at, found) }

// markWound is for a mark, which is judged when its commit's hash is not at hand any more. Its change
// number has its commit's.
func markWound(id ID, change uint64) [32]byte {
	b := binary.BigEndian.AppendUint64(nil, change)
	return fingerprint(woundMark, Head{Number: change >> 16}, sha256.Sum256(binary.BigEndian.AppendUint64(b, uint64(id))))
}

func keyWound(c *commit, key crypt.PublicKey) [32]byte {
	return fingerprint(woundKey, c.head(), sha256.Sum256(key[:]))
}

func numbersWound(at Head, refused []ID) [32]byte {
	var b []byte
	for _, id := range refused {
		b = binary.BigEndian.AppendUint64(b, uint64(id))
	}
	return fingerprint(woundNumbers, at, sha256.Sum256(b))
}

// leavesOf hashes the leaves of records one after the other.
func leavesOf(records []record) (sum [32]byte) {
	h := sha256.New()
	for i := range records {
		h.Write(records[i].leaf[:])
	}
	h.Sum(sum[:0])
	return sum
}

// repair is the head of kind 9: the spool key vouches for one wound, so that it is
// damage no more.
type repair struct {
	time  time.Time
	class woundClass
	first uint64 // commits that the wound touches
	last  uint64
	wound [32]byte        // fingerprint
	key   crypt.PublicKey // of woundKey
	by    string
}

func (r *repair) append(dst []byte) []byte {
	dst = binary.BigEndian.AppendUint64(dst, uint64(r.time.UnixNano()))
	dst = append(dst, byte(r.class))
	dst = binary.BigEndian.AppendUint64(dst, r.first)
	dst = binary.BigEndian.AppendUint64(dst, r.last)
	dst = append(dst, r.wound[:]...)
	dst = append(dst, r.key[:]...)
	return append(dst, r.by...)
}

func parseRepair(b []byte) (r repair, err error) {
	if len(b) < repairHead || len(b) > repairHead+maxFrom {
		return r, errHead
	}
	r.time = unixNano(b)
	r.class = woundClass(b[8])
	r.first = binary.BigEndian.Uint64(b[9:])
	r.last = binary.BigEndian.Uint64(b[17:])
	r.wound = [32]byte(b[25:57])
	r.key = crypt.PublicKey(b[57:89])
	r.by = string(b[repairHead:])
	if r.class < woundGap || r.class > woundMark || r.first > maxNumber || r.last > maxNumber || r.wound == ([32]byte{}) ||
		(r.class == woundKey) == (r.key == crypt.PublicKey{}) {
		return r, errHead
	}
	return r, nil
}

// A Scar is a place that is not as it was written, and that a repair has vouched for.
type Scar struct {
	Damage
	Time time.Time // of the repair
	By   string    // who repaired it
}

// String returns one line for the operator.
func (s Scar) String() string {
	return fmt.Sprintf("%s; repaired %s by %s", s.Damage, s.Time.UTC().Format(time.RFC3339), s.By)
}

// forgive takes what repair records vouch for out of the damage. Their segments are walked by
// every start, which so sees each time that the wounds are still the same.
func (w *walker) forgive() {
	if len(w.chain.repaired) == 0 {
		return
	}
	var left []Damage
	dirty, scarred, still := make(map[uint64]bool), make(map[uint64]bool), make(map[uint64]bool)
	for _, d := range w.damage {
		r, ok := w.chain.repaired[d.wound]
		if !ok || d.wound == ([32]byte{}) {
			left, dirty[d.Segment] = append(left, d), true
			continue
		}
		w.scars = append(w.scars, Scar{d, r.time, r.by})
		scarred[d.Segment] = true
		still[d.Segment] = still[d.Segment] || d.class == woundNumbers || d.class == woundRemoval || d.class == woundMark
	}
	w.damage = left
	for _, seg := range w.files {
		seg.dirty = dirty[seg.sequence]
		seg.walked = seg.walked || scarred[seg.sequence]
		seg.still = seg.still || still[seg.sequence]
	}
}
