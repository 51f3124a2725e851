package spool

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"

	"cmtpd/internal/crypt"
	"cmtpd/internal/durable"
)

// segment is one file of the log.
type segment struct {
	path string
	name string // path, relative to the spool
	header
	size  int64 // what of it belongs to the log
	dirty bool  // it holds damage: nothing is appended to it, and it is left as it is
	table table // of its messages
	top   ID    // the highest message number up to its end
	dead  int64 // bytes of removed messages in it
	// walked: it holds wounds that were repaired, or records of repairs, so it has no index
	// file and every start walks it. still: what is in it does not bear compaction.
	walked, still bool
	after         state // what it passes on; set when it is not the newest any more
	// readers counts who has the file open. It grows under the spool's lock only, and no more
	// once the segment is replaced.
	readers atomic.Int32
}

// walker reads a log from its beginning, applies what counts and notes what does
// not (docs/spool.md, Opening and recovery).
type walker struct {
	fs   durable.FS
	dir  string
	deep bool // check the SHA-256 of every message too
	// own is a key to believe in where the record that introduced it is damaged.
	// Zero: the one that the segment's header names.
	own      crypt.PublicKey
	progress func(bytes int64)
	applied  func(h *held, refused []ID) // after each commit
	began    func(*segment)              // before the first commit of each segment that is not passed over
	alone    bool                        // nobody changes the log meanwhile
	// trusted are keys that a walk before has found proven, though their introduction is missing.
	trusted map[crypt.PublicKey]bool
	// sealed, if set, is told of each undamaged segment that another follows, and
	// makes its index file. Then index files are trusted, too.
	sealed func(*segment)

	chain      *chain
	files      []*segment // that were listed
	superseded []*segment // what a compaction left behind
	damage     []Damage
	scars      []Scar          // damage that was repaired
	large      map[[16]byte]ID // files, and whose they are
	suspects   map[ID]Damage   // large files that are not right; no damage if their messages were removed
	gone       idSet           // without data, and no removal seen yet
	torn       int64           // bytes after the last commit of the last segment
	size       int64           // of the last segment's file
	tail       [frameSize]byte // what follows the last commit
	last       *held           // the newest that was applied, in a segment that was walked
	err        error           // of a table on disk

	records []record // since the last commit, in the segment
	skipped bool     // bytes that are no record were among them
	start   int64    // where the current batch begins
	held    *held
	assumed crypt.PublicKey // that signs, though no record that is left introduced it
	signed  Head            // of the last commit that counts
	// attested are keys whose introduction is missing, but that have signed a commit which one by
	// an introduced key continues, or that a repair record names.
	attested map[crypt.PublicKey]bool
	strange  bool // a commit is by a key that nothing speaks for, or false
}

// held is a commit that is true but whose batch is not whole. If another commit
// follows it had been durable, and this is damage; if none does, it is a torn tail.
type held struct {
	commit  commit
	segment *segment
	start   int64
	end     int64
	records []record
	missing int
	leaves  []byte // the commit's data, where records are missing and it is as the commit says
	settled bool   // the batch is as a repair leaves it: what is there cannot be mended further
	key     crypt.PublicKey
	proven  bool // a record introduced key
}

func newWalker(fsys durable.FS, dir string) *walker {
	return &walker{fs: fsys, dir: dir, chain: newChain(), large: make(map[[16]byte]ID),
		suspects: make(map[ID]Damage), gone: make(idSet), attested: make(map[crypt.PublicKey]bool)}
}

// walk reads a log as set says. Where commits are by keys whose introduction is missing, only the
// whole of it shows which of those can be believed, and it is read again.
func walk(ctx context.Context, fsys durable.FS, dir string, set func(*walker)) (*walker, error) {
	w := newWalker(fsys, dir)
	set(w)
	if err := w.walk(ctx); err != nil || !w.strange {
		return w, err
	}
	scout := w
	if w.own != (crypt.PublicKey{}) { // who believes what headers say of keys sees more
		scout = newWalker(fsys, dir)
		scout.alone = w.alone
		if err := scout.walk(ctx); err != nil {
			return w, err
		}
	}
	if len(scout.attested) == 0 {
		return w, nil
	}
	w = newWalker(fsys, dir)
	set(w)
	w.trusted = scout.attested
	return w, w.walk(ctx)
}

// walk reads all segments. Its error is the disk's, ctx's or ErrMoved; whatever else is
// wrong is in damage.
func (w *walker) walk(ctx context.Context) error {
	if err := w.list(); err != nil {
		return err
	}
	s := &scanner{}
	for i, seg := range w.files {
		err := w.segment(ctx, s, seg, i == len(w.files)-1)
		if err == nil {
			err = w.err
		}
		if err != nil {
			return fmt.Errorf("%s: %w", seg.path, err)
		}
	}
	return w.finish()
}

