package spool_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"cmtpd/internal/durable/durabletest"
	"cmtpd/internal/spool"
)

const aheadSize = 8 << 10

// newAhead stores until the newest segment is one that was written ahead, with some
// messages in it, and returns the spool open.
func newAhead(tb testing.TB) (*durabletest.FS, spool.Options, *spool.Spool) {
	tb.Helper()
	fsys := durabletest.New()
	o := options(tb)
	o.FS, o.NoSpare, o.SegmentSize = fsys, false, aheadSize
	o.Now = func() time.Time { return time.Unix(1700000000, 0) }
	s := open(tb, "/spool", o)
	for i := range 1000 {
		mustStore(tb, s, box(1), text(i, 500))
		path := newest(tb, fsys)
		if size(tb, fsys, path) == aheadSize && end(tb, fsys, path) < aheadSize/2 && end(tb, fsys, path) > 1000 {
			return fsys, o, s
		}
	}
	tb.Fatal("no segment was written ahead")
	return nil, o, nil
}

// end returns where the zero bytes at a segment's end begin.
func end(tb testing.TB, fsys *durabletest.FS, path string) int64 {
	return int64(len(bytes.TrimRight(contents(tb, fsys, path), "\x00")))
}

func TestSpare_Restart(t *testing.T) {
	fsys, o, s := newAhead(t)
	st, path := s.Stats(), newest(t, fsys)
	s.Close()
	s = open(t, "/spool", o)
	if got := s.Stats(); got.Head != st.Head || got.Messages != st.Messages || got.Damage != 0 {
		t.Errorf("%+v, was %+v", got, st)
	}
	if got := size(t, fsys, path); got != aheadSize {
		t.Errorf("the start cut what was written ahead: %d bytes", got)
	}
	mustStore(t, s, box(1), []byte("on"))
	r, err := spool.Verify(ctx, fsys, "/spool", o.Identity.Public(), nil, s.Head())
	if err := errors.Join(err, r.Err()); err != nil || r.Torn != 0 {
		t.Errorf("%d bytes torn, %v", r.Torn, err)
	}
}

// What an earlier use of a file has left behind the last commit means nothing. In a segment that
// another follows there must be nothing behind it.
func TestSpare_Stale(t *testing.T) {
	fsys, o, s := newAhead(t)
	st := s.Stats()
	s.Close()
	path, old := newest(t, fsys), segments(t, fsys, "/spool")[0]
	room := contents(t, fsys, path)[end(t, fsys, path):]
	if copy(room, contents(t, fsys, old)) < len(room)/2 {
		t.Fatal("the old segment is too short")
	}
	replace(t, fsys, path, append(contents(t, fsys, path)[:aheadSize-len(room)], room...))
	s = open(t, "/spool", o)
	if got := s.Stats(); got.Head != st.Head || got.Messages != st.Messages || got.Damage != 0 {
		t.Errorf("%+v, was %+v", got, st)
	}
	if size(t, fsys, path) != aheadSize {
		t.Error("the start cut what was written ahead")
	}
	mustStore(t, s, box(1), []byte("on"))
	head := s.Head()
	s.Close()
	r, err := spool.Verify(ctx, fsys, "/spool", o.Identity.Public(), nil, head)
	if err := errors.Join(err, r.Err()); err != nil || r.Torn != 0 {
		t.Errorf("%d bytes torn, %v", r.Torn, err)
	}
	replace(t, fsys, old, append(contents(t, fsys, old), 0))
	r, err = spool.Verify(ctx, fsys, "/spool", o.Identity.Public(), nil)
	if err != nil || len(r.Damage) != 1 || !strings.Contains(r.Damage[0].String(), "end with a commit") {
		t.Errorf("%v, %v", r.Damage, err)
	}
}

// TestSpare_TornTail leaves every length of the last batch before room, as a crash may, and
// every length of its beginning missing.
func TestSpare_TornTail(t *testing.T) {
	fsys, o, s := newAhead(t)
	path := newest(t, fsys)
	before, head, messages := end(t, fsys, path), s.Head(), s.Stats().Messages
	mustStore(t, s, box(1), text(5000, 300))
	s.Close()
	if newest(t, fsys) != path {
		t.Fatal("the segment was full")
	}
	whole := contents(t, fsys, path)
	after := end(t, fsys, path)
	for n := before; n < after; n++ {
		for _, late := range []bool{false, true} {
			b := bytes.Clone(whole)
			if late && n > before {
				clear(b[before:n])
			} else {
				clear(b[n:])
			}
			replace(t, fsys, path, b)
			s, err := spool.Open("/spool", o)
			if err != nil {
				t.Fatal(err)
			}
			if got := s.Stats(); got.Messages != messages || got.Damage != 0 || got.Head != head {
				t.Fatalf("%d, %v: %+v, %v", n, late, got, s.Damage())
			}
			s.Close()
		}
	}
}

// One who reads room, and behind it what was stored meanwhile, has met no damage.
func TestVerify_Room(t *testing.T) {
	fsys := durabletest.New()
	o := options(t)
	o.FS, o.SegmentSize, o.NoSpare = fsys, 4<<20, true
	s := open(t, "/spool", o)
	mustStore(t, s, box(1), text(0, 500))
	room, err := fsys.OpenWrite(newest(t, fsys))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(room.Truncate(4<<20), room.Close()); err != nil {
		t.Fatal(err)
	}
	p := &pausing{FS: fsys, path: newest(t, fsys), bytes: 1 << 20, paused: make(chan struct{}), goOn: make(chan struct{})}
	done := make(chan error)
	go func() {
		r, err := spool.Verify(ctx, p, "/spool", o.Identity.Public(), nil)
		done <- errors.Join(err, r.Err())
	}()
	<-p.paused
	for i := range 15 {
		mustStore(t, s, box(1), text(i+1, 200<<10))
	}
	close(p.goOn)
	if err := <-done; err != nil {
		t.Error(err)
	}
}
