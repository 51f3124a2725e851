package spool

import (
	"errors"
	"fmt"
	"hash/crc32"
	"path/filepath"

	"cmtpd/internal/crypt"
	"cmtpd/internal/durable"
)

// rewriter writes segments that are damaged again, from what a walk says that counts: it is
// what the walk tells of each segment and commit.
type rewriter struct {
	s    *Spool
	keep *quarantine
	// what an earlier walk has found
	next   map[uint64]uint64 // of each segment: the sequence number of the one that follows
	unfit  map[uint64]bool   // its bytes are not as they should be
	filled uint64            // the last sequence number that a segment stands for so far
	head   Head              // of the last commit that counts so far

	into  header
	old   *segment // being written again; nil for none
	from  durable.File
	out   durable.File
	tmp   string
	buf   []byte
	size  int64
	wrote []string // names of the segments that were replaced
	err   error
}

// plan takes over what a walk has found.
func (r *rewriter) plan(w *walker) {
	r.next, r.unfit = make(map[uint64]uint64), make(map[uint64]bool)
	all := w.chain.index.segments
	for i, seg := range all[:max(len(all)-1, 0)] {
		r.next[seg.sequence] = all[i+1].sequence
	}
	for _, d := range w.damage {
		if !d.sound {
			r.unfit[d.Segment] = true
		}
	}
}

// began ends one segment and begins another, where that has to be rewritten.
func (r *rewriter) began(seg *segment) {
	r.end()
	if r.err != nil {
		return
	}
	key := seg.key
	if key == (crypt.PublicKey{}) {
		key = r.s.options.Key.Public()
	}
	if seg.sequence > r.filled+1 {
		r.err = r.fill(header{sequence: r.filled + 1, last: seg.sequence - 1, before: r.head, key: key})
	}
	r.into = seg.header
	r.into.before, r.into.key = r.head, key
	if next, ok := r.next[seg.sequence]; ok {
		r.into.last = min(seg.last, next-1)
	}
	r.filled = r.into.last
	if r.err != nil || (r.into == seg.header && !r.unfit[seg.sequence]) {
		return
	}
	r.err = r.open(seg)
}

// fill makes an empty segment in the place of those that are missing, so that the next one
// continues it.
//
//	open       tmp/<name>   O_CREAT|O_EXCL
//	pwrite     tmp/<name>   header
//	fdatasync  tmp/<name>
//	rename     tmp/<name>   log/<sequence>.seg
//	fsync      log/
func (r *rewriter) fill(h header) error {
	h.generation = newGeneration()
	tmp := r.s.path("tmp", durable.RandomName())
	if err := durable.WriteNew(r.s.fs, tmp, h.append(nil), 0o600); err != nil {
		return err
	}
	return durable.Publish(r.s.fs, tmp, r.s.path("log", segmentName(h.sequence)))
}

func (r *rewriter) open(seg *segment) (err error) {
	r.into.generation = newGeneration()
	if r.from, err = r.s.fs.Open(seg.path); err != nil {
		return err
	}
	r.tmp = r.s.path("tmp", durable.RandomName())
	if r.out, err = r.s.fs.Create(r.tmp, 0o600); err != nil {
		return errors.Join(err, r.from.Close())
	}
	r.old, r.size = seg, headerSize
	return nil
}

// applied copies a commit and its batch, as far as they are whole.
func (r *rewriter) applied(h *held, refused []ID) {
	r.head = h.commit.head()
	if r.old == nil || r.err != nil {
		return
	}
	if r.size == headerSize && len(r.buf) == 0 {
		r.into.key = h.key
	}
	again := make(map[ID]bool, len(refused))
	for _, id := range refused {
		again[id] = true
	}
	leaves := h.leaves
	for i := range h.records {
		rec := &h.records[i]
		if r.err = r.copy(rec); r.err != nil {
			return
		}
		if h.missing == 0 {
			leaves = append(leaves, rec.leaf[:]...)
		}
	}
	r.buf = appendFrame(r.buf, r.into.generation, kindCommit, 0, h.commit.append(nil), len(leaves), crc32.Checksum(leaves, castagnoli))
	r.buf = append(r.buf, leaves...)
	if len(r.buf) >= compactBuffer {
		r.err = r.flush()
	}
}