// list finds the log's files and orders them.
func (w *walker) list() error {
	dir := filepath.Join(w.dir, "log")
	names, err := w.fs.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		seq, err := parseSegmentName(name)
		if err != nil {
			w.report(Damage{File: filepath.Join("log", name), Reason: "not a segment's name"})
			continue
		}
		w.files = append(w.files, &segment{table: newMemory(),
			path: filepath.Join(dir, name), name: filepath.Join("log", name), header: header{sequence: seq, last: seq}})
	}
	return nil
}

func segmentName(sequence uint64) string { return fmt.Sprintf("%016x.seg", sequence) }

func parseSegmentName(name string) (uint64, error) {
	seq, err := strconv.ParseUint(strings.TrimSuffix(name, ".seg"), 16, 64)
	if err != nil || seq == 0 || seq > maxNumber || segmentName(seq) != name {
		return 0, fmt.Errorf("%q is not a segment's name", name)
	}
	return seq, nil
}

// segment walks one file. s lends its buffer.
func (w *walker) segment(ctx context.Context, s *scanner, seg *segment, last bool) error {
	if err := ctx.Err(); err != nil {
		return err // also where index files are believed, and no record is read
	}
	f, err := w.fs.Open(seg.path)
	if errors.Is(err, fs.ErrNotExist) {
		if before := w.before(); before != nil && seg.sequence <= before.last {
			return nil // merged, meanwhile
		}
		return ErrMoved
	}
	if err != nil {
		return err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return err
	}
	ok, err := w.header(f, seg, size)
	if err != nil || !ok {
		return err
	}
	if w.sealed != nil && !w.deep && w.trusted == nil && !last && !seg.dirty && w.trust(f, seg, size) {
		return nil
	}
	w.chain.index.begin(seg)
	if w.began != nil {
		w.began(seg)
	}
	*s = scanner{file: f, size: size, generation: seg.generation, offset: headerSize, buf: s.buf[:0]}
	w.start = headerSize
	next := s.next
	if w.deep {
		p := prove(s)
		defer p.close()
		next = p.next
	}
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		r, err := next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		w.take(seg, &r)
		if w.progress != nil {
			w.progress(r.length)
		}
	}
	seg.size = size
	return w.end(f, seg, size, last)
}

// before returns the segment that was read before, if any.
func (w *walker) before() *segment {
	if len(w.chain.index.segments) == 0 {
		return nil
	}
	return w.chain.index.newest()
}

// header reads a segment's header and fits it to the chain. ok is false where
// nothing of the segment can be read.
func (w *walker) header(f durable.File, seg *segment, size int64) (ok bool, err error) {
	b := make([]byte, min(size, headerSize+frameSize))
	if n, err := f.ReadAt(b, 0); n < len(b) && err != io.EOF {
		return false, err
	}
	h, err := parseHeader(b)
	if err == nil && h.sequence != seg.sequence {
		err = errors.New("it is another segment's")
	}
	if err != nil {
		w.settle()
		w.report(Damage{File: seg.name, Segment: seg.sequence, Length: headerSize, Reason: "segment header: " + err.Error()})
		h = header{sequence: seg.sequence, last: seg.sequence}
		if h.generation = guessGeneration(b); h.generation == 0 {
			seg.header, seg.size, seg.dirty = h, size, true
			w.chain.index.begin(seg)
			if w.began != nil {
				w.began(seg)
			}
			return false, nil
		}
	}
	if err == nil && seg == w.files[len(w.files)-1] && h.last-h.sequence > maxClaim {
		w.settle()
		w.report(Damage{File: seg.name, Segment: seg.sequence, Length: headerSize,
			Reason: fmt.Sprintf("segment header: it claims to stand for all up to %d, which are too many", h.last)})
		h.last = h.sequence
	}
	seg.header = h
	if before := w.before(); err == nil && before != nil && h.sequence <= before.last && h.before.Number < w.chain.head.Number {
		w.superseded = append(w.superseded, seg)
		return false, nil
	}
	w.follow(seg, err == nil)
	return true, nil
}

// guessGeneration takes the generation from the first record where the header is lost.
func guessGeneration(b []byte) uint64 {
	if len(b) < headerSize+frameSize {
		return 0
	}
	var g uint64
	for _, c := range b[headerSize+8 : headerSize+16] {
		g = g<<8 | uint64(c)
	}
	return g
}

