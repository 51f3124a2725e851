package spool

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"

	"cmtpd/internal/durable"
)

// place is where a message is, with its segment's file open. The file stays what it is when
// compaction replaces the segment: recycle leaves one alone that somebody reads.
type place struct {
	row
	mark    markRow // the newest
	segment *segment
	file    durable.File
}

// locate finds a message and opens its segment, unless last has it open: then last's file is
// used again, and otherwise closed.
func (s *Spool) locate(id ID, last *place) (p place, err error) {
	err = s.view(func(x *index) error {
		if s.closed {
			return ErrClosed
		}
		seg, r, ok, err := x.get(id)
		if err != nil {
			return err
		}
		if !ok {
			return fmt.Errorf("%w: %s", ErrNotFound, id)
		}
		p = place{row: r, segment: seg}
		if p.mark, err = x.mark(id); err != nil {
			return err
		}
		if last != nil && last.segment == seg {
			p.file = last.file
			return nil
		}
		p.file, err = s.openSegment(seg)
		return err
	})
	err = s.moved(id, err)
	if err == nil && last != nil && last.file != nil && last.file != p.file {
		last.file.Close()
	}
	return p, err
}

// moved says what it means that a segment cannot be opened.
func (s *Spool) moved(id ID, err error) error {
	if s.readOnly && errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: message %s: %w", ErrMoved, id, err)
	}
	return err
}

// readHead reads the head of a message's record, and returns where its data begins.
func (p *place) readHead() (m message, data int64, err error) {
	var b [frameSize + maxMessageHead]byte
	n, err := p.file.ReadAt(b[:], p.offset)
	if err != nil && err != io.EOF {
		return m, 0, err
	}
	return p.parseHead(b[:n])
}

// parseHead is readHead for what was read already.
func (p *place) parseHead(b []byte) (m message, data int64, err error) {
	fr, _, err := parseFrameHead(b, p.segment.generation)
	if err == nil && fr.kind != kindMessage && fr.kind != kindLarge {
		err = errFrame
	}
	if err == nil {
		m, err = parseMessage(fr.kind, fr.head)
	}
	if err == nil && m.id != p.id {
		err = errHead
	}
	if err != nil {
		return m, 0, fmt.Errorf("%w: message %s: %w", ErrDamaged, p.id, err)
	}
	return m, p.offset + int64(frameSize+len(fr.head)), nil
}

// info says what the log does of a message. With ErrDamaged only the mark's keywords are missing.
func (s *Spool) info(m *message, p *place) (Info, error) {
	now, err := s.markedAs(p)
	i := Info{ID: p.id, Entry: m.entry, Size: m.size, SHA256: m.sha256, Large: m.large, Commit: p.commit(),
		Mark: Mark{Flags: now.flags}, Change: now.change}
	if now.keywords != "" {
		i.Mark.Keywords = []byte(now.keywords)
	}
	return i, err
}

// Get returns what the log says of a message: ErrNotFound, ErrDamaged. Where only the keywords of its mark
// are damaged, the rest comes with the error.
func (s *Spool) Get(id ID) (Info, error) {
	p, err := s.locate(id, nil)
	if err != nil {
		return Info{}, err
	}
	defer p.file.Close()
	m, _, err := p.readHead()
	if err != nil {
		return Info{}, s.quarantine(&p, err)
	}
	return s.info(&m, &p)
}

// quarantine takes note of damage that a reader met, and returns err; or ErrNotFound, where
// the message was removed meanwhile.
func (s *Spool) quarantine(p *place, err error) error {
	if !errors.Is(err, ErrDamaged) {
		return err
	}
	if s.readOnly && s.replaced(p.segment) {
		return fmt.Errorf("%w: message %s", ErrMoved, p.id)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	x := s.chain.index
	if x.removed.has(p.id) {
		return fmt.Errorf("%w: %s", ErrNotFound, p.id)
	}
	if _, ok := x.damaged[p.id]; ok {
		return err
	}
	x.damaged[p.id] = struct{}{}
	d := Damage{File: p.segment.name, Segment: p.segment.sequence, Offset: p.offset, FirstCommit: p.commit(),
		LastCommit: p.commit(), Messages: []ID{p.id}, Reason: err.Error()}
	s.damage = append(s.damage, d)
	s.log.Error("spool is damaged", "damage", d)
	if s.readOnly {
		return err
	}
	if distrustErr := s.distrust(x.at(p.id)); distrustErr != nil {
		s.log.Warn("the next start may not see the damage", "error", distrustErr)
	}
	return err
}

// Reader reads one message. Read verifies what it delivers: where the message is
// not as it was stored, the end is ErrDamaged and not io.EOF. A Reader is for one
// goroutine at a time, but for ReadAt.
type Reader struct {
	s       *Spool
	place   place // its file is not used
	info    Info
	file    durable.File
	section *io.SectionReader
	sum     hash.Hash
	err     error
}

// Open opens a message for reading: ErrNotFound, ErrDamaged.
func (s *Spool) Open(id ID) (*Reader, error) {
	if s.isDamaged(id) {
		return nil, fmt.Errorf("%w: message %s", ErrDamaged, id)
	}
	p, err := s.locate(id, nil)
	if err != nil {
		return nil, err
	}
	r, err := s.openRecord(p)
	if err != nil {
		return nil, s.quarantine(&p, err)
	}
	return r, nil
}

func (s *Spool) openRecord(p place) (*Reader, error) {
	f := p.file
	m, data, err := p.readHead()
	if err == nil && m.large {
		f.Close()
		data = 0
		f, err = s.openLarge(&m)
	}
	var info Info
	if err == nil {
		// A damaged mark takes nothing from the message.
		if info, err = s.info(&m, &p); errors.Is(err, ErrDamaged) {
			err = nil
		}
	}
	if err != nil {
		if f != nil {
			f.Close()
		}
		return nil, err
	}
	return &Reader{s: s, place: p, info: info, file: f,
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
	return r.s.quarantine(&r.place, notTheLogs(r.info.ID))
}

func notTheLogs(id ID) error {
	return fmt.Errorf("%w: message %s: its SHA-256 is not the log's", ErrDamaged, id)
}

// ReadAt delivers bytes as they are on disk, unverified. Who needs both reads the
// message once to its end first.
func (r *Reader) ReadAt(p []byte, off int64) (int, error) { return r.section.ReadAt(p, off) }

// Close gives the file back.
func (r *Reader) Close() error { return r.file.Close() }

func (s *Spool) isDamaged(id ID) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	_, ok := s.chain.index.damaged[id]
	return ok
}

func (s *Spool) isDirty(seg *segment) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return seg.dirty
}