// copy copies a record. Data that is not what the head says is left out.
func (r *rewriter) copy(rec *record) error {
	b := make([]byte, rec.length)
	if n, err := r.from.ReadAt(b, rec.offset); n < len(b) {
		return err
	}
	f, _, err := parseFrame(b, r.old.generation)
	if err != nil && !errors.Is(err, errData) {
		return fmt.Errorf("%w: %s changed while it was read", ErrDamaged, r.old.name)
	}
	if rec.damaged {
		f.data = nil
		if rec.kind == kindMessage {
			f.flags |= flagGone
		}
	}
	r.buf = appendFrame(r.buf, r.into.generation, f.kind, f.flags, f.head, len(f.data), crc32.Checksum(f.data, castagnoli))
	r.buf = append(r.buf, f.data...)
	return nil
}

func (r *rewriter) flush() error {
	n, err := r.out.WriteAt(r.buf, r.size)
	r.size += int64(n)
	r.buf = r.buf[:0]
	return err
}

// end puts a new segment in the old one's place, once that lies in quarantine.
//
//	open       tmp/<name>    O_CREAT|O_EXCL
//	pwrite     tmp/<name>    records, then the header
//	fdatasync  tmp/<name>
//	(a copy of the old segment in quarantine, as quarantine.copy makes it)
//	rename     tmp/<name>    log/<sequence>.seg
//	fsync      log/
func (r *rewriter) end() {
	seg := r.old
	if seg == nil {
		return
	}
	r.old = nil
	err := r.err
	if err == nil {
		err = r.flush()
	}
	if err == nil {
		_, err = r.out.WriteAt(r.into.append(nil), 0)
	}
	if err == nil {
		err = r.out.Sync()
	}
	err = errors.Join(err, r.out.Close(), r.from.Close())
	if err == nil {
		err = r.keep.copy(seg.name)
	}
	if err == nil {
		err = durable.Publish(r.s.fs, r.tmp, seg.path)
		r.wrote = append(r.wrote, seg.name)
	}
	r.err = err
}

// quarantine is a directory that keeps what a repair replaces. It is made when there is
// something to keep.
type quarantine struct {
	s    *Spool
	name string // relative to the spool
	made map[string]bool
}

func (q *quarantine) dir(sub string) (string, error) {
	path := q.s.path(q.name, sub)
	if q.made[sub] {
		return path, nil
	}
	err := durable.MkdirAll(q.s.fs, q.s.path("quarantine"), 0o700)
	if err == nil {
		err = durable.MkdirAll(q.s.fs, q.s.path(q.name), 0o700)
	}
	if err == nil {
		err = durable.MkdirAll(q.s.fs, path, 0o700)
	}
	q.made[sub] = err == nil
	return path, err
}

// copy keeps a copy of a file of the spool's.
//
//	open       quarantine/<repair>/<file>   O_CREAT|O_EXCL
//	pwrite     quarantine/<repair>/<file>
//	fdatasync  quarantine/<repair>/<file>
//	fsync      its directory
func (q *quarantine) copy(name string) error {
	dir, err := q.dir(filepath.Dir(name))
	if err != nil || q.made[name] {
		return err
	}
	if _, err := copyFile(q.s.fs, q.s.path(name), q.s.path(q.name, name)); err != nil {
		return err
	}
	q.made[name] = true
	return q.s.fs.SyncDir(dir)
}

// move keeps a file of the spool's that is not to stay where it is.
//
//	rename  <file>   quarantine/<repair>/<file>
//	fsync   the directories of both
func (q *quarantine) move(name string) error {
	if _, err := q.dir(filepath.Dir(name)); err != nil {
		return err
	}
	to := q.s.path(q.name, name)
	if err := q.s.fs.Rename(q.s.path(name), to); err != nil {
		return err
	}
	q.made[name] = true
	return errors.Join(q.s.fs.SyncDir(filepath.Dir(to)), q.s.fs.SyncDir(filepath.Dir(q.s.path(name))))
}
