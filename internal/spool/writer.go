package spool

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"math/bits"
	"sync"
	"sync/atomic"
	"syscall"

	"cmtpd/internal/durable"
)

// budget bounds what all writers together hold in memory, in bytes.
type budget struct {
	limit int64
	used  atomic.Int64
}

func (b *budget) take(n int64) bool {
	if b.used.Add(n) <= b.limit {
		return true
	}
	b.used.Add(-n)
	return false
}

func (b *budget) give(n int64) { b.used.Add(-n) }

// Chunks double from minChunk to maxChunk, so that a message wastes at most half
// of what it takes, and none is ever copied to grow.
const (
	minChunk = 4 << 10
	maxChunk = 64 << 10
)

type chunk struct {
	buf  []byte
	used int
}

var chunkPools [5]sync.Pool // minChunk << i

func chunkPool(size int) *sync.Pool { return &chunkPools[bits.Len(uint(size/minChunk))-1] }

// Writer takes one message, as its bytes arrive. It is for one goroutine at a time.
// A small message stays in memory while the spool's budget lasts, any other goes
// to a temporary file.
type Writer struct {
	s      *Spool
	sum    hash.Hash
	crc    uint32
	size   int64
	chunks []*chunk
	file   durable.File
	name   string // of file, in tmp/
	offset int64  // bytes written to file
	err    error  // sticky
}

// NewWriter begins a message. It takes nothing that Commit or Abort would have to
// give back before the first Write.
func (s *Spool) NewWriter() *Writer {
	return &Writer{s: s, sum: sha256.New()}
}

// Write appends to the message. After an error the message can only be aborted.
func (w *Writer) Write(p []byte) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	if w.s.readOnly {
		w.err = ErrReadOnly
		return 0, w.err
	}
	w.sum.Write(p)
	w.crc = crc32.Update(w.crc, castagnoli, p)
	w.size += int64(len(p))
	written := 0
	for written < len(p) {
		n, err := w.store(p[written:])
		written += n
		if err != nil {
			w.err = fmt.Errorf("spool: %w", err)
			return written, w.err
		}
	}
	return written, nil
}

// store takes at least one byte of p into memory or the file.
func (w *Writer) store(p []byte) (int, error) {
	if w.file == nil && w.size >= w.s.options.LargeThreshold {
		if err := w.spill(); err != nil {
			return 0, err
		}
	}
	if n := len(w.chunks); n > 0 {
		if c := w.chunks[n-1]; c.used < len(c.buf) {
			k := copy(c.buf[c.used:], p)
			c.used += k
			return k, nil
		}
		if w.file != nil {
			// The one chunk that is left gathers small writes.
			return 0, w.flush()
		}
	}
	if w.file == nil {
		if w.grow() {
			return 0, nil
		}
		return 0, w.spill()
	}
	n, err := w.file.WriteAt(p, w.offset)
	w.offset += int64(n)
	return n, err
}

// grow adds a chunk, if the budget allows.
func (w *Writer) grow() bool {
	held := 0
	for _, c := range w.chunks {
		held += len(c.buf)
	}
	size := min(max(held, minChunk), maxChunk)
	if !w.s.budget.take(int64(size)) {
		return false
	}
	c, _ := chunkPool(size).Get().(*chunk)
	if c == nil {
		c = &chunk{buf: make([]byte, size)}
	}
	w.chunks = append(w.chunks, c)
	return true
}

// free gives chunks back, down to the last n.
func (w *Writer) free(n int) {
	for len(w.chunks) > n {
		c := w.chunks[0]
		w.chunks = w.chunks[1:]
		w.s.budget.give(int64(len(c.buf)))
		c.used = 0
		chunkPool(len(c.buf)).Put(c)
	}
}

// spill moves the message to a temporary file and keeps one chunk, if it has any.
func (w *Writer) spill() (err error) {
	w.name = durable.RandomName()
	if w.file, err = w.s.fs.Create(w.s.path("tmp", w.name), 0o600); err != nil {
		return err
	}
	err = w.flush()
	w.free(1)
	return err
}

// flush writes all chunks to the file.
func (w *Writer) flush() error {
	for _, c := range w.chunks {
		n, err := w.file.WriteAt(c.buf[:c.used], w.offset)
		w.offset += int64(n)
		if err != nil {
			return err
		}
		c.used = 0
	}
	return nil
}

// Commit stores the message. When it returns without an error the message is durable,
// or, with Stored.Duplicate, an earlier copy in the same mailbox is. When it returns ctx's
// error, or that of an option or a full disk, nothing of the message is stored; after ErrFailed that shows at
// the next Open. The Writer is finished either way.
func (w *Writer) Commit(ctx context.Context, e Entry) (Stored, error) {
	defer w.Abort()
	r, err := w.prepare(ctx, e)
	if err != nil {
		return Stored{}, err
	}
	if w.size >= w.s.options.LargeThreshold {
		return w.commitLarge(ctx, r)
	}
	return w.s.submit(ctx, r)
}

