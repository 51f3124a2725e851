package spool_test

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"cmtpd/internal/durable"
	"cmtpd/internal/durable/durabletest"
	"cmtpd/internal/spool"
)

func TestOpen_Options(t *testing.T) {
	tests := []struct {
		name   string
		change func(*spool.Options)
		ok     bool
	}{
		{"defaults", func(*spool.Options) {}, true},
		{"no key", func(o *spool.Options) { o.Key = nil }, false},
		{"no identity", func(o *spool.Options) { o.Identity = nil }, false},
		{"no file system", func(o *spool.Options) { o.FS = nil }, false},
		{"smallest segment", func(o *spool.Options) { o.SegmentSize = 4 << 10 }, true},
		{"segment too small", func(o *spool.Options) { o.SegmentSize = 4<<10 - 1 }, false},
		{"largest segment", func(o *spool.Options) { o.SegmentSize = 2 << 30 }, true},
		{"segment too large", func(o *spool.Options) { o.SegmentSize = 2<<30 + 1 }, false},
		{"largest threshold", func(o *spool.Options) { o.LargeThreshold = 4 << 20 }, true},
		{"threshold too large", func(o *spool.Options) { o.LargeThreshold = 4<<20 + 1 }, false},
		{"negative budget", func(o *spool.Options) { o.MemoryBudget = -1 }, false},
		{"negative batch", func(o *spool.Options) { o.BatchSize = -1 }, false},
	}
	for _, tt := range tests {
		o := options(t)
		o.FS = durabletest.New()
		tt.change(&o)
		s, err := spool.Open("/spool", o)
		if tt.ok != (err == nil) || (err != nil && !errors.Is(err, spool.ErrOptions)) {
			t.Errorf("%s: %v", tt.name, err)
		}
		if err == nil {
			s.Close()
		}
	}
}

func TestOpen_Locked(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, options(t))
	if _, err := spool.Open(dir, options(t)); !errors.Is(err, durable.ErrLocked) {
		t.Errorf("second Open: %v", err)
	}
	s.Close()
	open(t, dir, options(t))
}

