package spool_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"cmtpd/internal/durable"
	"cmtpd/internal/durable/durabletest"
	"cmtpd/internal/spool"
)

// meddler is a file system that does something before a file is opened.
type meddler struct {
	durable.FS
	before func(path string)
}

func (m *meddler) Open(path string) (durable.File, error) {
	m.before(path)
	return m.FS.Open(path)
}

func copyOf(tb testing.TB, fsys durable.FS, o spool.Options, to string, want ...spool.Head) (*spool.Spool, spool.Report) {
	tb.Helper()
	r, err := spool.Copy(ctx, fsys, "/spool", to, o.Identity.Public(), nil, want...)
	if err != nil {
		tb.Fatal(err)
	}
	s, err := spool.OpenReadOnly(to, fsys)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { s.Close() })
	return s, r
}

// equalTo checks that a spool holds exactly these messages.
func equalTo(tb testing.TB, s *spool.Spool, want map[spool.ID][]byte) {
	tb.Helper()
	n := 0
	for info, err := range s.All(0) {
		if err != nil {
			tb.Fatal(err)
		}
		got, err := read(s, info.ID)
		if err != nil || !bytes.Equal(got, want[info.ID]) {
			tb.Errorf("message %s: %.30q, %v; want %.30q", info.ID, got, err, want[info.ID])
		}
		n++
	}
	if n != len(want) {
		tb.Errorf("%d messages, want %d", n, len(want))
	}
}

func TestCopy(t *testing.T) {
	sp := newSpecimen(t)
	calls := 0
	progress := func(done, total int64) {
		if calls++; done > total {
			t.Errorf("%d of %d", done, total)
		}
	}
	r, err := spool.Copy(ctx, sp.fs, "/spool", "/copy", sp.options.Identity.Public(), progress, sp.head)
	if err != nil || r.Messages != specimenMessages || r.Head != sp.head || calls == 0 {
		t.Fatalf("%+v, %v, %d calls", r, err, calls)
	}
	s, err := spool.OpenReadOnly("/copy", sp.fs)
	if err != nil {
		t.Fatal(err)
	}
	equalTo(t, s, sp.data)
	if _, err := spool.Copy(ctx, sp.fs, "/spool", "/other", sp.options.Identity.Public(), nil, spool.Head{Number: 3}); !errors.Is(err, spool.ErrUnproven) {
		t.Errorf("a false head: %v", err)
	}
	if _, err := spool.Copy(ctx, sp.fs, "/spool", "/third", key(t, 9).Public(), nil); !errors.Is(err, spool.ErrUnproven) {
		t.Errorf("another identity: %v", err)
	}
}

// A damaged spool has no copy, whatever the damage.
func TestCopy_Damaged(t *testing.T) {
	for _, tt := range tamperings(t) {
		t.Run(tt.name, func(t *testing.T) {
			sp := newSpecimen(t)
			segs := segments(t, sp.fs, "/spool")
			tt.change(t, sp, segs[0], segs[1])
			if r, err := spool.Copy(ctx, sp.fs, "/spool", "/copy", sp.options.Identity.Public(), nil); !errors.Is(err, spool.ErrUnproven) {
				t.Errorf("%v, %+v", err, r)
			}
		})
	}
}

