package spool_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"cmtpd/internal/crypt"
	"cmtpd/internal/durable"
	"cmtpd/internal/durable/durabletest"
	"cmtpd/internal/spool"
)

// recycles says whether a call gives a file of the log another name, to use it again.
func recycles(c durabletest.Call) bool { return c.Op == "link" && strings.Contains(c.Path, "/spare/") }

// worn is a spool whose messages are soon removed again.
type worn struct {
	*library
	s        *spool.Spool
	n        int
	recycled int
}

func newWorn(tb testing.TB) *worn {
	tb.Helper()
	l := &library{fs: durabletest.New(), options: options(tb), data: make(map[spool.ID][]byte)}
	l.options.FS, l.options.SegmentSize, l.options.CompactRate, l.options.NoSpare = l.fs, 8<<10, -1, false
	w := &worn{library: l}
	w.s = open(tb, "/spool", l.options)
	return w
}

// fill stores until another segment has begun, and returns what the one before got.
func (w *worn) fill(tb testing.TB) (ids []spool.ID) {
	tb.Helper()
	for before := w.s.Stats().Segments; ; {
		data := text(w.n, 900)
		w.n++
		id := mustStore(tb, w.s, box(1), data).ID
		w.data[id] = data
		if w.s.Stats().Segments > before {
			return ids
		}
		ids = append(ids, id)
	}
}

// wear fills four segments, calls between, and removes all but the first message.
func (w *worn) wear(tb testing.TB, between func(ids []spool.ID)) {
	tb.Helper()
	var ids []spool.ID
	for range 4 {
		ids = append(ids, w.fill(tb)...)
	}
	if between != nil {
		between(ids)
	}
	w.remove(tb, w.s, ids[1:]...)
}

// compact compacts while the spare is short, and counts whether an old file is the spare then.
func (w *worn) compact(tb testing.TB) {
	tb.Helper()
	if err := errors.Join(w.s.DropSpare(), w.s.Compact(ctx)); err != nil {
		tb.Fatal(err)
	}
	if len(w.used(tb)) > 0 {
		w.recycled++
	}
}

// used returns the spares that were segments.
func (w *worn) used(tb testing.TB) (paths []string) {
	tb.Helper()
	for _, name := range names(tb, w.fs, "/spool/spare") {
		path := "/spool/spare/" + name
		f, err := w.fs.Open(path)
		if err != nil {
			continue // it became a segment just now, or was replaced
		}
		var b [8]byte
		if n, _ := f.ReadAt(b[:], 0); string(b[:n]) == "CMTPSPL1" {
			paths = append(paths, path)
		}
		f.Close()
	}
	return paths
}

// whole checks what the spool holds, and that the proof of it succeeds.
func (w *worn) whole(tb testing.TB) {
	tb.Helper()
	w.check(tb, w.s)
	r, err := spool.Verify(ctx, w.fs, "/spool", w.options.Identity.Public(), nil, w.s.Head())
	if err := errors.Join(err, r.Err()); err != nil || r.Torn != 0 {
		tb.Fatalf("%d bytes torn, %v", r.Torn, err)
	}
}

// A file that a compaction frees becomes the newest segment, and keeps the bytes that nothing
// was written over, over a restart too.
func TestSpool_Recycle(t *testing.T) {
	w := newWorn(t)
	w.wear(t, nil)
	w.compact(t)
	if n := w.recycled; n != 1 {
		t.Fatalf("%d files were recycled", n)
	}
	var path string
	var b []byte
	for i := 0; bytes.Count(b, []byte("message ")) < 100; i++ {
		if i == 2 {
			t.Fatal("the newest segments were not used before")
		}
		w.fill(t)
		path = newest(t, w.fs)
		b = contents(t, w.fs, path)
	}
	w.whole(t)
	for range 2 {
		head := w.s.Head()
		w.s.Close()
		if left := names(t, w.fs, "/spool/spare"); len(left) > 0 {
			t.Errorf("%q are left", left)
		}
		w.s = open(t, "/spool", w.options)
		if w.s.Head() != head || newest(t, w.fs) != path || size(t, w.fs, path) < int64(len(b)) {
			t.Errorf("the start changed the newest segment: %s, was %s", w.s.Head(), head)
		}
		data := fmt.Appendf(nil, "after %s", head)
		w.data[mustStore(t, w.s, box(1), data).ID] = data
		w.whole(t)
	}
	w.fill(t)
	w.fill(t)
	w.whole(t)
}