// Another spool key takes over within the chain, vouched for by the identity.
func TestOpen_NewKey(t *testing.T) {
	dir := t.TempDir()
	o := options(t)
	var ids []spool.ID
	for i := range 3 {
		o.Key = key(t, byte(10+i))
		s := open(t, dir, o)
		ids = append(ids, mustStore(t, s, box(1), text(i, 100)).ID)
		if s.Key() != o.Key.Public() {
			t.Error("the new key is not in force")
		}
		s.Close()
	}
	s := open(t, dir, o)
	for _, id := range ids {
		if _, err := read(s, id); err != nil {
			t.Error(err)
		}
	}
	r, err := spool.Verify(ctx, durable.OS, dir, o.Identity.Public(), nil)
	if err != nil || r.Err() != nil || r.Key != o.Key.Public() || r.Commits != 6 {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestOpenReadOnly_Refuses(t *testing.T) {
	dir := t.TempDir()
	open(t, dir, options(t)).Close()
	s, err := spool.OpenReadOnly(dir, durable.OS)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store(s, box(1), []byte("x")); !errors.Is(err, spool.ErrReadOnly) {
		t.Errorf("store: %v", err)
	}
	if _, err := s.NewWriter().Commit(ctx, entryOf(box(1), nil)); !errors.Is(err, spool.ErrReadOnly) {
		t.Errorf("commit of nothing: %v", err)
	}
	if _, err := s.Get(1); !errors.Is(err, spool.ErrNotFound) {
		t.Errorf("Get: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if _, err := spool.OpenReadOnly(t.TempDir(), durable.OS); err == nil {
		t.Error("an empty directory is no spool")
	}
}

// A log of which nothing is whole must not be taken for a new one.
func TestOpen_Lost(t *testing.T) {
	fsys := durabletest.New()
	o := options(t)
	o.FS = fsys
	s := open(t, "/spool", o)
	mustStore(t, s, box(1), text(1, 10))
	s.Close()
	replace(t, fsys, newest(t, fsys), []byte("not a segment"))
	if _, err := spool.Open("/spool", o); !errors.Is(err, spool.ErrLost) {
		t.Errorf("Open: %v", err)
	}
}

func TestParseID(t *testing.T) {
	for _, id := range []spool.ID{0, 1, 0xabcdef, 1<<64 - 1} {
		if got, err := spool.ParseID(id.String()); got != id || err != nil {
			t.Errorf("%s: %d, %v", id, got, err)
		}
	}
	for _, s := range []string{"", "1", "00000000000000001", "000000000000000G", "000000000000000A", "+00000000000000f"} {
		if id, err := spool.ParseID(s); err == nil {
			t.Errorf("%q became %s", s, id)
		}
	}
}

func TestParseHead(t *testing.T) {
	h := spool.Head{Number: 12, Hash: [32]byte{1, 2, 255}}
	if got, err := spool.ParseHead(h.String()); got != h || err != nil {
		t.Errorf("%s: %s, %v", h, got, err)
	}
	for _, s := range []string{"", "12", "12:", "012:" + h.String()[3:], h.String() + "0", h.String() + "00", "-1" + h.String()[2:]} {
		if got, err := spool.ParseHead(s); err == nil {
			t.Errorf("%q became %s", s, got)
		}
	}
}

// TestIndex_Memory weighs the index: docs promise less than 100 bytes for a message or mark.
func TestIndex_Memory(t *testing.T) {
	if testing.Short() {
		t.Skip("fills an index")
	}
	const n = 300_000
	for what, fill := range map[string]func(n, boxes int) any{"message": spool.FilledIndex, "mark": spool.FilledMarks} {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		x := fill(n, 3000)
		runtime.GC()
		runtime.ReadMemStats(&after)
		each := float64(after.HeapAlloc-before.HeapAlloc) / n
		runtime.KeepAlive(x)
		t.Logf("%.1f bytes a %s", each, what)
		if each > 100 {
			t.Errorf("%.1f bytes a %s", each, what)
		}
	}
}

// A countingFS tells of each segment that is opened.
type countingFS struct {
	durable.FS
	opened func(n int)
	n      int
}

func (f *countingFS) Open(path string) (durable.File, error) {
	if strings.HasSuffix(path, ".seg") {
		f.n++
		f.opened(f.n)
	}
	return f.FS.Open(path)
}

// logFiles returns the bytes of a spool's segments.
func logFiles(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := make(map[string]string)
	paths, err := filepath.Glob(filepath.Join(dir, "log", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		files[path] = string(b)
	}
	return files
}

// TestOpenContext: who is told to stop while the log is read stops at the next record or segment, whether its index file is
// there or not, and leaves the log, its torn tail included, and the lock as they were.
func TestOpenContext(t *testing.T) {
	dir := t.TempDir()
	o := options(t)
	o.SegmentSize, o.CompactRate = 4<<10, -1
	s := open(t, dir, o)
	var ids []spool.ID
	for range 40 {
		ids = append(ids, mustStore(t, s, box(1), text(len(ids), 500)).ID)
	}
	s.Close()
	segments := len(logFiles(t, dir))
	if segments < 4 {
		t.Fatalf("there are %d segments", segments)
	}
	for _, indexed := range []bool{true, false} {
		if !indexed {
			if err := os.RemoveAll(filepath.Join(dir, "index")); err != nil {
				t.Fatal(err)
			}
		}
		before := logFiles(t, dir)
		for at := range segments + 1 {
			ending, end := context.WithCancel(ctx)
			if at == 0 {
				end()
			}
			counting := &countingFS{FS: durable.OS, opened: func(n int) {
				if n == at {
					end()
				}
			}}
			o.FS = counting
			s, err := spool.OpenContext(ending, dir, o)
			if err == nil && indexed && at == segments {
				s.Close() // nothing was left to read
				continue
			}
			if !errors.Is(err, context.Canceled) || counting.n > at+1 {
				t.Errorf("told to stop at segment %d: %v, after %d", at, err, counting.n)
			}
			if !maps.Equal(before, logFiles(t, dir)) {
				t.Errorf("stopped at segment %d: the log has changed", at)
			}
			end()
		}
	}
	o.FS = durable.OS
	s = open(t, dir, o)
	for _, id := range ids {
		if _, err := read(s, id); err != nil {
			t.Error(err)
		}
	}
}
