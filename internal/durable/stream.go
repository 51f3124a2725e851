package durable

import (
	"errors"
	"sync"
	"unsafe"
)

// StreamBuffer is the memory that a Stream takes, in bytes.
const StreamBuffer = 256 << 10

// directAlign is what memory, offset and length of a write past the page cache are multiples
// of, in bytes.
const directAlign = 4 << 10

// A Stream writes a file from its beginning, in whole buffers that go past the page cache
// where the file system lets them: it spares a large file's bytes a copy, and the rest of the
// cache being pushed out by what nobody will read soon. It flushes nothing. It is for one
// goroutine.
type Stream struct {
	file   File
	buf    *streamBuffer
	used   int
	offset int64
	direct bool
}

type streamBuffer [StreamBuffer]byte

var streamBuffers = sync.Pool{New: func() any {
	raw := make([]byte, StreamBuffer+directAlign)
	skip := -int(uintptr(unsafe.Pointer(&raw[0]))) & (directAlign - 1)
	return (*streamBuffer)(raw[skip : skip+StreamBuffer])
}}

// NewStream begins a file. Finish or Abort must be called.
func NewStream(f File) *Stream {
	return &Stream{file: f, buf: streamBuffers.Get().(*streamBuffer), direct: f.Direct(true) == nil}
}

// Write appends p.
//
//	pwrite  a whole buffer
func (s *Stream) Write(p []byte) (n int, err error) {
	for len(p) > 0 {
		k := copy(s.buf[s.used:], p)
		p, s.used, n = p[k:], s.used+k, n+k
		if s.used < StreamBuffer {
			break
		}
		if err := s.write(s.buf[:]); err != nil {
			return n, err
		}
		s.used = 0
	}
	return n, nil
}

// Finish writes what is left. The file is an ordinary one from then on.
//
//	pwrite  as much as is aligned
//	pwrite  the rest
func (s *Stream) Finish() error {
	aligned := s.used &^ (directAlign - 1)
	rest := s.buf[aligned:s.used]
	err := s.write(s.buf[:aligned])
	err = errors.Join(err, s.ordinary())
	if err == nil {
		err = s.write(rest)
	}
	s.Abort()
	return err
}

// Abort gives the memory back and writes nothing. After Finish it does nothing.
func (s *Stream) Abort() {
	if s.buf != nil {
		streamBuffers.Put(s.buf)
		s.buf, s.used = nil, 0
	}
}

func (s *Stream) ordinary() error {
	if !s.direct {
		return nil
	}
	s.direct = false
	return s.file.Direct(false)
}

// write writes b at the end. Some file systems let a file be set so, and refuse the first write.
func (s *Stream) write(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	n, err := s.file.WriteAt(b, s.offset)
	if s.direct && n == 0 && isUnaligned(err) {
		if err = s.ordinary(); err == nil {
			n, err = s.file.WriteAt(b, s.offset)
		}
	}
	s.offset += int64(n)
	return err
}