// A longer file is cut, and there are two at most.
func TestSpool_Recycle_Length(t *testing.T) {
	w := newWorn(t)
	w.fill(t)
	data := text(1, 20<<10)
	long := mustStore(t, w.s, box(2), data).ID
	w.data[long] = data
	ids := append(w.fill(t), w.fill(t)...)
	w.remove(t, w.s, long)
	w.compact(t)
	if used := w.used(t); len(used) != 1 || size(t, w.fs, used[0]) != 8<<10 {
		t.Errorf("%q were recycled", used)
	}
	for i := range 4 {
		w.remove(t, w.s, ids...)
		segs := w.s.Stats().Segments
		if err := w.s.Compact(ctx); err != nil {
			t.Fatal(err)
		}
		if used := w.used(t); w.s.Stats().Segments > segs || len(used) == 0 || len(names(t, w.fs, "/spool/spare")) > 2 {
			t.Errorf("round %d: spares %q, recycled %q", i, names(t, w.fs, "/spool/spare"), used)
		}
		w.whole(t)
		ids = append(w.fill(t), w.fill(t)...)
	}
	w.s.Close()
	if left := names(t, w.fs, "/spool/spare"); len(left) > 0 {
		t.Errorf("%q are left", left)
	}
}

// Who reads goes on to the end, though the segment is compacted and its file would be used
// again.
func TestReader_Recycle(t *testing.T) {
	w := newWorn(t)
	var readers []*spool.Reader
	var want [][]byte
	var next func() (spool.Info, error, bool)
	var stop func()
	w.wear(t, func(ids []spool.ID) {
		for _, id := range ids {
			r, err := w.s.Open(id)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.CopyN(io.Discard, r, 100); err != nil {
				t.Fatal(err)
			}
			readers, want = append(readers, r), append(want, w.data[id])
		}
		next, stop = iter.Pull2(w.s.All(ids[len(ids)/2]))
		if _, err, _ := next(); err != nil {
			t.Fatal(err)
		}
	})
	w.compact(t)
	if n := w.recycled; n != 0 {
		t.Fatalf("%d files that are open were recycled", n)
	}
	for range 3 {
		w.fill(t)
	}
	for i, r := range readers {
		if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, want[i][100:]) {
			t.Fatalf("reader %d: %.30q, %v", i, got, err)
		}
		r.Close()
		if err := r.Close(); err == nil {
			t.Error("closed twice")
		}
	}
	for _, err, ok := next(); ok; _, err, ok = next() {
		if err != nil {
			t.Fatal(err)
		}
	}
	stop()
	w.wear(t, nil)
	w.compact(t)
	if n := w.recycled; n != 1 {
		t.Errorf("%d files were recycled after all", n)
	}
	w.whole(t)
}

// linking calls linked when a file of the log has got its second name.
type linking struct {
	*durabletest.FS
	linked func()
}

func (l *linking) Link(from, to string) error {
	err := l.FS.Link(from, to)
	if l.linked != nil {
		l.linked()
	}
	return err
}

// One who begins to read between the choice of a file and the compaction's end counts as well, in
// this process and in another one.
func TestReader_Recycle_Late(t *testing.T) {
	for _, other := range []bool{false, true} {
		w := newWorn(t)
		w.s.Close()
		l := &linking{FS: w.fs}
		w.options.FS = l
		w.s = open(t, "/spool", w.options)
		var ids []spool.ID // one in each segment
		for range 4 {
			filled := w.fill(t)
			ids = append(ids, filled[0])
			w.remove(t, w.s, filled[1:]...)
		}
		kept := make(map[spool.ID]*spool.Reader)
		l.linked = func() {
			from := w.s
			if other {
				s, err := spool.OpenReadOnly("/spool", w.fs)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { s.Close() })
				from = s
			}
			for _, id := range ids {
				if r, err := from.Open(id); err == nil && kept[id] == nil {
					kept[id] = r
				}
			}
		}
		w.compact(t)
		if w.recycled != 0 || len(kept) == 0 {
			t.Errorf("%d files were recycled beside %d readers", w.recycled, len(kept))
		}
		for range 3 {
			w.fill(t)
		}
		for id, r := range kept {
			if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, w.data[id]) {
				t.Errorf("message %s: %.30q, %v", id, got, err)
			}
			r.Close()
		}
	}
}

