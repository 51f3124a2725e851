package spool

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"iter"

	"cmtpd/internal/durable"
)

// lookup finds a message's place.
func (s *Spool) lookup(id ID) (seg *segment, e indexEntry, err error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return nil, e, ErrClosed
	}
	e, ok := s.chain.index.get(id)
	if !ok {
		return nil, e, fmt.Errorf("%w: %s", ErrNotFound, id)
	}
	return s.segments[e.segment], e, nil
}

// readHead reads the head of a message's record, and returns where its data begins.
func readHead(f durable.File, generation uint64, e indexEntry) (m message, data int64, err error) {
	var b [frameSize + maxMessageHead]byte
	n, err := f.ReadAt(b[:], int64(e.offset))
	if err != nil && err != io.EOF {
		return m, 0, err
	}
	fr, _, err := parseFrameHead(b[:n], generation)
	if err == nil && fr.kind != kindMessage && fr.kind != kindLarge {
		err = errFrame
	}
	if err == nil {
		m, err = parseMessage(fr.kind, fr.head)
	}
	if err == nil && m.id != e.id {
		err = errHead
	}
	if err != nil {
		return m, 0, fmt.Errorf("%w: message %s: %w", ErrDamaged, e.id, err)
	}
	return m, int64(e.offset) + int64(frameSize+len(fr.head)), nil
}

func (m *message) info(e indexEntry) Info {
	return Info{ID: e.id, Entry: m.entry, Size: m.size, SHA256: m.sha256, Large: m.large, Commit: e.commit}
}

// Get returns what the log says of a message: ErrNotFound, ErrDamaged.
func (s *Spool) Get(id ID) (Info, error) {
	seg, e, err := s.lookup(id)
	if err != nil {
		return Info{}, err
	}
	f, err := s.fs.Open(seg.path)
	if err != nil {
		return Info{}, err
	}
	defer f.Close()
	m, _, err := readHead(f, seg.generation, e)
	if err != nil {
		s.quarantine(seg, e, err)
		return Info{}, err
	}
	return m.info(e), nil
}

// quarantine takes note of damage that a reader met.
func (s *Spool) quarantine(seg *segment, e indexEntry, err error) {
	if !errors.Is(err, ErrDamaged) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.chain.index.damaged[e.id]; ok {
		return
	}
	s.chain.index.damaged[e.id] = struct{}{}
	d := Damage{File: seg.name, Segment: seg.sequence, Offset: int64(e.offset), FirstCommit: e.commit,
		LastCommit: e.commit, Messages: []ID{e.id}, Reason: err.Error()}
	s.damage = append(s.damage, d)
	s.log.Error("spool is damaged", "damage", d)
}

// Reader reads one message. Read verifies what it delivers: where the message is
// not as it was stored, the end is ErrDamaged and not io.EOF. A Reader is for one
// goroutine at a time, but for ReadAt.
type Reader struct {
	s       *Spool
	seg     *segment
	entry   indexEntry
	info    Info
	file    durable.File
	section *io.SectionReader
	sum     hash.Hash
	err     error
}

// Open opens a message for reading: ErrNotFound, ErrDamaged.
func (s *Spool) Open(id ID) (*Reader, error) {
	seg, e, err := s.lookup(id)
	if err != nil {
		return nil, err
	}
	if s.isDamaged(id) {
		return nil, fmt.Errorf("%w: message %s", ErrDamaged, id)
	}
	r, err := s.openRecord(seg, e)
	if err != nil {
		s.quarantine(seg, e, err)
	}
	return r, err
}

func (s *Spool) openRecord(seg *segment, e indexEntry) (*Reader, error) {
	f, err := s.fs.Open(seg.path)
	if err != nil {
		return nil, err
	}
	m, data, err := readHead(f, seg.generation, e)
	if err == nil && m.large {
		f.Close()
		data = 0
		f, err = s.openLarge(&m)
	}
	if err != nil {
		if f != nil {
			f.Close()
		}
		return nil, err
	}
	return &Reader{s: s, seg: seg, entry: e, info: m.info(e), file: f,
		section: io.NewSectionReader(f, data, m.size), sum: sha256.New()}, nil
}

