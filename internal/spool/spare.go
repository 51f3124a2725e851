package spool

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"cmtpd/internal/durable"
)

// spare is the file of the segment to come: zero bytes that are on disk. Batches that
// overwrite them need neither blocks nor a length from the file system, so that their flush
// leaves its journal alone. It grows as the newest segment fills, so that it takes no
// bandwidth when there is no mail, and a small spool no more than twice its room. One that is
// not finished in time is used as far as it goes: the rest of its segment is appended.
type spare struct {
	credit  atomic.Int64  // bytes that it may grow by
	wake    chan struct{} // holds a token when there is credit for a chunk
	ctx     context.Context
	cancel  context.CancelFunc
	stopped chan struct{}

	mu        sync.Mutex // held while the file is written, a chunk at a time
	spareFile            // without a file there is no next one either
	next      spareFile  // that recycle had no use for yet
}

type spareFile struct {
	file durable.File
	path string
	size int64 // bytes written and flushed
}

// spareChunk is how much is written between two flushes of a spare. A new segment waits
// for one chunk at most.
const spareChunk = 1 << 20

func (p *spare) init() {
	p.wake, p.stopped = make(chan struct{}, 1), make(chan struct{})
	p.ctx, p.cancel = context.WithCancel(context.Background())
}

func (p *spare) stop() {
	p.cancel()
	<-p.stopped
}

// earn lets the spare grow for n bytes that went to the log, and an eighth more, so that it
// is ready a little before its time.
func (p *spare) earn(n, chunk int64) {
	if p.credit.Add(n+n/8) < chunk {
		return
	}
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// length returns how many bytes there are of it, or of the next one where that is shorter.
func (p *spare) length() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return min(p.size, p.next.size)
}

// take returns the file and goes on to the next.
func (p *spare) take() (f spareFile) {
	f, p.spareFile, p.next = p.spareFile, p.next, spareFile{}
	return f
}

// spareStep is the length of a chunk.
func (s *Spool) spareStep() int64 { return min(spareChunk, s.options.SegmentSize/4) }

// prewrite is the goroutine that writes spares.
func (s *Spool) prewrite() {
	defer close(s.spare.stopped)
	zero := make([]byte, s.spareStep())
	for {
		select {
		case <-s.spare.wake:
		case <-s.spare.ctx.Done():
			return
		}
		for s.spare.ctx.Err() == nil && s.spare.credit.Load() >= int64(len(zero)) {
			s.spare.credit.Add(-int64(len(zero)))
			if err := s.growSpare(zero); err != nil {
				s.log.Warn("the next segment is not written ahead", "error", err)
				s.spare.credit.Store(-s.options.SegmentSize) // not again soon: the disk may be full
			}
		}
	}
}

// growSpare writes one chunk more, and makes the file with the first.
//
//	open       spare/<name>   O_CREAT|O_EXCL
//	pwrite     spare/<name>   zero bytes
//	fdatasync  spare/<name>
func (s *Spool) growSpare(zero []byte) (err error) {
	p := &s.spare
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.size >= s.options.SegmentSize || s.failed() != nil {
		return nil
	}
	if p.file == nil {
		p.path = s.path("spare", durable.RandomName())
		if p.file, err = s.fs.Create(p.path, 0o600); err != nil {
			return err
		}
	}
	zero = zero[:min(int64(len(zero)), s.options.SegmentSize-p.size)]
	if _, err = p.file.WriteAt(zero, p.size); err == nil {
		err = p.file.Sync()
	}
	if err != nil {
		return errors.Join(err, s.dropSpare())
	}
	p.size += int64(len(zero))
	return nil
}

// dropSpare gives the spare up, for the next one if there is one. The caller holds its lock.
func (s *Spool) dropSpare() error {
	return s.removeSpare(s.spare.take())
}

func (s *Spool) removeSpare(f spareFile) error {
	if f.file == nil {
		return nil
	}
	return errors.Join(f.file.Close(), s.fs.Remove(f.path))
}

// takeSpare returns the spare as a segment's file with its header on disk, and where it is;
// nil for none, or where that fails.
//
//	pwrite     spare/<name>   header
//	fdatasync  spare/<name>
func (s *Spool) takeSpare(h *header) (durable.File, string) {
	p := &s.spare
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.size < headerSize {
		return nil, ""
	}
	_, err := p.file.WriteAt(h.append(nil), 0)
	if err == nil {
		err = p.file.Sync()
	}
	if err != nil {
		s.log.Warn("a segment that was written ahead is not used", "error", errors.Join(err, s.dropSpare()))
		return nil, ""
	}
	f := p.take()
	return f.file, f.path
}

// newSegmentFile makes the file of a new segment under its final name and opens it.
//
//	open       tmp/<name>   O_CREAT|O_EXCL   unless there is a spare, which is in spare/
//	pwrite     tmp/<name>   header
//	fdatasync  tmp/<name>
//	rename     tmp/<name>   log/<sequence>.seg
//	fsync      log/
func (s *Spool) newSegmentFile(seg *segment) (durable.File, error) {
	f, from := s.takeSpare(&seg.header)
	if f == nil {
		from = s.path("tmp", durable.RandomName())
		if err := durable.WriteNew(s.fs, from, seg.header.append(nil), 0o600); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrNoRoom, err)
		}
	}
	err := durable.Publish(s.fs, from, seg.path)
	if err == nil && f == nil {
		f, err = s.fs.OpenWrite(seg.path)
	}
	if err != nil && f != nil {
		err = errors.Join(err, f.Close())
	}
	return f, err
}

// cutRoom takes away what the newest segment was given ahead and did not use, before another
// one follows it. It does so even where there seems to be none: a process before may have
// cut it off, and failed to flush that.
//
//	ftruncate  log/<sequence>.seg
//	fdatasync  log/<sequence>.seg
func (s *Spool) cutRoom(newest *segment) error {
	if s.active == nil {
		return nil
	}
	if err := s.active.Truncate(newest.size); err != nil {
		return err
	}
	return s.active.Sync()
}

// mentions says whether a file has a segment's generation anywhere from an offset on. Where
// it has not, there is nothing of the segment: zero bytes, or what an earlier use of the
// blocks has left.
func mentions(f durable.File, generation uint64, offset, size int64) (bool, error) {
	mark := binary.BigEndian.AppendUint64(nil, generation)
	b := make([]byte, min(scanBuffer, max(size-offset, 0)))
	for offset+int64(len(mark)) <= size {
		n := min(int64(len(b)), size-offset)
		if got, err := f.ReadAt(b[:n], offset); int64(got) < n {
			return false, err
		}
		if bytes.Contains(b[:n], mark) {
			return true, nil
		}
		offset += n - int64(len(mark)) + 1
	}
	return false, nil
}