// Submit is Commit for who has more to do meanwhile: what Commit would return, Pending.Wait
// does, and must be called. Messages join the log in the order in which they were submitted. One that
// lies in a file, since it is long or memory is short, is committed before Submit returns, so what is
// under way is within MemoryBudget and holds no files.
func (w *Writer) Submit(e Entry) *Pending {
	if w.file != nil {
		stored, err := w.Commit(context.Background(), e)
		return &Pending{answer: answer{stored, err}}
	}
	r, err := w.prepare(context.Background(), e)
	if err != nil {
		w.Abort()
		return &Pending{answer: answer{err: err}}
	}
	held := *w // from here on the committer's
	w.chunks, w.err = nil, ErrDone
	r.writer = &held
	if err := w.s.queue.put(r); err != nil {
		held.Abort()
		return &Pending{answer: answer{err: err}}
	}
	return &Pending{request: r}
}

// Pending is a message that was submitted. It is for one goroutine at a time.
type Pending struct {
	request *request // nil once there is an answer
	answer  answer
}

// Ready reports whether Wait would return at once.
func (p *Pending) Ready() bool { return p.request == nil || len(p.request.answer) > 0 }

// Wait returns what Commit would, once that is known.
func (p *Pending) Wait() (Stored, error) {
	if p.request != nil {
		p.answer = <-p.request.answer
		p.request.writer.Abort()
		p.request = nil
	}
	return p.answer.stored, p.answer.err
}

// prepare makes the request, and gathers in the file what belongs there.
func (w *Writer) prepare(ctx context.Context, e Entry) (*request, error) {
	if w.err != nil {
		return nil, w.err
	}
	if e.Mailbox == (MailboxID{}) || len(e.From) > maxFrom {
		return nil, ErrEntry
	}
	if w.s.readOnly {
		return nil, ErrReadOnly
	}
	if err := errors.Join(ctx.Err(), w.s.failed()); err != nil {
		return nil, err
	}
	if e.Received.IsZero() {
		e.Received = w.s.options.Now()
	}
	r := &request{writer: w, crc: w.crc, answer: make(chan answer, 1), message: message{entry: e, size: w.size}}
	w.sum.Sum(r.message.sha256[:0])
	if w.file != nil {
		if err := w.flush(); err != nil {
			return nil, fmt.Errorf("spool: %w", err)
		}
		w.free(0)
	}
	return r, nil
}

// commitLarge makes the file's bytes durable and gives it its final name, then has a record
// name it. The committer makes the names of all large messages of its batch durable at once.
//
//	fdatasync  tmp/<name>
//	rename     tmp/<name>   large/<name>
func (w *Writer) commitLarge(ctx context.Context, r *request) (Stored, error) {
	s := w.s
	if stored, ok, err := s.known(&r.message.entry); ok || err != nil {
		return stored, err
	}
	r.message.large = true
	if _, err := hex.Decode(r.message.file[:], []byte(w.name)); err != nil {
		return Stored{}, err
	}
	if err := w.file.Sync(); err != nil {
		return Stored{}, s.fail(err)
	}
	path := s.path("large", w.name)
	if err := s.fs.Rename(s.path("tmp", w.name), path); err != nil {
		// Wherever the file is, no record names it. A full disk may have room again.
		if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
			return Stored{}, fmt.Errorf("spool: %w", err)
		}
		return Stored{}, s.fail(err)
	}
	err := w.file.Close()
	w.file = nil // from here on the log decides what becomes of it
	if err != nil {
		return Stored{}, s.fail(err)
	}
	stored, err := s.submit(ctx, r)
	if stored.Duplicate || (err != nil && !errors.Is(err, ErrFailed)) {
		if err := s.fs.Remove(path); err != nil {
			s.log.Warn("a large file that no record names is left until the next start", "error", err)
		}
	}
	return stored, err
}

// appendTo appends a small message's bytes to dst.
func (w *Writer) appendTo(dst []byte) ([]byte, error) {
	if w.file == nil {
		for _, c := range w.chunks {
			dst = append(dst, c.buf[:c.used]...)
		}
		return dst, nil
	}
	start := len(dst)
	dst = append(dst, make([]byte, w.size)...)
	if n, err := w.file.ReadAt(dst[start:], 0); int64(n) < w.size {
		if err == nil || err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return dst, err
	}
	return dst, nil
}

// Abort gives the message up; nothing of it stays. After Commit, Submit or Abort it does
// nothing, so that it can be deferred.
func (w *Writer) Abort() {
	if w.err == nil {
		w.err = ErrDone
	}
	w.free(0)
	if w.file == nil {
		return
	}
	w.file.Close()
	w.file = nil
	if err := w.s.fs.Remove(w.s.path("tmp", w.name)); err != nil {
		w.s.log.Warn("a temporary file is left until the next start", "error", err)
	}
}