// Messages are removed and segments merged at the worst moments.
func TestCopy_Beside(t *testing.T) {
	sp := newSpecimen(t)
	o := sp.options
	o.CompactRate = -1
	s := open(t, "/spool", o)
	var large []spool.ID
	for info, err := range s.All(0) {
		if err != nil {
			t.Fatal(err)
		}
		if info.Large {
			large = append(large, info.ID)
		}
	}
	remove := func(ids ...spool.ID) {
		if n, err := s.RemoveAll(ctx, ids, "admin"); err != nil || n != len(ids) {
			t.Fatal(n, err)
		}
		for _, id := range ids {
			delete(sp.data, id)
		}
	}
	if len(large) < 2 {
		t.Fatalf("%d large messages", len(large))
	}
	opened, larger, all := make(map[string]int), 0, len(large) // their sizes are looked at first
	fsys := &meddler{FS: sp.fs}
	fsys.before = func(path string) {
		opened[path]++
		switch {
		case strings.HasPrefix(path, "/spool/large/"):
			if larger++; larger != all+2 {
				return
			}
			remove(large...) // after the log was copied and one of their files, and before the others are
			st := mustStore(t, s, box(1), text(300, 2500))
			sp.data[st.ID] = text(300, 2500)
		case path == "/spool/log/0000000000000002.seg" && opened[path] == 2:
			remove(1, 2, 3, 4, 5)
			sp.data[mustStore(t, s, box(1), text(301, 900)).ID] = text(301, 900)
			if err := s.Compact(ctx); err != nil {
				t.Fatal(err)
			}
			if _, err := sp.fs.Open(path); err == nil {
				t.Error("the segment was not merged")
			}
		}
	}
	// Compaction opens segments, too, but through the spool's own file system.
	c, r := copyOf(t, fsys, o, "/copy")
	equalTo(t, c, sp.data)
	if r.Head != s.Head() {
		t.Errorf("head %s, want %s", r.Head, s.Head())
	}
	if n, want := len(names(t, sp.fs, "/copy/large")), 1; n != want {
		t.Errorf("%d large files, want %d", n, want)
	}
}

// Data is gone from a segment that was not copied yet, and the record of its removal is in one that
// was begun later: the copy has both.
func TestCopy_Gone(t *testing.T) {
	sp := newSpecimen(t)
	o := sp.options
	o.CompactRate = -1
	s := open(t, "/spool", o)
	opened := 0
	fsys := &meddler{FS: sp.fs}
	fsys.before = func(path string) {
		if path != "/spool/log/0000000000000002.seg" {
			return
		}
		if opened++; opened != 2 {
			return
		}
		for i := range 6 { // the newest segment becomes full
			sp.data[mustStore(t, s, box(1), text(400+i, 900)).ID] = text(400+i, 900)
		}
		if err := s.Remove(ctx, 5, "admin"); err != nil {
			t.Fatal(err)
		}
		delete(sp.data, 5)
		if err := s.Compact(ctx); err != nil {
			t.Fatal(err)
		}
	}
	c, _ := copyOf(t, fsys, o, "/copy")
	equalTo(t, c, sp.data)
}

// Whoever only reads does not take that for damage, either.
func TestVerify_Beside(t *testing.T) {
	sp := newSpecimen(t)
	o := sp.options
	o.CompactRate = -1
	s := open(t, "/spool", o)
	for i := range 6 {
		mustStore(t, s, box(1), text(400+i, 900))
	}
	opened := 0
	fsys := &meddler{FS: sp.fs}
	fsys.before = func(path string) {
		if path != "/spool/log/0000000000000003.seg" {
			return
		}
		if opened++; opened != 2 {
			return
		}
		for i := range 6 {
			mustStore(t, s, box(1), text(500+i, 900))
		}
		if n, err := s.RemoveAll(ctx, []spool.ID{9, 10, 11}, "admin"); err != nil || n != 3 {
			t.Fatal(n, err)
		}
		if err := s.Compact(ctx); err != nil {
			t.Fatal(err)
		}
	}
	r, err := spool.Verify(ctx, fsys, "/spool", o.Identity.Public(), nil)
	if err != nil || r.Err() != nil {
		t.Errorf("%v, %v", err, r.Err())
	}
}

