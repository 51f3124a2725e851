package spool_test

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"cmtpd/internal/durable"
	"cmtpd/internal/durable/durabletest"
	"cmtpd/internal/spool"
)

// A readingFS counts what is read.
type readingFS struct {
	durable.FS
	opened, closed, read atomic.Int64
}

func (r *readingFS) Open(path string) (durable.File, error) {
	f, err := r.FS.Open(path)
	if err != nil || !strings.Contains(path, "/log/") && !strings.Contains(path, "/index/") {
		return f, err
	}
	r.opened.Add(1)
	return &readingFile{f, r}, nil
}

type readingFile struct {
	durable.File
	of *readingFS
}

func (f *readingFile) ReadAt(p []byte, off int64) (int, error) {
	f.of.read.Add(1)
	return f.File.ReadAt(p, off)
}

func (f *readingFile) Close() error {
	f.of.closed.Add(1)
	return f.File.Close()
}

// browse opens a message, and returns its bytes.
func browse(b *spool.Browser, id spool.ID) ([]byte, error) {
	o, err := b.Open(id)
	if err != nil || o.Reader == nil {
		return o.Short, err
	}
	defer o.Reader.Close()
	return io.ReadAll(o.Reader)
}

// shelf is a spool with as many messages of 600 bytes in one mailbox, most of them in segments with an index file, and
// other mailboxes' between them.
func shelf(tb testing.TB, n int) (l *library, s *spool.Spool, fsys *readingFS, ids []spool.ID) {
	tb.Helper()
	l = &library{fs: durabletest.New(), options: options(tb), data: make(map[spool.ID][]byte)}
	fsys = &readingFS{FS: l.fs}
	l.options.FS, l.options.SegmentSize, l.options.CompactRate, l.options.NoSpare = fsys, 128<<10, -1, true
	s = open(tb, "/spool", l.options)
	for i := range n {
		text := text(i, 600)
		id := mustStore(tb, s, box(1), text).ID
		ids, l.data[id] = append(ids, id), text
		if i%10 == 0 {
			l.data[mustStore(tb, s, box(2), text).ID] = text
		}
	}
	s.Close()
	s = open(tb, "/spool", l.options)
	if len(l.indexFiles(tb)) < 2 {
		tb.Fatal("there are no index files")
	}
	return l, s, fsys, ids
}

// Messages come as they were stored, in whatever order they are asked for; where that is theirs, or the opposite one,
// many share what is read. What was opened is closed.
func TestBrowser_Open(t *testing.T) {
	l, s, fsys, ids := shelf(t, 500)
	down, apart := slices.Clone(ids), []spool.ID(nil)
	slices.Reverse(down)
	for i := range ids {
		apart = append(apart, ids[i*151%len(ids)])
	}
	for name, tt := range map[string]struct {
		ids  []spool.ID
		most int64 // files that are opened, and reads
	}{"Up": {ids, 50}, "Down": {down, 50}, "Apart": {apart, 5 * 500}} {
		b := s.Browse(box(1))
		before := fsys.opened.Load() + fsys.read.Load()
		var got []spool.Opened
		for _, id := range tt.ids {
			o, err := b.Open(id)
			if err != nil || !bytes.Equal(o.Short, l.data[id]) {
				t.Fatalf("%s: message %s: %.30q, %v", name, id, o.Short, err)
			}
			got = append(got, o)
		}
		if n := fsys.opened.Load() + fsys.read.Load() - before; n > tt.most {
			t.Errorf("%s: files were opened and read %d times for %d messages", name, n, len(tt.ids))
		}
		b.Release()
		for i, id := range tt.ids {
			want, err := s.Get(id)
			if g := got[i].Info; err != nil || g.ID != id || g.Entry != want.Entry || g.Size != want.Size || g.SHA256 != want.SHA256 || g.Commit != want.Commit || g.Large {
				t.Fatalf("%s: %+v, and the spool says %+v, %v", name, g, want, err)
			}
		}
		if o, c := fsys.opened.Load(), fsys.closed.Load(); o != c {
			t.Errorf("%s: of %d files that were opened %d were closed", name, o, c)
		}
	}
}

