package spool

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"maps"
	"slices"

	"cmtpd/internal/durable"
)

// indexBuffer is how many bytes of an index file are written at once.
const indexBuffer = 1 << 20

// putIndex writes a segment's index file. Of the tables only one at a time is in memory, for
// together they are as long as the segment's own where that is full of marks.
func putIndex(f durable.File, seg *segment, t *memory) error {
	var x indexFile
	directory, _ := x.lay(t.counts())
	front := make([]byte, indexHeader, indexHeader+directory)
	var filters, buf []byte
	at := indexHeader + directory
	flush := func() error {
		n, err := f.WriteAt(buf, at)
		buf, at = buf[:0], at+int64(n)
		return err
	}
	for i := range x.sections {
		s := &x.sections[i]
		rows := t.rows(i)
		switch i {
		case byContent:
			filters = append(filters, makeFilter(rows, s.width, func(row []byte) contentKey { return contentKey(row) })...)
		case markRows:
			filters = append(filters, makeFilter(rows, s.width, markKey)...)
		}
		for len(rows) > 0 {
			n := min(len(rows), blockRows*s.width)
			front = append(front, rows[:s.key]...)
			buf = binary.BigEndian.AppendUint32(append(buf, rows[:n]...), crc32.Checksum(rows[:n], castagnoli))
			if rows = rows[n:]; len(buf) < indexBuffer {
				continue
			}
			if err := flush(); err != nil {
				return err
			}
		}
	}
	if err := flush(); err != nil {
		return err
	}
	front = append(front, filters...)
	x.putHeader(front, seg, t)
	_, err := f.WriteAt(front, 0)
	return err
}

// putHeader writes what comes before the directory.
func (x *indexFile) putHeader(b []byte, seg *segment, t *memory) {
	be := binary.BigEndian
	dst := append(b[:0], indexMagic[:]...)
	for _, v := range []uint64{seg.sequence, seg.last, seg.generation, uint64(seg.size), seg.after.head.Number} {
		dst = be.AppendUint64(dst, v)
	}
	dst = append(dst, seg.after.head.Hash[:]...)
	dst = be.AppendUint64(dst, uint64(seg.after.next))
	dst = seg.after.keys.append(dst)
	sum := int64(0)
	for i := range t.entries {
		n, _ := unpackSize(t.entries[i].size)
		sum += n
	}
	dst = be.AppendUint64(dst, uint64(sum))
	for i := range x.sections {
		dst = be.AppendUint64(dst, uint64(x.sections[i].count))
	}
	be.PutUint32(b[376:], crc32.Checksum(b[indexHeader:], castagnoli))
	be.PutUint32(b[380:], crc32.Checksum(b[:380], castagnoli))
}

// counts returns how many rows each table will have.
func (t *memory) counts() (counts [tableCount]int64) {
	for i, n := range map[int]int{byNumber: len(t.entries), byMailbox: len(t.entries), byContent: len(t.known),
		removalRows: len(t.removed), goneRows: len(t.missing), fileRows: len(t.fileRows),
		markRows: len(t.changes.newest), changeRows: len(t.changes.newest) + len(t.removed)} {
		counts[i] = int64(n)
	}
	return counts
}

// rows returns one table of an index file (docs/spool.md, Index).
func (t *memory) rows(table int) []byte {
	be := binary.BigEndian
	b := make([]byte, 0, t.counts()[table]*int64(rowWidths[table]))
	switch table {
	case byNumber:
		for i := range t.entries {
			e := &t.entries[i]
			b = be.AppendUint64(b, uint64(e.id))
			b = be.AppendUint64(b, e.change)
			b = be.AppendUint64(b, uint64(e.offset))
			b = be.AppendUint64(b, e.size)
		}
	case byMailbox:
		for _, m := range sorted(t.boxes) {
			for _, place := range t.boxes[m].places {
				b = be.AppendUint64(append(b, m[:]...), uint64(t.entries[place].id))
			}
		}
	case byContent:
		for _, k := range sorted(t.known) {
			b = be.AppendUint64(append(b, k[:]...), uint64(t.entries[t.known[k]].id))
		}
	case removalRows:
		for _, r := range t.removed {
			b = be.AppendUint64(b, uint64(r.id))
			b = be.AppendUint64(b, packSize(r.size, r.large))
		}
	case goneRows:
		for _, id := range t.missing {
			b = be.AppendUint64(b, uint64(id))
		}
	case fileRows:
		for _, f := range t.fileRows {
			b = be.AppendUint64(append(b, f.name[:]...), uint64(f.id))
		}
	case markRows:
		b = t.changes.appendMarks(b)
	case changeRows:
		b = t.changes.appendChanges(b)
	}
	return b
}

// sorted returns a map's keys in their order.
func sorted[K ~[16]byte, V any](m map[K]V) []K {
	keys := make([]K, 0, len(m))
	keys = slices.AppendSeq(keys, maps.Keys(m))
	slices.SortFunc(keys, func(a, b K) int {
		x, y := [16]byte(a), [16]byte(b)
		return bytes.Compare(x[:], y[:])
	})
	return keys
}