// TestCopy_Load copies a spool while others store, remove and compact.
func TestCopy_Load(t *testing.T) {
	dir := t.TempDir()
	o := options(t)
	o.SegmentSize, o.LargeThreshold, o.CompactRate = 32<<10, 4<<10, -1
	from := filepath.Join(dir, "spool")
	s := open(t, from, o)
	var mu sync.Mutex
	all, taken := make(map[spool.ID][]byte), make(map[spool.ID]bool)
	stop, stored := make(chan struct{}), make(chan struct{}, 1<<16)
	var wg sync.WaitGroup
	for worker := range 3 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(worker), 5))
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				data := text(worker*1e6+i, 50+r.IntN(6<<10))
				st, err := store(s, box(byte(1+worker)), data)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				all[st.ID] = data
				taken[st.ID] = i%2 == 0
				mu.Unlock()
				stored <- struct{}{}
				if i%2 == 0 {
					if err := s.Remove(ctx, st.ID, "admin"); err != nil {
						t.Error(err)
					}
				}
				if i%30 == 29 {
					if err := s.Compact(ctx); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	for i := range 5 {
		for range 120 {
			<-stored
		}
		mu.Lock()
		var must []spool.ID
		for id := range all {
			if !taken[id] {
				must = append(must, id)
			}
		}
		mu.Unlock()
		to := filepath.Join(dir, string(rune('a'+i)))
		r, err := spool.Copy(ctx, durable.OS, from, to, o.Identity.Public(), nil)
		if err != nil {
			t.Error(err)
			break
		}
		c, err := spool.OpenReadOnly(to, durable.OS)
		if err != nil {
			t.Error(err)
			break
		}
		for _, id := range must {
			got, err := read(c, id)
			mu.Lock()
			want := all[id]
			mu.Unlock()
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("copy %d: message %s: %d bytes, %v", i, id, len(got), err)
			}
		}
		t.Logf("copy %d: %d messages, %d of them for certain, head %d", i, r.Messages, len(must), r.Head.Number)
		c.Close()
	}
	close(stop)
	go func() {
		for range stored { // that nobody is held up
		}
	}()
	wg.Wait()
	close(stored)
}

// TestCopy_Faults fails every durable call of a copy. Where none is reported, the copy
// survives a power cut.
func TestCopy_Faults(t *testing.T) {
	for _, fault := range []durabletest.Fault{durabletest.Before, durabletest.After, durabletest.Short} {
		for n := 1; ; n++ {
			sp := newSpecimen(t)
			first, reached := sp.fs.Calls(), false
			sp.fs.Inject(func(c durabletest.Call) durabletest.Fault {
				if c.N != first+n {
					return durabletest.None
				}
				reached = true
				return fault
			})
			_, err := spool.Copy(ctx, sp.fs, "/spool", "/copy", sp.options.Identity.Public(), nil)
			after := sp.fs.Crash(rand.New(rand.NewPCG(uint64(n), 9)))
			if err == nil {
				r, err := spool.Verify(ctx, after, "/copy", sp.options.Identity.Public(), nil, sp.head)
				if err = errors.Join(err, r.Err()); err != nil {
					t.Fatalf("call %d, fault %d: %v", n, fault, err)
				}
			}
			r, err := spool.Verify(ctx, after, "/spool", sp.options.Identity.Public(), nil, sp.head)
			if err = errors.Join(err, r.Err()); err != nil {
				t.Fatalf("call %d, fault %d: the spool itself: %v", n, fault, err)
			}
			if !reached {
				break
			}
		}
	}
}

// A copy that goes on does so under another key and with numbers that the spool did not give.
func TestContinue(t *testing.T) {
	sp := newSpecimen(t)
	copyOf(t, sp.fs, sp.options, "/copy")
	s := open(t, "/spool", sp.options)
	elsewhere := mustStore(t, s, box(1), text(70, 100))
	o := sp.options
	if _, err := spool.Continue("/copy", o); !errors.Is(err, spool.ErrOptions) {
		t.Fatalf("under the same key: %v", err)
	}
	o.Key = key(t, 44)
	head, err := spool.Continue("/copy", o)
	if err != nil || head.Number != sp.head.Number+1 {
		t.Fatal(head, err)
	}
	c := open(t, "/copy", o)
	if c.Head() != head {
		t.Errorf("opening it changed the head")
	}
	st := mustStore(t, c, box(1), text(71, 100))
	if st.ID < 1<<32 || st.ID&(1<<32-1) != elsewhere.ID {
		t.Errorf("message %s, and elsewhere %s", st.ID, elsewhere.ID)
	}
	sp.data[st.ID] = text(71, 100)
	equalTo(t, c, sp.data)
	c.Close()
	r, err := spool.Verify(ctx, sp.fs, "/copy", o.Identity.Public(), nil, sp.head, st.Head)
	if err != nil || r.Err() != nil || r.Key != o.Key.Public() {
		t.Errorf("%v, %v", err, r.Err())
	}
	if again := open(t, "/copy", o); again.Stats().Messages != len(sp.data) {
		t.Errorf("%+v", again.Stats())
	}
}