func (s *Spool) openLarge(m *message) (durable.File, error) {
	f, err := s.fs.Open(s.path("large", m.fileName()))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: message %s: %w", ErrDamaged, m.id, err)
	}
	if err != nil {
		return nil, err // too many open files, say: that is no damage
	}
	size, err := f.Size()
	if err == nil && size != m.size {
		err = fmt.Errorf("%w: message %s: its file has %d bytes instead of %d", ErrDamaged, m.id, size, m.size)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// Info returns what the log says of the message.
func (r *Reader) Info() Info { return r.info }

// Size returns the message's length in bytes.
func (r *Reader) Size() int64 { return r.info.Size }

// Read delivers the message from its beginning. The bytes count as verified once
// io.EOF was returned.
func (r *Reader) Read(p []byte) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	n, err := r.section.Read(p)
	r.sum.Write(p[:n])
	if err == io.EOF {
		err = r.end()
	}
	r.err = err
	return n, err
}

// end judges the message after its last byte.
func (r *Reader) end() error {
	at, _ := r.section.Seek(0, io.SeekCurrent)
	if at == r.info.Size && [32]byte(r.sum.Sum(nil)) == r.info.SHA256 {
		return io.EOF
	}
	err := fmt.Errorf("%w: message %s: its SHA-256 is not the log's", ErrDamaged, r.info.ID)
	r.s.quarantine(r.seg, r.entry, err)
	return err
}

// ReadAt delivers bytes as they are on disk, unverified. Who needs both reads the
// message once to its end first.
func (r *Reader) ReadAt(p []byte, off int64) (int, error) { return r.section.ReadAt(p, off) }

// Close gives the file back.
func (r *Reader) Close() error { return r.file.Close() }

// List yields the messages of a mailbox with numbers above after, ascending, as they
// were when it was called. One that is damaged comes with ErrDamaged and whatever is known of it; the
// list goes on after it. Any other error ends the list.
func (s *Spool) List(mailbox MailboxID, after ID) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		s.mu.RLock()
		places, entries := s.chain.index.list(mailbox, after)
		segments := s.segments
		s.mu.RUnlock()
		s.each(segments, len(places), func(i int) indexEntry { return entries[places[i]] }, yield)
	}
}

// All is List for all mailboxes together.
func (s *Spool) All(after ID) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		s.mu.RLock()
		entries := s.chain.index.all(after)
		segments := s.segments
		s.mu.RUnlock()
		s.each(segments, len(entries), func(i int) indexEntry { return entries[i] }, yield)
	}
}

// each reads the records of n entries, and keeps a segment open while they lie in it.
func (s *Spool) each(segments []*segment, n int, entry func(int) indexEntry, yield func(Info, error) bool) {
	var f durable.File
	var open *segment
	defer func() {
		if f != nil {
			f.Close()
		}
	}()
	for i := range n {
		e := entry(i)
		seg := segments[e.segment]
		if seg != open {
			if f != nil {
				f.Close()
			}
			var err error
			if f, err = s.fs.Open(seg.path); err != nil {
				f = nil
				yield(Info{}, err)
				return
			}
			open = seg
		}
		m, _, err := readHead(f, seg.generation, e)
		if err != nil && !errors.Is(err, ErrDamaged) {
			yield(Info{}, err)
			return
		}
		if err != nil {
			s.quarantine(seg, e, err)
			m = message{}
		} else if s.isDamaged(e.id) {
			err = fmt.Errorf("%w: message %s", ErrDamaged, e.id)
		}
		if !yield(m.info(e), err) {
			return
		}
	}
}

func (s *Spool) isDamaged(id ID) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	_, ok := s.chain.index.damaged[id]
	return ok
}