// follow checks that a segment continues the one before. What its header says of
// commits that are missing is believed for lack of better, and reported.
func (w *walker) follow(seg *segment, whole bool) {
	expected := uint64(1)
	if before := w.before(); before != nil {
		expected = before.last + 1
	}
	if seg.sequence < expected {
		w.settle()
		w.report(Damage{Segment: seg.sequence, File: seg.name,
			Reason: fmt.Sprintf("segments up to %d were there before", expected-1)})
	}
	if seg.sequence > expected {
		w.settle()
		w.report(Damage{Segment: expected, File: filepath.Join("log", segmentName(expected)),
			Reason: fmt.Sprintf("segments %d to %d are missing", expected, seg.sequence-1)})
	}
	if !whole {
		return
	}
	if !w.chain.known {
		w.chain.keys.key = w.hint(seg)
	}
	w.settle()
	now := w.chain.head
	switch {
	case seg.before == now:
		return
	case seg.before.Number > now.Number+maxClaim:
		// Nobody signed that. Who believes it has no numbers left to give.
		w.report(Damage{File: seg.name, Segment: seg.sequence, FirstCommit: now.Number + 1,
			Reason: fmt.Sprintf("the segment continues commit %s, which is too far from %s to be true", seg.before, now)})
		return
	case seg.before.Number > now.Number:
		w.lost(seg, 0, now.Number+1, seg.before.Number, [32]byte{})
	default:
		w.report(Damage{File: seg.name, Segment: seg.sequence, FirstCommit: seg.before.Number + 1,
			Reason: fmt.Sprintf("the segment continues commit %s, not %s", seg.before, now)})
	}
	if seg.before.Number >= now.Number {
		w.chain.head = seg.before
	}
}

// lost reports that commits are missing before a place, and keeps clear of the
// message numbers that they may have given.
func (w *walker) lost(seg *segment, offset int64, first, last uint64, wound [32]byte) {
	w.report(Damage{File: seg.name, Segment: seg.sequence, Offset: offset, FirstCommit: first, LastCommit: last,
		class: woundGap, wound: wound, sound: wound != [32]byte{},
		Reason: fmt.Sprintf("before it, commits %d to %d are missing", first, last)})
	w.chain.next += ID(min(last-first+1, maxClaim) * maxRecords)
}

// take handles what the scanner found next.
func (w *walker) take(seg *segment, r *scanned) {
	if r.skipped {
		w.skipped = true
		return
	}
	if r.kind == kindCommit {
		w.commit(seg, r)
		return
	}
	rec := newRecord(r)
	if rec.kind == kindMessage && w.deep && !rec.damaged && !rec.gone {
		rec.damaged = r.sum != rec.message.sha256
	}
	if len(w.records) == maxRecords {
		w.records, w.skipped = w.records[:0], true // more than any commit names
	}
	w.records = append(w.records, rec)
}

// commit judges a commit and its batch.
func (w *walker) commit(seg *segment, r *scanned) {
	start, records, skipped := w.start, w.records, w.skipped
	w.start, w.records, w.skipped = r.offset+r.length, nil, false
	place := Damage{File: seg.name, Segment: seg.sequence, Offset: start, Length: w.start - start}

	head := w.chain.head
	if w.held != nil {
		head = w.held.commit.head()
	}
	h, reason := w.judge(seg, head, r, records)
	c := &h.commit
	if reason != "" {
		w.settle()
		place.FirstCommit, place.LastCommit, place.Reason = c.number, c.number, reason
		w.report(place)
		return
	}
	w.settle()
	h.segment, h.start, h.end = seg, start, w.start
	w.link(h, head)
	extra := h.take(r, records)
	whole := h.missing == 0 && !r.damaged
	for k := range h.records {
		whole = whole && !h.records[k].damaged
	}
	h.settled = h.settled && !skipped && !extra
	if whole && (skipped || extra) {
		place.FirstCommit, place.LastCommit, place.Reason = c.number, c.number, "bytes that no commit names"
		w.report(place)
	}
	w.held = h
	if whole {
		w.apply()
	}
}

// take matches a commit with the records before it, and says whether there are others.
func (h *held) take(r *scanned, records []record) (extra bool) {
	var altered bool
	h.records, h.missing, extra, altered = match(&h.commit, r.data, records)
	r.damaged = r.damaged || (altered && h.missing == 0)
	if h.missing > 0 && sha256.Sum256(r.data) == h.commit.leaves {
		h.leaves = bytes.Clone(r.data)
	}
	empty := len(r.data) == 0 && len(h.records) == 0
	h.settled = !r.damaged && (h.leaves != nil || empty || h.missing == 0)
	for i := range h.records {
		// One with a malformed head is what was signed, and can be no other.
		f := &h.records[i]
		h.settled = h.settled && (!f.damaged || f.kind == 0 && f.bare)
	}
	return extra
}

