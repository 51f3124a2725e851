package mailbox

import (
	"errors"
	"fmt"
	"io"
	"sync"

	"cmtpd/internal/cmtp"
	"cmtpd/internal/spool"
)

// Of a message that goes out, pieceSize bytes are in memory, twice that where it is verified on
// its way.
const pieceSize = 64 << 10

var pieces = sync.Pool{New: func() any { return new([pieceSize]byte) }}

// maxVerified is how many messages are remembered as verified.
const maxVerified = 64

// Verified are messages that were read once as a whole, and were as they were stored: of these a range
// needs not be read with all of its message again. It belongs to one session. The zero value is empty.
type Verified struct{ ids []spool.ID }

func (v *Verified) has(id spool.ID) bool {
	for _, known := range v.ids {
		if known == id {
			return true
		}
	}
	return false
}

// add forgets the oldest where there are too many.
func (v *Verified) add(id spool.ID) {
	if len(v.ids) == maxVerified {
		v.ids = append(v.ids[:0], v.ids[1:]...)
	}
	v.ids = append(v.ids, id)
}

// A Body is the part of a message that a FETCH has asked for. It has to be closed.
type Body struct {
	message  *spool.Reader
	verified *Verified // where the message is to be noted once it has gone out whole; or nil: it was read before
	small    *[pieceSize]byte
	offset   int64
	size     int64
}

// Size returns how many bytes WriteTo writes.
func (b *Body) Size() int64 { return b.size }

// Message returns which message it is, and whether the part ends where the message does.
func (b *Body) Message() (id spool.ID, ends bool) {
	info := b.message.Info()
	return info.ID, b.offset+b.size == info.Size
}

// Fetch opens what q asks for: ErrNoMessage, ErrOffset, spool.ErrDamaged. What is in the log is verified
// before Fetch returns, and so is a message of which only a part is wanted; another one is
// by WriteTo, before the last piece of it leaves.
func (b *Box) Fetch(q cmtp.FetchQuery, known *Verified) (*Body, error) {
	r, err := b.all.spool.Open(spool.ID(q.Number))
	if errors.Is(err, spool.ErrDamaged) && !b.lists(spool.ID(q.Number)) {
		err = ErrNoMessage // of whom it is that is damaged is nobody else's business
	}
	if errors.Is(err, spool.ErrNotFound) {
		err = ErrNoMessage
	}
	if err != nil {
		return nil, fmt.Errorf("opening message %d: %w", q.Number, err)
	}
	body := &Body{message: r, offset: int64(min(q.Offset, cmtp.MaxNumber))}
	if err := b.prepare(body, &q, known); err != nil {
		body.Close()
		return nil, fmt.Errorf("reading message %d: %w", q.Number, err)
	}
	return body, nil
}

// prepare finds out how much is wanted, and verifies what has to be beforehand.
func (b *Box) prepare(body *Body, q *cmtp.FetchQuery, known *Verified) error {
	info := body.message.Info()
	switch {
	case info.Mailbox != b.id:
		return ErrNoMessage
	case q.Offset > uint64(info.Size):
		return ErrOffset
	}
	body.size = int64(min(q.Length, uint64(info.Size-body.offset)))
	switch {
	case info.Size < pieceSize: // there is room for one byte more, so that the end is seen
		body.small = pieces.Get().(*[pieceSize]byte)
		_, err := io.ReadFull(body.message, body.small[:])
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			err = nil
		}
		return err
	case known.has(info.ID):
		return nil
	case info.Large && body.size == info.Size:
		body.verified = known
		return nil
	}
	buf := pieces.Get().(*[pieceSize]byte)
	defer pieces.Put(buf)
	if _, err := io.CopyBuffer(onlyWriter{io.Discard}, body.message, buf[:]); err != nil {
		return err
	}
	known.add(info.ID)
	return nil
}

// onlyWriter hides that io.Discard has buffers of its own.
type onlyWriter struct{ io.Writer }

// lists reports whether the index has a message in the mailbox, though its record cannot be read.
func (b *Box) lists(id spool.ID) bool {
	if id == 0 {
		return false
	}
	for info := range b.all.spool.ListStarts(b.id, id-1, false, 0) {
		return info.ID == id
	}
	return false
}

// WriteTo writes the part to w. With an error not all of it was written.
func (b *Body) WriteTo(w io.Writer) (int64, error) {
	if b.small != nil {
		n, err := w.Write(b.small[b.offset:][:b.size])
		return int64(n), err
	}
	if b.verified != nil {
		return b.writeVerifying(w)
	}
	buf := pieces.Get().(*[pieceSize]byte)
	defer pieces.Put(buf)
	return io.CopyBuffer(onlyWriter{w}, io.NewSectionReader(b.message, b.offset, b.size), buf[:])
}

// writeVerifying writes a whole message, each piece when the next one was read: so the last one
// stays back until it is known that the message is as it was.
func (b *Body) writeVerifying(w io.Writer) (written int64, err error) {
	held, next := pieces.Get().(*[pieceSize]byte), pieces.Get().(*[pieceSize]byte)
	defer func() {
		pieces.Put(held)
		pieces.Put(next)
	}()
	have := 0
	for {
		n, err := io.ReadFull(b.message, next[:])
		ended := err == io.EOF || err == io.ErrUnexpectedEOF
		if err != nil && !ended {
			return written, err
		}
		if n == 0 { // all is read and verified
			b.verified.add(b.message.Info().ID)
		}
		k, err := w.Write(held[:have])
		if written += int64(k); err != nil || n == 0 {
			return written, err
		}
		held, next, have = next, held, n
	}
}

// Close gives back what the body holds.
func (b *Body) Close() error {
	if b.small != nil {
		pieces.Put(b.small)
		b.small = nil
	}
	return b.message.Close()
}
