package mailbox

import (
	"errors"
	"fmt"
	"io"
	"slices"

	"cmtpd/internal/cmtp"
	"cmtpd/internal/spool"
)

// maxVerified is how many messages are remembered as verified.
const maxVerified = 64

// A Reading is what one session has of the messages that it reads. It remembers which ones were read once as a
// whole, and were as they were stored: of these a range needs not be read with all of its message again. And
// it holds what is open for the next one, until Release. The zero value is empty.
type Reading struct {
	verified []spool.ID
	box      spool.MailboxID
	browser  *spool.Browser // of box; or nil
}

// Release gives back what is held for the next message. Who reads calls it before waiting for what
// may take long.
func (r *Reading) Release() {
	if r.browser != nil {
		r.browser.Release()
		r.browser = nil
	}
}

// in returns the browser of a mailbox.
func (r *Reading) in(s Spool, box spool.MailboxID) *spool.Browser {
	if r.browser == nil || r.box != box {
		r.Release()
		r.browser, r.box = s.Browse(box), box
	}
	return r.browser
}

func (r *Reading) has(id spool.ID) bool { return slices.Contains(r.verified, id) }

// add forgets the oldest where there are too many.
func (r *Reading) add(id spool.ID) {
	if len(r.verified) == maxVerified {
		r.verified = slices.Delete(r.verified, 0, 1)
	}
	r.verified = append(r.verified, id)
}

// A Body is the part of a message that a FETCH has asked for. It has to be closed, and is written before the
// next one is asked for.
type Body struct {
	id      spool.ID
	whole   int64         // bytes of the message
	short   []byte        // the part itself, where the message is short
	message *spool.Reader // where it is not
	reading *Reading      // where the message is to be noted once it has gone out whole; or nil: it was read before
	wide    seats         // where it may find a place
	offset  int64
	size    int64
}

// Size returns how many bytes WriteTo writes.
func (b *Body) Size() int64 { return b.size }

// Message returns which message it is, and whether the part ends where the message does.
func (b *Body) Message() (id spool.ID, ends bool) {
	return b.id, b.offset+b.size == b.whole
}

// Fetch opens what q asks for: ErrNoMessage, ErrOffset, spool.ErrDamaged. What is in the log is verified
// before Fetch returns, and so is a message of which only a part is wanted; another one is
// by WriteTo, before the last piece of it leaves.
func (b *Box) Fetch(q cmtp.FetchQuery, reading *Reading) (*Body, error) {
	o, err := reading.in(b.all.spool, b.id).Open(spool.ID(q.Number))
	if errors.Is(err, spool.ErrDamaged) && !b.lists(spool.ID(q.Number)) {
		err = ErrNoMessage // of whom it is that is damaged is nobody else's business
	}
	if errors.Is(err, spool.ErrNotFound) {
		err = ErrNoMessage
	}
	if err != nil {
		return nil, fmt.Errorf("opening message %d: %w", q.Number, err)
	}
	body := &Body{id: o.ID, whole: o.Size, message: o.Reader, wide: b.all.wide, offset: int64(min(q.Offset, cmtp.MaxNumber))}
	if err := body.prepare(&o, &q, reading); err != nil {
		body.Close()
		return nil, fmt.Errorf("reading message %d: %w", q.Number, err)
	}
	return body, nil
}

// prepare finds out how much is wanted, and verifies what has to be beforehand.
func (b *Body) prepare(o *spool.Opened, q *cmtp.FetchQuery, reading *Reading) error {
	if q.Offset > uint64(o.Size) {
		return ErrOffset
	}
	b.size = int64(min(q.Length, uint64(o.Size-b.offset)))
	switch {
	case o.Reader == nil:
		b.short = o.Short[b.offset:][:b.size]
		return nil
	case reading.has(o.ID):
		return nil
	case o.Large && b.size == o.Size:
		b.reading = reading
		return nil
	}
	buf := pieces.take()
	defer pieces.put(buf)
	if _, err := io.CopyBuffer(onlyWriter{io.Discard}, o.Reader, *buf); err != nil {
		return err
	}
	reading.add(o.ID)
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
func (b *Body) WriteTo(w io.Writer) (written int64, err error) {
	switch {
	case b.message == nil:
		n, err := w.Write(b.short)
		return int64(n), err
	case b.reading == nil:
		buf := pieces.take()
		defer pieces.put(buf)
		return io.CopyBuffer(onlyWriter{w}, io.NewSectionReader(b.message, b.offset, b.size), *buf)
	}
	from, leave := b.wide.stock(b.size)
	defer leave()
	err = ahead(b.message, from, func(piece []byte) error {
		n, err := w.Write(piece)
		written += int64(n)
		return err
	})
	if err == nil {
		b.reading.add(b.id)
	}
	return written, err
}

// Close gives back what the body holds.
func (b *Body) Close() error {
	if b.message == nil {
		return nil
	}
	return b.message.Close()
}
