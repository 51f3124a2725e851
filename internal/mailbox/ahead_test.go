package mailbox_test

import (
	"bytes"
	"errors"
	"io"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"cmtpd/internal/mailbox"
)

// A source delivers pieces, and ends as it is told to. It fails the test when it is read once it is over.
type source struct {
	t      *testing.T
	left   int
	end    error
	panics bool
	reads  atomic.Int32
	over   atomic.Bool
}

func (s *source) Read(p []byte) (int, error) {
	if s.over.Load() {
		s.t.Error("it is read afterwards")
	}
	s.reads.Add(1)
	n := min(len(p), s.left)
	s.left -= n
	for i := range p[:n] {
		p[i] = byte((s.left + n - i) >> 10)
	}
	switch {
	case n > 0:
		return n, nil
	case s.panics:
		panic("the source is broken")
	}
	return 0, s.end
}

// What a source delivers is used up to its end; of one that says at its end that it is damaged the last piece is not.
func TestAhead(t *testing.T) {
	const piece = mailbox.PieceSize
	damaged := errors.New("damaged")
	for _, size := range []int{0, 1, piece - 1, piece, piece + 1, 3 * piece, 9*piece + 5} {
		for _, end := range []error{io.EOF, damaged} {
			s := &source{t: t, left: size, end: end}
			var got bytes.Buffer
			err := mailbox.Ahead(s, func(b []byte) error {
				got.Write(b)
				return nil
			})
			s.over.Store(true)
			whole, _ := io.ReadAll(&source{t: t, left: size, end: io.EOF})
			switch n := got.Len(); {
			case !bytes.HasPrefix(whole, got.Bytes()):
				t.Errorf("%d bytes, then %v: they are other ones", size, end)
			case end == io.EOF && (err != nil || n != size), end == damaged && (!errors.Is(err, damaged) || n > 0 && n >= size || n < size-2*piece):
				t.Errorf("%d bytes, then %v: %d are used, %v", size, end, n, err)
			}
		}
	}
}

// Who cannot use it is told so, and nothing is read any more then.
func TestAhead_Fails(t *testing.T) {
	full := errors.New("full")
	for _, last := range []int{1, 2, 5} {
		s := &source{t: t, left: 9 * mailbox.PieceSize, end: io.EOF}
		n := 0
		err := mailbox.Ahead(s, func([]byte) error {
			if n++; n == last {
				return full
			}
			return nil
		})
		s.over.Store(true)
		if !errors.Is(err, full) || n != last {
			t.Errorf("%v after %d of %d pieces", err, n, last)
		}
	}
}

// While a piece is used others are read, and no more than there is room for.
func TestAhead_Overlaps(t *testing.T) {
	s := &source{t: t, left: 20 * mailbox.PieceSize, end: io.EOF}
	n := int32(0)
	err := mailbox.Ahead(s, func([]byte) error {
		n++
		for end := time.Now().Add(10 * time.Second); s.reads.Load() < n+2 && n < 18; {
			if time.Now().After(end) {
				return errors.New("nothing is read meanwhile")
			}
			runtime.Gosched()
		}
		if reads := s.reads.Load(); reads > n+2 {
			t.Errorf("%d pieces are read while number %d is used", reads, n)
		}
		return nil
	})
	if err != nil || n != 20 {
		t.Errorf("%d pieces, %v", n, err)
	}
}

// A panic of the reading one is the caller's.
func TestAhead_Panics(t *testing.T) {
	defer func() {
		if p, _ := recover().(string); !strings.Contains(p, "the source is broken") {
			t.Errorf("%v", p)
		}
	}()
	err := mailbox.Ahead(&source{t: t, left: 5 * mailbox.PieceSize, panics: true}, func([]byte) error { return nil })
	t.Errorf("it returns %v", err)
}
