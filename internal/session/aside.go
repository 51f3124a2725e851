package session

import (
	"fmt"
	"runtime/debug"
	"sync"
)

// gatherAt is how many bytes of answers to FETCH are gathered before they are written although more requests have
// been read, and gatherMost how many there can be then. A session has two such buffers at most, one of them being
// written.
const (
	gatherAt   = 3 * flushAt
	gatherMost = gatherAt + flushAt + headRoom // the last one's payload, and its head
	headRoom   = 64                            // more than a reply's head takes
)

var wideBuffers = sync.Pool{New: func() any {
	b := make([]byte, 0, gatherMost)
	return &b
}}

// An aside is what became of a write beside the session.
type aside struct {
	err      error
	panicked any
}

// wide returns the session's buffer with room for an answer to FETCH that has a payload of n bytes.
func (s *session) wide(n int64) *[]byte {
	out := s.buffer()
	if len(*out)+int(n)+headRoom <= cap(*out) {
		return out
	}
	w := wideBuffers.Get().(*[]byte)
	*w = append(*w, *out...)
	giveBack(out)
	s.out = w
	return w
}

// giveBack gives a buffer to who needs one next.
func giveBack(b *[]byte) {
	*b = (*b)[:0]
	switch {
	case cap(*b) <= 2*flushAt:
		buffers.Put(b)
	case cap(*b) == gatherMost:
		wideBuffers.Put(b)
	}
}

// flushAside has the replies gathered so far written by a goroutine, while the session goes on to what
// was asked for next: to encrypt and to send takes about as long as to read and to verify. There is one such
// write at a time, and whoever else writes waits for it in landed.
func (s *session) flushAside() error {
	if err := s.landed(); err != nil {
		return err
	}
	out, pipe, done := s.out, s.pipe, make(chan aside, 1)
	s.out, s.aside = nil, done
	go func() {
		var a aside
		defer func() {
			if p := recover(); p != nil {
				a.panicked = fmt.Sprintf("%v\n%s", p, debug.Stack())
			}
			done <- a
		}()
		_, a.err = pipe.Write(*out)
		giveBack(out)
	}()
	return nil
}

// landed waits until nothing is written aside. It fails when that could not be written.
func (s *session) landed() error {
	if s.aside == nil {
		return nil
	}
	a := <-s.aside
	s.aside = nil
	if a.panicked != nil {
		panic(a.panicked)
	}
	return a.err
}
