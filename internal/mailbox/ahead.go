package mailbox

import (
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"sync"
)

// Of a message that goes out and is not short, piecesAhead pieces are in memory: of pieceSize bytes each, or of wideSize
// where it is long and fewer than wideMessages others have as much.
const (
	pieceSize    = 64 << 10
	wideSize     = 256 << 10
	piecesAhead  = 3
	wideMessages = 8
)

// A stock is where pieces of one size lie while nobody needs them.
type stock struct {
	size int
	pool sync.Pool // of *[]byte
}

var pieces, widePieces = newStock(pieceSize), newStock(wideSize)

func newStock(size int) *stock {
	return &stock{size, sync.Pool{New: func() any {
		b := make([]byte, size)
		return &b
	}}}
}

func (s *stock) take() *[]byte { return s.pool.Get().(*[]byte) }
func (s *stock) put(b *[]byte) { s.pool.Put(b) }

// Seats are places for messages that go out in wide pieces: handing a piece over costs a good part of reading 64 KiB,
// and memory is what many at once must not have.
type seats chan struct{}

// stock returns where a message of size bytes gets its pieces, and what gives its place back.
func (s seats) stock(size int64) (from *stock, leave func()) {
	if size >= piecesAhead*wideSize {
		select {
		case s <- struct{}{}:
			return widePieces, func() { <-s }
		default:
		}
	}
	return pieces, func() {}
}

// A piece is what was read at once.
type piece struct {
	buf      *[]byte
	n        int
	err      error // io.EOF or io.ErrUnexpectedEOF: it is the last
	panicked any
}

// ahead calls use with all that r delivers, piece by piece, while a goroutine reads what follows: reading a message
// is mostly SHA-256, and using it encryption, so that they take the time of the longer one where a processor is free.
// A piece is used when r has delivered more behind it, or has ended: of what r verifies, nothing is used that it
// takes back at the end. The goroutine is over when ahead returns.
func ahead(r io.Reader, from *stock, use func([]byte) error) error {
	free, full := make(chan *[]byte, piecesAhead), make(chan piece, piecesAhead)
	for range piecesAhead {
		free <- from.take()
	}
	go readAll(r, free, full)
	defer func() {
		close(free)
		for p := range full {
			from.put(p.buf)
		}
		for buf := range free {
			from.put(buf)
		}
	}()
	return useAll(free, full, use)
}

// readAll fills what is free, until r ends or free is closed.
func readAll(r io.Reader, free <-chan *[]byte, full chan<- piece) {
	defer close(full)
	for buf := range free {
		p := piece{buf: buf}
		p.read(r)
		full <- p
		if p.err != nil {
			return
		}
	}
}

// errPanicked: reading has panicked.
var errPanicked = errors.New("reading has failed")

func (p *piece) read(r io.Reader) {
	defer func() {
		if v := recover(); v != nil {
			p.err, p.panicked = errPanicked, fmt.Sprintf("%v\n%s", v, debug.Stack())
		}
	}()
	p.n, p.err = io.ReadFull(r, *p.buf)
}

// useAll uses each piece when the next one is there. A panic of the other goroutine comes out here.
func useAll(free chan<- *[]byte, full <-chan piece, use func([]byte) error) error {
	var held piece
	give := func() error {
		if held.n == 0 {
			return nil
		}
		return use((*held.buf)[:held.n])
	}
	for p := range full {
		var err error
		switch p.err {
		case nil, io.EOF, io.ErrUnexpectedEOF:
			err = give()
		default:
			err = p.err
		}
		if held.buf != nil {
			free <- held.buf // which has room for all
		}
		held = p
		if p.panicked != nil {
			panic(p.panicked)
		}
		if err != nil {
			free <- held.buf
			return err
		}
	}
	err := give()
	free <- held.buf
	return err
}