// Beside a process that only reads nothing is recycled, and it meets no damage.
func TestOpenReadOnly_Recycle(t *testing.T) {
	w := newWorn(t)
	var beside *spool.Spool
	var old []spool.ID
	was := make(map[spool.ID][]byte)
	w.wear(t, func(ids []spool.ID) {
		for _, id := range ids {
			was[id] = w.data[id]
		}
		s, err := spool.OpenReadOnly("/spool", w.fs)
		if err != nil {
			t.Fatal(err)
		}
		beside, old = s, ids
	})
	w.compact(t)
	for range 3 {
		w.fill(t)
	}
	if n := w.recycled; n != 0 {
		t.Fatalf("%d files were recycled beside a reader", n)
	}
	moved := 0
	for _, id := range old {
		got, err := read(beside, id)
		if errors.Is(err, spool.ErrMoved) && !errors.Is(err, spool.ErrDamaged) {
			moved++
		} else if err != nil || !bytes.Equal(got, was[id]) {
			t.Errorf("message %s: %.30q, %v", id, got, err)
		}
	}
	if d := beside.Damage(); moved == 0 || len(d) > 0 {
		t.Errorf("%d messages moved, damage %v", moved, d)
	}
	if err := beside.Close(); err != nil {
		t.Error(err)
	}
	w.wear(t, nil)
	w.compact(t)
	if n := w.recycled; n != 1 {
		t.Errorf("%d files were recycled after all", n)
	}
}

// pausing stops who reads a file for the first time, before or, with a number of bytes, after so
// many were read at once, until it is let go on.
type pausing struct {
	durable.FS
	path   string
	bytes  int
	done   atomic.Bool
	paused chan struct{}
	goOn   chan struct{}
}

type pausingFile struct {
	durable.File
	p *pausing
}

func (p *pausing) Open(path string) (durable.File, error) {
	f, err := p.FS.Open(path)
	if err != nil || path != p.path {
		return f, err
	}
	return &pausingFile{f, p}, nil
}

func (f *pausingFile) ReadAt(b []byte, off int64) (int, error) {
	if f.p.bytes == 0 {
		f.p.pause()
	}
	n, err := f.File.ReadAt(b, off)
	if f.p.bytes > 0 && n >= f.p.bytes {
		f.p.pause()
	}
	return n, err
}

func (p *pausing) pause() {
	if !p.done.Swap(true) {
		close(p.paused)
		<-p.goOn
	}
}

// Nor does a scrub meet damage: another file is recycled than the one that it reads.
func TestSpool_Scrub_Recycle(t *testing.T) {
	w := newWorn(t)
	w.s.Close()
	p := &pausing{FS: w.fs, path: segmentPath(2), paused: make(chan struct{}), goOn: make(chan struct{})}
	w.options.FS = p
	w.s = open(t, "/spool", w.options)
	scrubbing, end := context.WithCancel(ctx)
	done := make(chan error)
	w.wear(t, func([]spool.ID) {
		go func() { done <- w.s.Scrub(scrubbing, time.Nanosecond) }()
		<-p.paused
	})
	w.compact(t)
	for range 3 {
		w.fill(t)
	}
	close(p.goOn)
	end()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if d := w.s.Damage(); len(d) > 0 {
		t.Error(d)
	}
}

// segmentPath is the path of a segment of the spool in /spool.
func segmentPath(n int) string { return fmt.Sprintf("/spool/log/%016x.seg", n) }

