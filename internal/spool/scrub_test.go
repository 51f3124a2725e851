package spool_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"cmtpd/internal/durable"
	"cmtpd/internal/durable/durabletest"
	"cmtpd/internal/spool"
)

// flipAt flips a bit of a file in place, as a failing disk does.
func flipAt(tb testing.TB, fsys durable.FS, path string, at int64) {
	tb.Helper()
	f, err := fsys.OpenWrite(path)
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	var b [1]byte
	if _, err := f.ReadAt(b[:], at); err != nil {
		tb.Fatal(err)
	}
	b[0] ^= 4
	if _, err := f.WriteAt(b[:], at); err != nil {
		tb.Fatal(err)
	}
}

// scrub runs a scrub until the end of the test.
func scrub(tb testing.TB, s *spool.Spool) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- s.Scrub(ctx, 10*time.Millisecond) }()
	tb.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			tb.Error(err)
		}
	})
}

// A notice is a log that can be waited for.
type notice struct {
	mu   sync.Mutex
	text bytes.Buffer  // under mu
	more chan struct{} // under mu: closed and replaced when the text grows
}

func noticing(o *spool.Options) *notice {
	n := &notice{more: make(chan struct{})}
	o.Log = slog.New(slog.NewTextHandler(n, nil))
	return n
}

func (n *notice) Write(p []byte) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.text.Write(p)
	close(n.more)
	n.more = make(chan struct{})
	return len(p), nil
}

func (n *notice) String() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.text.String()
}

// await waits until the words stand there so many times.
func (n *notice) await(tb testing.TB, words string, times int) {
	tb.Helper()
	timeout := time.After(time.Minute)
	for {
		n.mu.Lock()
		more, found := n.more, strings.Count(n.text.String(), words)
		n.mu.Unlock()
		if found >= times {
			return
		}
		select {
		case <-more:
		case <-timeout:
			tb.Fatalf("%q came %d times, not %d:\n%s", words, found, times, n)
		}
	}
}

// Each kind of damage that comes to a running spool is found without a reader, costs what it
// touched, and is there again after a restart.
func TestSpool_Scrub(t *testing.T) {
	tests := []struct {
		name  string
		lost  []spool.ID // by the damage
		refit bool       // somebody makes the check sums right
		rolls bool       // the newest segment is not appended to any more
		// place returns where a bit flips.
		place func(sp *specimen) (path string, at int64)
	}{
		{"a message's data", []spool.ID{2}, false, false, func(sp *specimen) (string, int64) {
			path := "/spool/log/0000000000000001.seg"
			return path, int64(bytes.Index(contents(t, sp.fs, path), sp.data[2]) + 100)
		}},
		{"a message's data and its check sum", []spool.ID{2}, true, false, func(sp *specimen) (string, int64) {
			path := "/spool/log/0000000000000001.seg"
			return path, int64(bytes.Index(contents(t, sp.fs, path), sp.data[2]) + 100)
		}},
		{"a message's head", []spool.ID{2}, false, false, func(sp *specimen) (string, int64) {
			path := "/spool/log/0000000000000001.seg"
			return path, sp.bounds[path][0] + 50
		}},
		{"a commit", nil, false, false, func(sp *specimen) (string, int64) {
			path := "/spool/log/0000000000000001.seg"
			return path, sp.bounds[path][0] - 100
		}},
		{"the keys", nil, false, false, func(sp *specimen) (string, int64) { return "/spool/log/0000000000000001.seg", 200 }},
		{"a large file", []spool.ID{7}, false, true, func(sp *specimen) (string, int64) {
			names, _ := sp.fs.ReadDir("/spool/large")
			for _, name := range names {
				if path := filepath.Join("/spool/large", name); bytes.Equal(contents(t, sp.fs, path), sp.data[7]) {
					return path, 900
				}
			}
			panic("message 7 is not large")
		}},
		{"the newest segment", []spool.ID{8}, false, true, func(sp *specimen) (string, int64) {
			path := newest(t, sp.fs)
			bounds := sp.bounds[path]
			return path, bounds[len(bounds)-1] - 300
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			sp := newSpecimen(t)
			log := noticing(&sp.options)
			s := open(t, "/spool", sp.options)
			path, at := tt.place(sp)
			flipAt(t, sp.fs, path, at)
			if tt.refit {
				replace(t, sp.fs, path, spool.Refit(contents(t, sp.fs, path), 0))
			}
			scrub(t, s)
			log.await(t, "spool is damaged", 1)
			checkServes(t, s, sp, tt.lost)
			d := s.Damage()
			if len(d) != 1 || fmt.Sprint(d[0].Messages) != fmt.Sprint(tt.lost) || s.Stats().Damage != 1 {
				t.Errorf("damage: %v", d)
			}
			if n := strings.Count(log.String(), "spool is damaged"); n != 1 {
				t.Errorf("it was logged %d times:\n%s", n, log)
			}
			before := newest(t, sp.fs)
			mustStore(t, s, box(2), text(50, 100))
			if rolled := newest(t, sp.fs) != before; rolled != tt.rolls {
				t.Errorf("after damage the newest segment was %s and is %s", before, newest(t, sp.fs))
			}
			s.Close()
			s = open(t, "/spool", sp.options)
			if len(s.Damage()) == 0 && !tt.refit && !strings.Contains(path, "large") { // no start checks SHA-256
				t.Error("the next start sees no damage")
			}
		})
	}
}

