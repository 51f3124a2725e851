package netbuf

import "sync"

// CopySize is the length in bytes of what Borrow lends.
const CopySize = 32 << 10

var copies = sync.Pool{New: func() any { return new([CopySize]byte) }}

// Borrow lends a buffer for as long as bytes are copied between a connection and something else. What it holds is
// not defined. GiveBack takes it, after which it must not be used.
func Borrow() *[CopySize]byte { return copies.Get().(*[CopySize]byte) }

// GiveBack takes a buffer that Borrow has lent.
func GiveBack(b *[CopySize]byte) { copies.Put(b) }
