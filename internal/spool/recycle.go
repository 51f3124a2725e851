package spool

import (
	"errors"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"sync/atomic"

	"cmtpd/internal/durable"
)

// readersName is the file whose lock readers in other processes share.
const readersName = "readers"

// used is a segment's file that is to become the spare when compaction has freed it, and its
// name in spare/. It keeps its bytes, which carry another generation than the segment to come.
type used struct {
	segment *segment // nil for none
	path    string
}

// reserve gives the longest file of a group that is about to be replaced a name in spare/, if
// nobody here reads it and it is longer than the spare, or the next one, by a chunk or more.
//
//	link  log/<sequence>.seg   spare/<name>
func (s *Spool) reserve(group []*segment) (u used) {
	if !s.recycles || s.options.NoSpare {
		return used{}
	}
	longest := s.spare.length() + s.spareStep()
	for _, seg := range group {
		if n := min(seg.size, s.options.SegmentSize); n >= longest && seg.readers.Load() == 0 && (u.segment == nil || n > longest) {
			u.segment, longest = seg, n
		}
	}
	if u.segment == nil {
		return used{}
	}
	u.path = s.path("spare", durable.RandomName())
	if err := s.fs.Link(u.segment.path, u.path); err != nil {
		s.log.Debug("a segment's file cannot be used again", "segment", u.segment.sequence, "error", errors.Join(err, s.discard(u)))
		return used{}
	}
	return u
}

// discard takes the name in spare/ away.
func (s *Spool) discard(u used) error {
	if u.segment == nil {
		return nil
	}
	err := s.fs.Remove(u.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// recycle makes a file the spare that has no name in log/ any more. It will be written over, so
// nobody may have it open: not this process, whose segments count their readers, nor another one.
// Those share a lock while they read, and who takes it from now on does not find the
// file. Nor may a start find it: so the names of log/ are flushed before, which compaction has done
// unless a name was unlinked since.
//
//	fsync  log/      where a name was unlinked
//	flock  readers   LOCK_EX|LOCK_NB, LOCK_UN
//	(adopt)
func (s *Spool) recycle(u used, unlinked bool) error {
	if u.segment == nil {
		return nil
	}
	if unlinked {
		if err := s.fs.SyncDir(s.path("log")); err != nil {
			return s.fail(err)
		}
	}
	if u.segment.readers.Load() != 0 || !s.unread() {
		return s.left(u, s.discard(u))
	}
	return s.left(u, s.adopt(u.path))
}

// left logs what went wrong with a file that nothing depends on.
func (s *Spool) left(u used, err error) error {
	if err != nil {
		s.log.Warn("a segment's file is not used again, and perhaps left until the next start", "segment", u.segment.sequence, "error", err)
	}
	return nil
}

// unread says whether no other process can have a file open that had its name in log/ before.
func (s *Spool) unread() bool {
	f, err := s.fs.Open(s.path(readersName))
	if err != nil {
		return false // without it they cannot be seen
	}
	f.Close()
	lock, err := s.fs.Lock(s.path(readersName))
	if err != nil {
		return false
	}
	return lock.Close() == nil
}

// adopt makes a file in spare/ the spare where there is none, else the one that comes next, else
// the spare in place of a shorter one. To replace what has begun to grow comes last: its zero bytes would
// have been written for nothing, segment for segment. A new length is durable when the spare is
// flushed next.
//
//	open       spare/<name>   O_RDWR
//	ftruncate  spare/<name>   where it is longer than a segment
//	unlink     spare/<name>   what it replaces
func (s *Spool) adopt(path string) error {
	f, err := s.fs.OpenWrite(path)
	if err != nil {
		return errors.Join(err, s.fs.Remove(path))
	}
	size, err := f.Size()
	if limit := s.options.SegmentSize; err == nil && size > limit {
		size, err = limit, f.Truncate(limit)
	}
	p, file := &s.spare, spareFile{f, path, size}
	p.mu.Lock()
	switch {
	case err != nil || p.ctx.Err() != nil:
	case p.file != nil && size > p.next.size:
		file, p.next = p.next, file
	case size > p.size:
		file, p.spareFile = p.spareFile, file
	}
	p.mu.Unlock()
	return errors.Join(err, s.removeSpare(file))
}

// makeReaders makes the file that readers lock. Where there is a log without it, some may be
// reading already and hold no lock: then nothing is recycled until the next start.
//
//	open  readers   O_CREAT
func (s *Spool) makeReaders() error {
	f, err := s.fs.Open(s.path(readersName))
	if err == nil {
		s.recycles = true
		return f.Close()
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	_, err = s.fs.ReadDir(s.path("log"))
	s.recycles = errors.Is(err, fs.ErrNotExist)
	lock, err := s.fs.Lock(s.path(readersName))
	if err != nil {
		return err
	}
	return lock.Close()
}

// lockShared keeps a writer in another process from writing over files of the log, for as long
// as they are read. A copy, or a medium without locks, has no such writer.
func lockShared(fsys durable.FS, dir string) (io.Closer, error) {
	lock, err := fsys.LockShared(filepath.Join(dir, readersName))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, errors.ErrUnsupported) {
		return noLock{}, nil
	}
	return lock, err
}

type noLock struct{}

func (noLock) Close() error { return nil }

// openSegment opens a segment's file for a reader, whom recycle will see until it closes the
// file. It is called under the lock, with a segment that is not replaced.
func (s *Spool) openSegment(seg *segment) (durable.File, error) {
	f, err := s.fs.Open(seg.path)
	if err != nil {
		return nil, err
	}
	seg.readers.Add(1)
	return &countedFile{File: f, segment: seg}, nil
}

// openFound is openSegment for a segment that was found under the lock a while ago: ErrMoved where
// a compaction has replaced it since.
func (s *Spool) openFound(seg *segment) (durable.File, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if !slices.Contains(s.chain.index.segments, seg) {
		return nil, ErrMoved
	}
	return s.openSegment(seg)
}

// countedFile is a segment's file that somebody reads.
type countedFile struct {
	durable.File
	segment *segment
	closed  atomic.Bool
}

func (f *countedFile) Close() error {
	err := f.File.Close()
	if !f.closed.Swap(true) {
		f.segment.readers.Add(-1)
	}
	return err
}

// replaced says whether a segment's name stands for another file by now, or for none.
func (s *Spool) replaced(seg *segment) bool {
	f, err := s.fs.Open(seg.path)
	if err != nil {
		return errors.Is(err, fs.ErrNotExist)
	}
	defer f.Close()
	var b [headerSize]byte
	if n, err := f.ReadAt(b[:], 0); n < len(b) && err != nil {
		return false
	}
	h, err := parseHeader(b[:])
	return err == nil && h.generation != seg.generation
}
