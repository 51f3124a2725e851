package spool

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash/crc32"
	"sync"
	"time"
)

// request is a message, a removal or a mark that waits for its commit, or a probe that
// waits for its turn.
type request struct {
	writer  *Writer
	message message
	crc     uint32   // of the message, unless it is large
	removal *removal // nil for a message
	marking *marking // nil for a message
	probe   bool     // asks for nothing
	answer  chan answer
}

type answer struct {
	stored Stored
	err    error
}

// weight is what a request adds to a batch, in bytes.
func (r *request) weight() int64 {
	n := int64(frameSize + maxMessageHead + 32)
	if !r.message.large && r.removal == nil {
		n += r.message.size
	}
	return n
}

// queue holds the requests that no batch has taken yet.
type queue struct {
	mu      sync.Mutex
	waiting []*request
	closed  bool
	wake    chan struct{} // holds a token when the committer has something to do
	drained chan struct{} // closed when the committer has ended
}

func (q *queue) init() {
	q.wake, q.drained = make(chan struct{}, 1), make(chan struct{})
}

func (q *queue) put(r *request) error {
	q.mu.Lock()
	if q.closed {
		q.mu.Unlock()
		return ErrClosed
	}
	q.waiting = append(q.waiting, r)
	q.mu.Unlock()
	q.signal()
	return nil
}

func (q *queue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// withdraw takes a request back; false means that a batch has it.
func (q *queue) withdraw(r *request) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i, w := range q.waiting {
		if w == r {
			q.waiting = append(q.waiting[:i], q.waiting[i+1:]...)
			return true
		}
	}
	return false
}

func (q *queue) close() {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	q.signal()
}

// take waits for requests and appends as many to dst as fit a batch, at least one. It
// returns none when the queue is closed and empty.
func (q *queue) take(dst []*request, limit int64) []*request {
	for {
		q.mu.Lock()
		n, total := 0, int64(0)
		for n < len(q.waiting) && n < maxRecords {
			if total += q.waiting[n].weight(); n > 0 && total > limit {
				break
			}
			n++
		}
		dst = append(dst, q.waiting[:n]...)
		rest := copy(q.waiting, q.waiting[n:])
		clear(q.waiting[rest:])
		q.waiting = q.waiting[:rest]
		closed := q.closed
		q.mu.Unlock()
		if n > 0 || closed {
			return dst
		}
		<-q.wake
	}
}

// batch is what one flush makes durable. Its buffers are used again.
type batch struct {
	buf     []byte
	leaves  []byte
	records []record
	large   bool // it has a large message
	next    ID   // after the batch
	waiting []waiting
	pending map[contentKey]ID // messages in this batch
	removed map[ID]bool       // by this batch
	marked  map[ID]marked     // by this batch
	head    []byte
	changed []BoxChange
}

// waiting is a request whose answer depends on the batch.
type waiting struct {
	request *request
	stored  Stored
}

// add appends a record without data; offsets count from the batch's start.
func (b *batch) add(generation uint64, r record, head []byte, data *request) {
	r.leaf, r.offset, r.place = leaf(r.kind, head), int64(len(b.buf)), uint16(len(b.records))
	size, crc := 0, uint32(0)
	if data != nil {
		size, crc = int(data.message.size), data.crc
	}
	b.buf = appendFrame(b.buf, generation, r.kind, 0, head, size, crc)
	b.leaves = append(b.leaves, r.leaf[:]...)
	b.records = append(b.records, r)
}

// committer is the one goroutine that writes the log. It takes all who wait: one
// alone at once, and those who come during a flush together with the next.
func (s *Spool) committer() {
	defer close(s.queue.drained)
	b := &batch{pending: make(map[contentKey]ID), removed: make(map[ID]bool), marked: make(map[ID]marked)}
	var requests []*request
	for {
		requests = s.queue.take(requests[:0], s.options.BatchSize)
		if len(requests) == 0 {
			return
		}
		if requests = s.answerProbes(requests); len(requests) > 0 {
			s.commit(b, requests)
		}
		clear(requests)
	}
}

// commit makes requests durable and answers each of them.
func (s *Spool) commit(b *batch, requests []*request) {
	err := s.failed()
	if err == nil {
		err = s.makeRoom(requests)
	}
	if err == nil {
		s.fill(b, requests)
		if len(b.records) > 0 {
			err = s.write(b)
		}
	} else {
		b.reset(0)
		for _, r := range requests {
			b.waiting = append(b.waiting, waiting{request: r})
		}
	}
	// Without room for another segment the log is as it was, and may go on later:
	// the process is out of files, or the disk is full.
	if err != nil && !errors.Is(err, ErrNoRoom) {
		err = s.fail(err)
	}
	head := s.Head()
	if err == nil && len(b.records) > 0 && s.options.Changed != nil {
		b.changed = boxChanges(b.changed[:0], b.records)
		s.options.Changed(head.Number, b.changed)
	}
	for _, w := range b.waiting {
		w.stored.Head = head
		if err != nil {
			w.stored = Stored{}
		}
		w.request.answer <- answer{w.stored, err}
	}
	clear(b.waiting)
}

func (b *batch) reset(next ID) {
	b.buf, b.leaves, b.records, b.waiting = b.buf[:0], b.leaves[:0], b.records[:0], b.waiting[:0]
	b.large, b.next = false, next
	clear(b.pending)
	clear(b.removed)
	clear(b.marked)
}

// makeRoom begins a new segment where the newest would become too long, or holds damage that
// a reader has met. A batch longer than a whole segment has one of its own.
func (s *Spool) makeRoom(requests []*request) error {
	seg := s.newest()
	size := seg.size
	if size == headerSize {
		return nil
	}
	if s.isDirty(seg) {
		return s.roll()
	}
	size += frameSize + commitHead
	for _, r := range requests {
		size += r.weight()
	}
	if size <= s.options.SegmentSize {
		return nil
	}
	return s.roll()
}

