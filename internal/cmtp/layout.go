package cmtp

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"math"
)

// An Extent is a part of a stored message.
type Extent struct {
	Offset int64 // bytes from the message's beginning
	Length int64 // bytes
}

// Section returns the part's bytes within the message that r holds.
func (e Extent) Section(r io.ReaderAt) *io.SectionReader {
	return io.NewSectionReader(r, e.Offset, e.Length)
}

// A Layout tells where the parts of a stored message are.
type Layout struct {
	Header      Header
	Log         []byte
	Body        Extent
	Attachments []Extent
}

// ParseLayout finds the parts of the message of size bytes that r holds without
// reading them. It refuses a message that does not end exactly at size.
func ParseLayout(r io.ReaderAt, size int64) (*Layout, error) {
	if size < 0 {
		return nil, fmt.Errorf("%w: a size of %d bytes", ErrMessage, size)
	}
	src := bufio.NewReader(io.NewSectionReader(r, 0, size))
	h, raw, err := readHeader(src)
	if err != nil {
		return nil, err
	}
	if err := h.check(math.MaxInt64); err != nil {
		return nil, err
	}
	if least, _ := h.leastSize(); least > uint64(size) {
		return nil, fmt.Errorf("%w: its %d bytes are fewer than the %d that its header asks for", ErrMessage, size, least)
	}
	l := &Layout{Header: h}
	if l.Log, err = readLog(src, h.LogLength); err != nil {
		return nil, err
	}
	l.Body = Extent{int64(len(raw) + len(l.Log)), int64(h.BodyLength)}
	at := l.Body.Offset + l.Body.Length
	b := make([]byte, 8)
	for range h.Attachments {
		if size-at < int64(len(b)) {
			return nil, fmt.Errorf("%w: an attachment begins behind its end", ErrMessage)
		}
		// A whole read may come with io.EOF when it ends where r does.
		if n, err := r.ReadAt(b, at); n < len(b) {
			return nil, fmt.Errorf("reading an attachment's length: %w", cut(err))
		}
		at += int64(len(b))
		length := binary.BigEndian.Uint64(b)
		if err := checkPart(h.System, "sealed attachment", length); err != nil {
			return nil, err
		}
		if length > uint64(size-at) {
			return nil, fmt.Errorf("%w: an attachment ends behind its end", ErrMessage)
		}
		l.Attachments = append(l.Attachments, Extent{at, int64(length)})
		at += int64(length)
	}
	if at != size {
		return nil, fmt.Errorf("%w: %d bytes behind its end", ErrMessage, size-at)
	}
	return l, nil
}

// A Part is a body or an attachment on its way out: Size bytes, written by
// WriteTo.
type Part interface {
	io.WriterTo
	Size() int64
}

// WriteMessage writes one message to w: the header with the lengths that log
// and parts have, then each in turn. An empty log is written as a lone NUL. It
// is not buffered. It writes nothing of what no MessageReader would take, and
// fails when a part writes more or less than its Size was in the beginning.
func WriteMessage(w io.Writer, h Header, log []byte, body Part, attachments []Part) error {
	return writeMessage(w, h, log, body, attachments, nil)
}

// WriteDigested is WriteMessage, and returns the core digest of what it has written
// (docs/protocol.md, Core digest).
func WriteDigested(w io.Writer, h Header, log []byte, body Part, attachments []Part) ([32]byte, error) {
	var core coreDigest
	if err := writeMessage(w, h, log, body, attachments, &core); err != nil {
		return [32]byte{}, err
	}
	return core.sum(), nil
}

// writeMessage writes a message and, unless core is nil, takes its digest on the way.
func writeMessage(w io.Writer, h Header, log []byte, body Part, attachments []Part, core *coreDigest) error {
	if len(log) == 0 {
		log = []byte{0}
	}
	h.LogLength, h.BodyLength = uint64(len(log)), uint64(max(body.Size(), 0))
	h.Attachments = uint32(min(len(attachments), MaxAttachments+1))
	if err := h.check(math.MaxInt64); err != nil {
		return fmt.Errorf("writing a message: %w", err)
	}
	if err := h.checkText(log); err != nil {
		return fmt.Errorf("writing a message: %w", err)
	}
	lengths := make([]uint64, len(attachments))
	for i, a := range attachments {
		lengths[i] = uint64(max(a.Size(), 0))
		if err := checkPart(h.System, "sealed attachment", lengths[i]); err != nil {
			return fmt.Errorf("writing attachment %d: %w", i+1, err)
		}
	}
	header := h.Append(nil)
	parts := w
	if core != nil {
		*core = newCoreDigest(header)
		parts = io.MultiWriter(w, core.part)
	}
	if _, err := w.Write(append(header, log...)); err != nil {
		return fmt.Errorf("writing a message's header: %w", err)
	}
	if err := writePart(parts, body, h.BodyLength); err != nil {
		return fmt.Errorf("writing a message's body: %w", err)
	}
	if core != nil {
		core.endBody()
	}
	for i, a := range attachments {
		if _, err := w.Write(binary.BigEndian.AppendUint64(nil, lengths[i])); err != nil {
			return fmt.Errorf("writing an attachment's length: %w", err)
		}
		if err := writePart(parts, a, lengths[i]); err != nil {
			return fmt.Errorf("writing attachment %d: %w", i+1, err)
		}
		if core != nil {
			core.endAttachment(lengths[i])
		}
	}
	return nil
}

// writePart holds p to the length that the reader was told.
func writePart(w io.Writer, p Part, length uint64) error {
	n, err := p.WriteTo(w)
	if err == nil && (n < 0 || uint64(n) != length) {
		err = fmt.Errorf("%w: a part of %d bytes wrote %d", ErrMessage, length, n)
	}
	return err
}

// MessageSize returns how many bytes WriteMessage writes.
func MessageSize(h Header, log []byte, body Part, attachments []Part) int64 {
	n := int64(h.size()) + max(int64(len(log)), 1) + body.Size()
	for _, a := range attachments {
		n += 8 + a.Size()
	}
	return n
}