// Where an index file says that a message follows itself, a scrub that looks for what a wound has taken ends all the same.
func TestSpool_Scrub_Circle(t *testing.T) {
	o, fsys := options(t), durabletest.New()
	o.FS, o.SegmentSize, o.CompactRate = fsys, 256<<10, -1
	log := noticing(&o)
	s := open(t, "/spool", o)
	first, messages := newest(t, fsys), 0
	for ; newest(t, fsys) == first; messages++ {
		mustStore(t, s, box(1), text(messages, 20))
	}
	if messages < 600 {
		t.Fatalf("a segment has no more than %d messages", messages)
	}
	s.Close()
	l := &library{fs: fsys}
	path := l.indexFiles(t)[0]
	b := contents(t, fsys, path)
	spool.ForgeIndexCircle(b)
	replace(t, fsys, path, b)
	s = open(t, "/spool", o)
	defer s.Close()
	flipAt(t, fsys, first, int64(len(contents(t, fsys, first))-100)) // of a commit
	scrub(t, s)
	log.await(t, "spool is damaged", 1)
}

// checkServes expects that every message but those lost is served.
func checkServes(t *testing.T, s *spool.Spool, sp *specimen, lost []spool.ID) {
	t.Helper()
	for id, want := range sp.data {
		got, err := read(s, id)
		switch {
		case len(lost) > 0 && id == lost[0]:
			if !errors.Is(err, spool.ErrDamaged) {
				t.Errorf("message %s: %v", id, err)
			}
		case err != nil || !bytes.Equal(got, want):
			t.Errorf("message %s: %.20q, %v", id, got, err)
		}
	}
}

// A scrub beside writers, removals and compaction finds no damage where there is none, and ends
// when it is told to.
func TestSpool_Scrub_Busy(t *testing.T) {
	fsys := durabletest.New()
	o := faultOptions(t, fsys, true)
	o.CompactRate = 0
	s := open(t, "/spool", o)
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- s.Scrub(ctx, time.Millisecond) }()
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for n := range 50 {
				st := mustStore(t, s, box(1), text(100*i+n, 100+n*60))
				if n%2 == 0 {
					if err := s.Remove(ctx, st.ID, "admin"); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	if err := s.Compact(ctx); err != nil {
		t.Error(err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if d := s.Damage(); len(d) > 0 {
		t.Errorf("damage: %v", d)
	}
}

// A badDisk cannot read a file once it is told so.
type badDisk struct {
	durable.FS
	path string
	bad  atomic.Bool
}

type badFile struct{ durable.File }

func (badFile) ReadAt([]byte, int64) (int, error) { return 0, syscall.EIO }

func (d *badDisk) Open(path string) (durable.File, error) {
	f, err := d.FS.Open(path)
	if err == nil && path == d.path && d.bad.Load() {
		return badFile{f}, nil
	}
	return f, err
}

// A segment that the disk does not give is reported once, and those behind it are read.
func TestSpool_Scrub_Unreadable(t *testing.T) {
	sp := newSpecimen(t)
	disk := &badDisk{FS: sp.fs, path: "/spool/log/0000000000000001.seg"}
	sp.options.FS = disk
	log := noticing(&sp.options)
	s := open(t, "/spool", sp.options)
	disk.bad.Store(true)
	scrub(t, s)
	log.await(t, "spool is damaged", 1)
	names, err := sp.fs.ReadDir("/spool/large")
	if err != nil {
		t.Fatal(err)
	}
	for i, name := range names { // each takes another round
		flipAt(t, sp.fs, filepath.Join("/spool/large", name), 10)
		log.await(t, "spool is damaged", 2+i)
	}
	if n := strings.Count(log.String(), "cannot be read: input/output error"); n != 1 {
		t.Errorf("it was logged %d times:\n%s", n, log)
	}
}