// fill puts requests into an empty batch. One whose message is known, or whose
// bytes cannot be read back, is answered at once.
func (s *Spool) fill(b *batch, requests []*request) {
	b.reset(s.chain.next)
	generation := s.newest().generation
	for _, r := range requests {
		if r.removal != nil {
			s.fillRemoval(b, generation, r)
			continue
		}
		if r.marking != nil {
			s.fillMark(b, generation, r)
			continue
		}
		key := contentKeyOf(&r.message.entry)
		if id, ok := b.pending[key]; ok {
			b.waiting = append(b.waiting, waiting{r, Stored{ID: id, Duplicate: true}})
			continue
		}
		stored, ok, err := s.known(&r.message.entry)
		if err != nil || (ok && !b.removed[stored.ID]) {
			r.answer <- answer{stored, err}
			continue
		}
		start, leaves := len(b.buf), len(b.leaves)
		r.message.id = b.next
		b.head = r.message.append(b.head[:0])
		var data *request
		if !r.message.large {
			data = r
		}
		b.large = b.large || r.message.large
		b.add(generation, record{kind: r.message.kind(), message: r.message}, b.head, data)
		if data != nil {
			from := len(b.buf)
			var err error
			if b.buf, err = r.writer.appendTo(b.buf); err == nil && crc32.Checksum(b.buf[from:], castagnoli) != r.crc {
				err = ErrDamaged
			}
			if err != nil {
				b.buf, b.leaves, b.records = b.buf[:start], b.leaves[:leaves], b.records[:len(b.records)-1]
				r.answer <- answer{err: fmt.Errorf("spool: reading a message back: %w", err)}
				continue
			}
		}
		b.pending[key] = b.next
		b.waiting = append(b.waiting, waiting{r, Stored{ID: b.next}})
		b.next++
	}
}

// fillRemoval puts a removal into a batch, unless its message is gone already.
func (s *Spool) fillRemoval(b *batch, generation uint64, r *request) {
	there := false
	err := s.view(func(x *index) (err error) {
		_, _, there, err = x.get(r.removal.id)
		return err
	})
	if err == nil && (!there || b.removed[r.removal.id]) {
		err = ErrNotFound
	}
	if err != nil {
		r.answer <- answer{err: err}
		return
	}
	b.removed[r.removal.id] = true
	b.head = r.removal.append(b.head[:0])
	b.add(generation, record{kind: kindRemoval, removal: *r.removal}, b.head, nil)
	b.waiting = append(b.waiting, waiting{request: r})
}

// write seals a batch that is not empty with a commit, makes it durable, and
// applies it.
//
//	fsync      large/                where the batch has a large message
//	pwrite     log/<sequence>.seg   batch and commit
//	fdatasync  log/<sequence>.seg
func (s *Spool) write(b *batch) error {
	began := time.Now()
	seg := s.newest()
	c := commit{
		number: s.chain.head.Number + 1, time: s.options.Now(), next: b.next, count: uint32(len(b.records)),
		leaves: sha256.Sum256(b.leaves), previous: s.chain.head.Hash,
	}
	if c.number > maxCommit || c.next > maxNumber {
		// No reader would take the commit for one.
		return fmt.Errorf("%w: commit %d, message %s; see cmtpd spool verify", ErrNumbers, c.number, c.next)
	}
	c.sign(s.options.Key)
	b.buf = appendFrame(b.buf, seg.generation, kindCommit, 0, c.append(make([]byte, 0, commitHead)),
		len(b.leaves), crc32.Checksum(b.leaves, castagnoli))
	b.buf = append(b.buf, b.leaves...)
	if b.large {
		if err := s.fs.SyncDir(s.path("large")); err != nil {
			return err
		}
	}
	if _, err := s.active.WriteAt(b.buf, seg.size); err != nil {
		return err
	}
	if err := s.active.Sync(); err != nil {
		return err
	}
	if s.options.Flushed != nil {
		s.options.Flushed(len(b.records), time.Since(began))
	}
	for i := range b.records {
		b.records[i].offset += seg.size
	}
	if !s.options.NoSpare {
		s.spare.earn(int64(len(b.buf)), s.spareStep())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	seg.size += int64(len(b.buf))
	if refused := s.chain.apply(&c, seg, b.records); refused != nil {
		panic(fmt.Sprintf("spool: gave message numbers twice: %v", refused))
	}
	return nil
}

// newest returns the segment that batches go to.
func (s *Spool) newest() *segment {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.chain.index.newest()
}

// failed returns ErrFailed, with its cause, once anything failed.
func (s *Spool) failed() error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.failure
}

// fail stops all acknowledgement until the spool was opened again: what the disk
// holds now is known only to recovery.
func (s *Spool) fail(cause error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failure == nil {
		s.failure = fmt.Errorf("%w: %w", ErrFailed, cause)
		s.log.Error("spool has stopped", "error", cause)
	}
	return s.failure
}

// submit queues a message and waits for its answer. Once a batch has it, ctx no
// longer counts: the answer is at most a flush away.
func (s *Spool) submit(ctx context.Context, r *request) (Stored, error) {
	if err := s.queue.put(r); err != nil {
		return Stored{}, err
	}
	return s.await(ctx, r)
}

// await is submit for what is queued already.
func (s *Spool) await(ctx context.Context, r *request) (Stored, error) {
	select {
	case a := <-r.answer:
		return a.stored, a.err
	case <-ctx.Done():
	}
	if s.queue.withdraw(r) {
		return Stored{}, ctx.Err()
	}
	a := <-r.answer
	return a.stored, a.err
}