// A verification, or a copy, that has a segment open while it is compacted finds it as it was.
func TestVerify_Recycle(t *testing.T) {
	for name, read := range map[string]func(durable.FS, crypt.PublicKey) (spool.Report, error){
		"verify": func(fsys durable.FS, identity crypt.PublicKey) (spool.Report, error) {
			return spool.Verify(ctx, fsys, "/spool", identity, nil)
		},
		"copy": func(fsys durable.FS, identity crypt.PublicKey) (spool.Report, error) {
			return spool.Copy(ctx, fsys, "/spool", "/copy", identity, nil)
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorn(t)
			p := &pausing{FS: w.fs, path: segmentPath(2), paused: make(chan struct{}), goOn: make(chan struct{})}
			done := make(chan error)
			w.wear(t, func([]spool.ID) {
				go func() {
					r, err := read(p, w.options.Identity.Public())
					done <- errors.Join(err, r.Err())
				}()
				<-p.paused
				w.fill(t) // the removals go where it does not look
			})
			w.compact(t)
			for range 3 {
				w.fill(t)
			}
			if w.recycled != 0 {
				t.Errorf("%d files were recycled beside it", w.recycled)
			}
			close(p.goOn)
			if err := <-done; err != nil {
				t.Error(err)
			}
			w.wear(t, nil)
			w.compact(t)
			if w.recycled != 1 {
				t.Errorf("%d files were recycled after all", w.recycled)
			}
		})
	}
}

// Without the file that readers lock they read all the same, and the writer recycles nothing,
// until a start after the one that made it again.
func TestSpool_Recycle_NoLock(t *testing.T) {
	w := newWorn(t)
	if err := w.fs.Remove("/spool/readers"); err != nil {
		t.Fatal(err)
	}
	for i, want := range []int{0, 0, 1} {
		w.wear(t, nil)
		w.compact(t)
		if n := w.recycled; n != want {
			t.Errorf("start %d: %d files were recycled, want %d", i, n, want)
		}
		w.whole(t)
		s, err := spool.OpenReadOnly("/spool", w.fs)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		_, err = w.fs.Open("/spool/readers")
		if errors.Is(err, fs.ErrNotExist) != (i == 0) {
			t.Errorf("start %d: %v", i, err)
		}
		w.s.Close()
		w.s = open(t, "/spool", w.options)
	}
}

// cycle fills segments, removes, and compacts, twice. The first of a group is short, so that it is
// another one whose file is used again.
func (tr *trial) cycle(tb testing.TB, fsys *durabletest.FS) {
	s, err := spool.Open("/spool", faultOptions(tb, fsys, true))
	if err != nil {
		return
	}
	for n := 100; n < 300; n += 100 {
		tr.store(s, text(n, 1900))
		tr.store(s, text(n+1, 1900))
		for at := n + 2; at < n+40; at += 10 {
			tr.rollOver(s, at)
		}
		for at := n; at < n+12; at++ { // one group's
			tr.remove(s, text(at, 900))
			tr.remove(s, text(at, 1900))
		}
		s.DropSpare()
		s.Compact(ctx)
		tr.rollOver(s, n+60)
		tr.rollOver(s, n+80)
	}
	s.Close()
}

// TestSpool_Recycle_Crash ends the process or the machine after each call that follows one by
// which a file is used again.
func TestSpool_Recycle_Crash(t *testing.T) {
	runs := [2]int{}
	for n := range 80 {
		for seed := range uint64(3) {
			fsys := durabletest.New()
			from, wait, nth := 0, n%len(runs), 0
			fsys.Inject(func(c durabletest.Call) durabletest.Fault {
				if from == 0 && recycles(c) {
					if nth++; nth > wait {
						from = c.N + n/len(runs)
					}
				}
				if from > 0 && c.N >= from {
					return durabletest.Before
				}
				return durabletest.None
			})
			tr := newTrial()
			tr.short = true
			tr.cycle(t, fsys)
			var r *rand.Rand
			if seed > 1 {
				r = rand.New(rand.NewPCG(seed, uint64(n)))
			}
			if seed == 0 {
				fsys = fsys.Kill()
			} else {
				fsys = fsys.Crash(r)
			}
			if from > 0 {
				runs[wait]++
			}
			o := faultOptions(t, fsys, true)
			report, err := spool.Verify(ctx, fsys, "/spool", o.Identity.Public(), nil, tr.head)
			if err := errors.Join(err, report.Err()); err != nil {
				t.Fatalf("run %d, seed %d: %v", n, seed, err)
			}
			for i := range 2 {
				if err := tr.check(t, fsys); err != nil {
					t.Fatalf("run %d, seed %d, start %d: %v", n, seed, i+1, err)
				}
				fsys = fsys.Crash(r)
			}
		}
	}
	if runs[0] < 100 || runs[1] < 100 {
		t.Errorf("only %d runs recycled", runs)
	}
	t.Logf("%d runs recycled", runs)
}
