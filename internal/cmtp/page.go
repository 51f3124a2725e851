package cmtp

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// An Entry is what a server says of a message, or, with Removed, that it is gone
// (docs/protocol.md section 26.3). What is behind Change is zero then.
type Entry struct {
	Number   uint64
	Change   uint64 // number of its newest change
	Removed  bool
	Arrived  uint64 // seconds since 1970
	Length   uint64 // of the message in bytes
	SHA256   [32]byte
	Standing Standing
	Flags    uint32
	Keywords []byte  // sealed; at most MaxKeywords
	Header   *Header // nil where the message is damaged
}

// removedEntry is the length in bytes of the shortest entry.
const removedEntry = 1 + 8 + 8

// Append appends the entry as it stands in an answer.
func (e *Entry) Append(dst []byte) []byte {
	be := binary.BigEndian
	there := byte(1)
	if e.Removed {
		there = 0
	}
	dst = be.AppendUint64(be.AppendUint64(append(dst, there), e.Number), e.Change)
	if e.Removed {
		return dst
	}
	dst = be.AppendUint64(be.AppendUint64(dst, e.Arrived), e.Length)
	dst = append(append(dst, e.SHA256[:]...), byte(e.Standing))
	dst = append(be.AppendUint32(dst, e.Flags), byte(len(e.Keywords)))
	dst = append(dst, e.Keywords...)
	at := len(dst)
	dst = append(dst, 0, 0)
	if e.Header != nil {
		dst = e.Header.Append(dst)
		be.PutUint16(dst[at:], uint16(len(dst)-at-2))
	}
	return dst
}

// ParseHeader reads the header of a message, all of b or the beginning of it, and returns its
// length in bytes.
func ParseHeader(b []byte) (h Header, n int, err error) {
	src := bytes.NewReader(b)
	h, _, err = readHeader(src)
	return h, len(b) - src.Len(), err
}

// A Page is what LIST, CHANGES and WAIT answer.
type Page struct {
	Epoch   Epoch
	Next    uint64 // change number to go on from
	More    bool   // more entries follow
	Entries []Entry
}

// Append appends the page as it stands in the answer.
func (p *Page) Append(dst []byte) []byte {
	dst = AppendPageHead(dst, p.Epoch, p.Next, p.More)
	for i := range p.Entries {
		dst = p.Entries[i].Append(dst)
	}
	return dst
}

// AppendPageHead appends what stands before the entries of a page.
func AppendPageHead(dst []byte, e Epoch, next uint64, more bool) []byte {
	dst = binary.BigEndian.AppendUint64(append(dst, e[:]...), next)
	if more {
		return append(dst, 1)
	}
	return append(dst, 0)
}

// ParseList reads the answer to a LIST, and holds it to what was asked. Its error, as that
// of ParseChanges, wraps ErrReply.
func ParseList(b []byte, q ListQuery) (*Page, error) {
	p, err := parsePage(b, q.Count)
	if err != nil {
		return nil, err
	}
	last := q.Number
	for i := range p.Entries {
		e := &p.Entries[i]
		if e.Removed || q.Down && e.Number >= last || !q.Down && e.Number <= last {
			return nil, fmt.Errorf("%w: message %d in a list that has come to %d", ErrReply, e.Number, last)
		}
		last = e.Number
	}
	return p, nil
}

// ParseChanges reads the answer to a CHANGES, or to the WAIT that is answered as it. The
// caller compares the epoch, and Next with the change number that it gave: where either is not
// as it was, or lower, the answer is one from 0.
func ParseChanges(b []byte, q ChangesQuery) (*Page, error) {
	p, err := parsePage(b, q.Count)
	if err != nil {
		return nil, err
	}
	last := q.Change
	if p.Epoch != q.Epoch || p.Next < q.Change {
		last = 0
	}
	for i := range p.Entries {
		c := p.Entries[i].Change
		if c <= last || c > p.Next {
			return nil, fmt.Errorf("%w: change %d between %d and %d", ErrReply, c, last, p.Next)
		}
		last = c
	}
	return p, nil
}

func parsePage(b []byte, most uint32) (*Page, error) {
	if len(b) > MaxPage {
		return nil, fmt.Errorf("%w: a page of %d bytes, at most %d are allowed", ErrReply, len(b), MaxPage)
	}
	p := formParser{rest: b}
	page := &Page{Epoch: p.epoch(), Next: p.uint64("a change number")}
	more := p.byte("a flag")
	page.More = more == 1
	if more > 1 || page.Next == 0 || page.Next > MaxNumber {
		p.refuse("change number %d and a flag of %d", page.Next, more)
	}
	page.Entries = make([]Entry, 0, min(int(most), len(p.rest)/removedEntry))
	for p.err == nil && len(p.rest) > 0 {
		if len(page.Entries) == int(most) {
			p.refuse("more than the %d entries that were asked for", most)
			break
		}
		page.Entries = append(page.Entries, p.entry())
	}
	if page.More && len(page.Entries) == 0 {
		p.refuse("more is to follow nothing")
	}
	if err := p.lie(); err != nil {
		return nil, err
	}
	return page, nil
}

// entry reads the next entry.
func (p *formParser) entry() (e Entry) {
	there := p.byte("a flag")
	e = Entry{Number: p.uint64("a number"), Change: p.uint64("a change number"), Removed: there == 0}
	if there > 1 || e.Number == 0 || e.Number > MaxNumber || e.Change == 0 || e.Change > MaxNumber {
		p.refuse("message %d, change number %d, and a flag of %d", e.Number, e.Change, there)
	}
	if e.Removed {
		return e
	}
	e.Arrived, e.Length = p.uint64("a time"), p.uint64("a length")
	copy(e.SHA256[:], p.take(len(e.SHA256), "a digest"))
	e.Standing, e.Flags = Standing(p.byte("a standing")), p.uint32("flags")
	e.Keywords = p.keywords(p.byte("a length"))
	header := p.take(int(p.uint16("a length")), "a header")
	if e.Arrived > maxTime || e.Length > MaxNumber || e.Flags > UserFlags {
		p.refuse("a message of %d bytes that came at %d, with flags of %#x", e.Length, e.Arrived, e.Flags)
	}
	if p.err == nil && len(header) > 0 {
		h, n, err := ParseHeader(header)
		if err != nil || n != len(header) {
			p.refuse("a header of %d bytes, of which %d are one: %v", len(header), n, err)
		}
		e.Header = &h
	}
	return e
}