// Of another mailbox there is nothing, nor what was removed meanwhile, though it was read already; what came
// meanwhile is there.
func TestBrowser_Open_Changes(t *testing.T) {
	l, s, _, ids := shelf(t, 500)
	b := s.Browse(box(1))
	defer b.Release()
	for i, id := range ids[len(ids)-40:] {
		if got, err := browse(b, id); err != nil || !bytes.Equal(got, l.data[id]) {
			t.Fatalf("message %s: %.30q, %v", id, got, err)
		}
		text := text(1000+i, 600)
		next := mustStore(t, s, box(1), text).ID
		l.remove(t, s, id)
		if _, err := browse(b, id); !errors.Is(err, spool.ErrNotFound) {
			t.Fatalf("message %s was removed: %v", id, err)
		}
		if got, err := browse(b, next); err != nil || !bytes.Equal(got, text) {
			t.Fatalf("message %s has just come: %.30q, %v", next, got, err)
		}
	}
	other := s.Browse(box(2))
	defer other.Release()
	for _, id := range []spool.ID{0, ids[3], 1 << 60} {
		if _, err := browse(other, id); !errors.Is(err, spool.ErrNotFound) {
			t.Errorf("message %s: %v", id, err)
		}
	}
	s.Close()
	if _, err := browse(b, ids[0]); !errors.Is(err, spool.ErrClosed) {
		t.Errorf("of a closed spool: %v", err)
	}
}

// A message on both sides of what is short is what was stored, and so is what comes behind it.
func TestBrowser_Open_Lengths(t *testing.T) {
	l, s, fsys, _ := shelf(t, 500)
	b := s.Browse(box(1))
	for i, size := range []int{1, 100, spool.MaxShort - 1, spool.MaxShort, spool.MaxShort + 1, 70 << 10, 256<<10 - 1, 256 << 10, 300 << 10} {
		data := text(i, size)
		id := mustStore(t, s, box(1), data).ID
		for _, id := range []spool.ID{id - 1, id, id - 1, id} {
			if l.data[id] == nil {
				l.data[id] = data
			}
			o, err := b.Open(id)
			if err != nil || o.Size != int64(len(l.data[id])) || (o.Reader == nil) != (o.Size <= spool.MaxShort) {
				t.Fatalf("message %s of %d bytes: %+v, %v", id, size, o, err)
			}
			got := o.Short
			if o.Reader != nil {
				got, err = io.ReadAll(o.Reader)
				o.Reader.Close()
			}
			if err != nil || !bytes.Equal(got, l.data[id]) {
				t.Fatalf("message %s of %d bytes: %.30q, %v", id, size, got, err)
			}
		}
	}
	b.Release()
	if o, c := fsys.opened.Load(), fsys.closed.Load(); o != c {
		t.Errorf("of %d files that were opened %d were closed", o, c)
	}
}

// A damaged message among others, whatever of it is damaged, is none, and takes nothing from them.
func TestBrowser_Open_Damage(t *testing.T) {
	l, s, _, ids := shelf(t, 500)
	bad := make(map[spool.ID]bool)
	var mend []func()
	for _, seg := range names(t, l.fs, "/spool/log") {
		path := "/spool/log/" + seg
		b := contents(t, l.fs, path)
		for i, id := range ids {
			at := bytes.Index(b, l.data[id])
			if at < 0 || i%7 != 2 {
				continue
			}
			flip := func() { flipAt(t, l.fs, path, int64(at+[]int{-1, 0, 599}[i/7%3])) }
			flip()
			mend, bad[id] = append(mend, flip), true
		}
	}
	if len(bad) < 10 {
		t.Fatalf("only %d are damaged", len(bad))
	}
	b := s.Browse(box(1))
	defer b.Release()
	for range 2 {
		for _, id := range ids {
			got, err := browse(b, id)
			if bad[id] != errors.Is(err, spool.ErrDamaged) || !bad[id] && (err != nil || !bytes.Equal(got, l.data[id])) || bad[id] && got != nil {
				t.Errorf("message %s, damaged %v: %.30q, %v", id, bad[id], got, err)
			}
		}
		for _, flip := range mend { // who has met damage once does not believe what comes later
			flip()
		}
	}
	if n := len(s.Damage()); n != len(bad) {
		t.Errorf("%d damaged messages are noted, not %d", n, len(bad))
	}
}

// A compaction beside a Browser makes no spare of the file that it has open, and takes no message from it; once the file
// is released, it does.
func TestBrowser_Recycle(t *testing.T) {
	for _, held := range []bool{true, false} {
		w := newWorn(t)
		b := w.s.Browse(box(1))
		ids := w.fill(t)
		want := w.data[ids[0]]
		for _, id := range ids {
			if got, err := browse(b, id); err != nil || !bytes.Equal(got, w.data[id]) {
				t.Fatalf("message %s: %.30q, %v", id, got, err)
			}
		}
		if !held {
			b.Release()
		}
		w.remove(t, w.s, ids[1:]...)
		w.compact(t)
		if n := w.recycled; n == 1 == held {
			t.Errorf("%d files were recycled; held %v", n, held)
		}
		for range 3 {
			w.fill(t)
		}
		for i, id := range ids {
			if got, err := browse(b, id); i == 0 && (err != nil || !bytes.Equal(got, want)) || i > 0 && !errors.Is(err, spool.ErrNotFound) {
				t.Errorf("message %s: %.30q, %v", id, got, err)
			}
		}
		b.Release()
		w.whole(t)
	}
}
