package spool

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"sync"

	"cmtpd/internal/durable"
)

// browseSize is how many bytes of a segment a Browser has in memory: those of many short messages.
const browseSize = 64 << 10

// MaxShort is the length in bytes up to which a Browser reads a message at once, with its record's head.
const MaxShort = browseSize - frameSize - maxMessageHead

var browsed = sync.Pool{New: func() any { return new([browseSize]byte) }}

// A Browser opens messages of one mailbox, one after another, and keeps what the next one will probably need: the
// segment's file, a block of its index, and, where messages lie side by side, what stands beside the last one. So
// many short messages share a system call. All of that is held until Release: compaction makes no spare of the file
// meanwhile. Where each message is, and whether it is there still, is asked of the index each time. A Browser is for one
// goroutine.
type Browser struct {
	s       *Spool
	mailbox MailboxID
	rows    numbers
	segment *segment // whose file is open; nil for none
	file    durable.File
	end     int64 // of what belongs to the log in it: nothing before is written again
	buf     *[browseSize]byte
	at      int64 // buf[:have] stands there in the segment
	have    int
}

// Opened is a message that a Browser has opened: all of it where it has MaxShort bytes or less, and is not in a file
// of its own; of any other a Reader, which has to be closed. Info has no Mark, and as Change the arrival's number.
type Opened struct {
	Info
	Short  []byte // verified; it is valid until the Browser is used again
	Reader *Reader
}

// Browse returns a Browser that holds nothing yet.
func (s *Spool) Browse(mailbox MailboxID) *Browser { return &Browser{s: s, mailbox: mailbox} }

// Release gives back all that b holds. It can be used again.
func (b *Browser) Release() {
	b.leave()
	b.rows = numbers{}
	if b.buf != nil {
		browsed.Put(b.buf)
		b.buf = nil
	}
}

// leave closes the segment.
func (b *Browser) leave() {
	if b.file != nil {
		b.file.Close()
	}
	b.segment, b.file, b.have = nil, nil, 0
}

// Open opens a message: ErrNotFound, also where another mailbox has it, ErrDamaged. For one that is not short b gives
// back what it holds.
func (b *Browser) Open(id ID) (o Opened, err error) {
	p, err := b.locate(id)
	if err != nil {
		return o, err
	}
	m, data, err := b.readHead(&p)
	if err != nil {
		return o, b.s.quarantine(&p, err)
	}
	if m.entry.Mailbox != b.mailbox {
		return o, fmt.Errorf("%w: %s", ErrNotFound, id)
	}
	if m.large || m.size > MaxShort {
		return b.long(p)
	}
	if o.Info, err = b.s.info(&m, &p); err != nil {
		return o, err
	}
	if o.Short, err = b.bytes(data, int(m.size)); err != nil {
		return o, err
	}
	if int64(len(o.Short)) != m.size || sha256.Sum256(o.Short) != m.sha256 {
		return Opened{}, b.s.quarantine(&p, notTheLogs(id))
	}
	return o, nil
}

// long makes b's file the Reader's.
func (b *Browser) long(p place) (o Opened, err error) {
	b.file = nil
	b.Release()
	if o.Reader, err = b.s.openRecord(p); err != nil {
		return o, b.s.quarantine(&p, err)
	}
	o.Info = o.Reader.Info()
	return o, nil
}

// locate finds a message that is not known to be damaged, and opens its segment unless it is open. It does not ask for
// marks: of those a reader of messages has no need.
func (b *Browser) locate(id ID) (p place, err error) {
	err = b.s.view(func(x *index) error {
		if b.s.closed {
			return ErrClosed
		}
		if _, bad := x.damaged[id]; bad {
			return fmt.Errorf("%w: message %s", ErrDamaged, id)
		}
		seg, r, ok, err := x.near(id, &b.rows)
		if err != nil {
			return err
		}
		if !ok {
			return fmt.Errorf("%w: %s", ErrNotFound, id)
		}
		if seg != b.segment {
			b.leave()
			if b.file, err = b.s.openSegment(seg); err != nil {
				return b.s.moved(id, err)
			}
			b.segment = seg
		}
		b.end = seg.size
		p = place{row: r, segment: seg, file: b.file}
		return nil
	})
	return p, err
}

// readHead is place.readHead, which reads a short message's data with its head.
func (b *Browser) readHead(p *place) (m message, data int64, err error) {
	n := frameSize + maxMessageHead
	if !p.large && p.size <= MaxShort {
		n += int(p.size)
	}
	head, err := b.bytes(p.offset, n)
	if err != nil {
		return m, 0, err
	}
	return p.parseHead(head)
}

// bytes returns n bytes of the segment from an offset on, or as many as the log has there. They are valid until the
// next call.
func (b *Browser) bytes(from int64, n int) ([]byte, error) {
	n = int(max(0, min(int64(n), b.end-from)))
	if from < b.at || from+int64(n) > b.at+int64(b.have) {
		if err := b.read(from, n); err != nil {
			return nil, err
		}
	}
	if n = min(n, int(b.at)+b.have-int(from)); n <= 0 {
		return nil, nil
	}
	return b.buf[from-b.at:][:n], nil
}

// read reads n bytes from an offset on: as many as there is room for behind it, or where the last ones were behind it
// before it, if they were read from not far away.
func (b *Browser) read(from int64, n int) error {
	to := from + int64(n)
	if b.have > 0 {
		switch behind := b.at + int64(b.have); {
		case from >= b.at && from <= behind+browseSize:
			to = min(from+browseSize, b.end)
		case from < b.at && to >= b.at-browseSize:
			from = max(headerSize, to-browseSize)
		}
	}
	if b.buf == nil {
		b.buf = browsed.Get().(*[browseSize]byte)
	}
	have, err := b.file.ReadAt(b.buf[:to-from], from)
	b.at, b.have = from, have
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return err
}