// settle takes the held commit as damage: something came after it.
func (w *walker) settle() {
	h := w.held
	if h == nil {
		return
	}
	seg := h.segment
	d := Damage{File: seg.name, Segment: seg.sequence, Offset: h.start, Length: h.end - h.start,
		FirstCommit: h.commit.number, LastCommit: h.commit.number}
	for i := range h.records {
		if r := &h.records[i]; r.damaged && r.message.id != 0 {
			d.Messages = append(d.Messages, r.message.id)
		}
	}
	if h.settled {
		d.class, d.wound, d.sound = woundBatch, batchWound(h.commit.head(), leavesOf(h.records)), true
	}
	d.Reason = fmt.Sprintf("of the %d records of commit %d, %d are missing and %d messages damaged",
		h.commit.count, h.commit.number, h.missing, len(d.Messages))
	w.report(d)
	w.apply()
}

// apply applies the held commit.
func (w *walker) apply() {
	h := w.held
	w.held, w.last = nil, h
	seg, top := h.segment, w.chain.index.top
	for i := range h.records {
		r := &h.records[i]
		switch {
		case r.kind == kindRemoval:
			w.remove(h, r)
		case r.kind == kindMark:
			w.mark(h, r)
		case r.kind == kindRepair && !h.proven:
			r.kind = 0 // only who has a key that was introduced can repair
		case r.kind == kindRepair && r.repair.class == woundKey:
			w.attested[r.repair.key] = true
		case r.message.id != 0 && r.message.id <= top:
			// It is refused below.
		case r.gone:
			w.gone.add(r.message.id)
		case r.kind == kindLarge:
			w.large[r.message.file] = r.message.id
			if reason := w.largeFile(&r.message); reason != "" {
				w.suspects[r.message.id] = Damage{File: filepath.Join("large", r.message.fileName()), Segment: seg.sequence, Offset: r.offset,
					FirstCommit: h.commit.number, LastCommit: h.commit.number, Messages: []ID{r.message.id}, Reason: reason, sound: true}
			}
		}
		top = max(top, r.message.id)
	}
	refused := w.chain.apply(&h.commit, seg, h.records)
	if refused != nil {
		w.report(Damage{File: seg.name, Segment: seg.sequence, Offset: h.start, Length: h.end - h.start,
			FirstCommit: h.commit.number, LastCommit: h.commit.number, Messages: refused,
			class: woundNumbers, wound: numbersWound(h.commit.head(), refused), sound: true,
			Reason: "message numbers that were given before"})
	}
	if w.applied != nil {
		w.applied(h, refused)
	}
}

// end closes a segment. What follows the last commit of the last one is room, if it does not
// mention the segment, and else a torn tail. In any other segment it is damage.
func (w *walker) end(f durable.File, seg *segment, size int64, last bool) error {
	records, skipped := w.records, w.skipped
	w.records, w.skipped = nil, false
	if last {
		w.checkMarks(seg)
		return w.endLast(f, seg, size)
	}
	w.settle() // it was durable, or no other segment would have been begun
	w.checkMarks(seg)
	if len(records) > 0 || skipped {
		w.report(Damage{File: seg.name, Segment: seg.sequence, Offset: w.start, Length: size - w.start,
			Reason: "the segment does not end with a commit"})
	}
	seg.after = w.chain.state
	seg.walked = seg.walked || !w.chain.known // an index file has the keys in force
	if w.sealed != nil && w.err == nil && !seg.dirty && !seg.walked && !w.suspected(seg) {
		w.sealed(seg)
	}
	return nil
}

func (w *walker) endLast(f durable.File, seg *segment, size int64) (err error) {
	seg.size = w.start
	if w.held != nil {
		seg.size, w.held = w.held.start, nil
	}
	mentioned, err := mentions(f, seg.generation, seg.size, size)
	if err != nil {
		return err
	}
	if mentioned {
		w.torn = size - seg.size
	}
	w.size = size
	w.tail, err = readTail(f, seg.size)
	return err
}

// largeFile says what is wrong with a large message's file, if anything.
func (w *walker) largeFile(m *message) string {
	f, err := w.fs.Open(filepath.Join(w.dir, "large", m.fileName()))
	if errors.Is(err, fs.ErrNotExist) {
		return "the file is missing"
	}
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return err.Error()
	}
	if size != m.size {
		return fmt.Sprintf("the file has %d bytes instead of %d", size, m.size)
	}
	if !w.deep {
		return ""
	}
	h := sha256.New()
	if _, err := io.Copy(h, io.NewSectionReader(f, 0, size)); err != nil {
		return err.Error()
	}
	if w.progress != nil {
		w.progress(size)
	}
	if [32]byte(h.Sum(nil)) != m.sha256 {
		return "the file's SHA-256 is not the log's"
	}
	return ""
}

func (w *walker) report(d Damage) {
	if d.Segment != 0 {
		for _, s := range w.files {
			if s.sequence == d.Segment {
				s.dirty = true
			}
		}
	}
	w.damage = append(w.damage, d)
}
