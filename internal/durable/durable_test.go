package durable_test

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"time"

	"cmtpd/internal/durable"
	"cmtpd/internal/durable/durabletest"
)

// both runs a test on the real file system and on the one that stands in for it, so
// that the two cannot drift apart.
func both(t *testing.T, test func(t *testing.T, fsys durable.FS, dir string)) {
	t.Run("OS", func(t *testing.T) { test(t, durable.OS, t.TempDir()) })
	t.Run("Fake", func(t *testing.T) { test(t, durabletest.New(), "/") })
}

func write(tb testing.TB, fsys durable.FS, path, data string) {
	tb.Helper()
	if err := durable.WriteFile(fsys, path, []byte(data), 0o600); err != nil {
		tb.Fatal(err)
	}
}

func contents(fsys durable.FS, path string) string {
	b, err := durable.ReadFile(fsys, path, 1<<20)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

func TestFS_Conformance(t *testing.T) {
	both(t, func(t *testing.T, fsys durable.FS, dir string) {
		path := filepath.Join(dir, "file")
		if _, err := fsys.Open(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Open of nothing: %v", err)
		}
		if _, err := fsys.OpenWrite(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("OpenWrite of nothing: %v", err)
		}
		f, err := fsys.Create(path, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := fsys.Create(path, 0o600); !errors.Is(err, fs.ErrExist) {
			t.Errorf("Create over a file: %v", err)
		}
		if n, err := f.WriteAt([]byte("hello"), 3); n != 5 || err != nil {
			t.Errorf("WriteAt: %d, %v", n, err)
		}
		if err := f.Truncate(6); err != nil {
			t.Error(err)
		}
		if err := f.Sync(); err != nil {
			t.Error(err)
		}
		if size, err := f.Size(); size != 6 || err != nil {
			t.Errorf("Size: %d, %v", size, err)
		}
		b := make([]byte, 10)
		if n, err := f.ReadAt(b, 1); !bytes.Equal(b[:n], []byte("\x00\x00hel")) || err != io.EOF {
			t.Errorf("ReadAt: %q, %v", b[:n], err)
		}
		if err := f.Truncate(8); err != nil {
			t.Error(err)
		}
		if got := contents(fsys, path); got != "\x00\x00\x00hel\x00\x00" {
			t.Errorf("after growing: %q", got)
		}
		r, err := fsys.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.WriteAt([]byte("x"), 0); err == nil {
			t.Error("a file opened for reading was written")
		}
		if err := errors.Join(r.Close(), f.Close()); err != nil {
			t.Error(err)
		}
		if err := f.Close(); !errors.Is(err, fs.ErrClosed) {
			t.Errorf("Close twice: %v", err)
		}
	})
}

func TestFS_Names(t *testing.T) {
	both(t, func(t *testing.T, fsys durable.FS, dir string) {
		sub := filepath.Join(dir, "a", "b")
		if err := fsys.Mkdir(sub, 0o700); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Mkdir without a parent: %v", err)
		}
		for range 2 {
			if err := durable.MkdirAll(fsys, sub, 0o700); err != nil {
				t.Fatal(err)
			}
		}
		write(t, fsys, filepath.Join(sub, "x"), "x")
		write(t, fsys, filepath.Join(sub, "y"), "y")
		if err := fsys.Rename(filepath.Join(sub, "y"), filepath.Join(sub, "x")); err != nil {
			t.Error(err)
		}
		if err := fsys.Rename(filepath.Join(sub, "y"), filepath.Join(sub, "z")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Rename of nothing: %v", err)
		}
		names, err := fsys.ReadDir(sub)
		if !slices.Equal(names, []string{"x"}) || err != nil {
			t.Errorf("ReadDir: %q, %v", names, err)
		}
		if got := contents(fsys, filepath.Join(sub, "x")); got != "y" {
			t.Errorf("after Rename: %q", got)
		}
		if err := fsys.Link(filepath.Join(sub, "y"), filepath.Join(sub, "z")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Link of nothing: %v", err)
		}
		write(t, fsys, filepath.Join(sub, "w"), "w")
		if err := fsys.Link(filepath.Join(sub, "x"), filepath.Join(sub, "w")); !errors.Is(err, fs.ErrExist) {
			t.Errorf("Link over a file: %v", err)
		}
		if err := fsys.Link(filepath.Join(sub, "x"), filepath.Join(sub, "z")); err != nil {
			t.Error(err)
		}
		if err := fsys.Rename(filepath.Join(sub, "w"), filepath.Join(sub, "x")); err != nil {
			t.Error(err)
		}
		if x, z := contents(fsys, filepath.Join(sub, "x")), contents(fsys, filepath.Join(sub, "z")); x != "w" || z != "y" {
			t.Errorf("after Link and Rename: %q, %q", x, z)
		}
		if err := fsys.Remove(filepath.Join(sub, "z")); err != nil {
			t.Error(err)
		}
		if err := fsys.Remove(sub); err == nil {
			t.Error("a directory with a file in it was removed")
		}
		if err := durable.MkdirAll(fsys, filepath.Join(sub, "x"), 0o700); err == nil {
			t.Error("MkdirAll took a file for a directory")
		}
		if err := fsys.Remove(filepath.Join(sub, "x")); err != nil {
			t.Error(err)
		}
		if err := fsys.SyncDir(filepath.Join(sub, "x")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("SyncDir of nothing: %v", err)
		}
	})
}

func TestFS_Lock(t *testing.T) {
	both(t, func(t *testing.T, fsys durable.FS, dir string) {
		path := filepath.Join(dir, "lock")
		for range 2 {
			l, err := fsys.Lock(path)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := fsys.Lock(path); !errors.Is(err, durable.ErrLocked) {
				t.Errorf("second lock: %v", err)
			}
			if err := l.Close(); err != nil {
				t.Error(err)
			}
		}
	})
}

func TestFS_LockShared(t *testing.T) {
	both(t, func(t *testing.T, fsys durable.FS, dir string) {
		path := filepath.Join(dir, "readers")
		if _, err := fsys.LockShared(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("without the file: %v", err)
		}
		write(t, fsys, path, "")
		var locks []io.Closer
		for range 2 {
			l, err := fsys.LockShared(path)
			if err != nil {
				t.Fatal(err)
			}
			locks = append(locks, l)
		}
		for _, l := range locks {
			if _, err := fsys.Lock(path); !errors.Is(err, durable.ErrLocked) {
				t.Errorf("Lock of what is shared: %v", err)
			}
			l.Close()
		}
		l, err := fsys.Lock(path)
		if err != nil {
			t.Fatal(err)
		}
		shared := make(chan io.Closer)
		go func() {
			l, err := fsys.LockShared(path)
			if err != nil {
				t.Error(err)
			}
			shared <- l
		}()
		select {
		case <-shared:
			t.Error("shared while it was locked")
		case <-time.After(20 * time.Millisecond):
			l.Close()
			l = <-shared
		}
		if l != nil {
			l.Close()
		}
	})
}

func TestReadFile_Limit(t *testing.T) {
	both(t, func(t *testing.T, fsys durable.FS, dir string) {
		path := filepath.Join(dir, "file")
		write(t, fsys, path, "1234")
		if b, err := durable.ReadFile(fsys, path, 4); string(b) != "1234" || err != nil {
			t.Errorf("at the limit: %q, %v", b, err)
		}
		if _, err := durable.ReadFile(fsys, path, 3); err == nil {
			t.Error("one byte past the limit was read")
		}
	})
}

func TestWriteFile_Mode(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("no modes here")
	}
	path := filepath.Join(t.TempDir(), "file")
	write(t, durable.OS, path, "secret")
	info, err := os.Stat(path)
	if err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

// TestWriteFile_Crash fails every call of WriteFile in turn, both ways, and crashes: the file
// holds the old or the new bytes, and the new ones if WriteFile said so.
func TestWriteFile_Crash(t *testing.T) {
	for _, fault := range []durabletest.Fault{durabletest.None, durabletest.Before, durabletest.After, durabletest.Short} {
		for n := 1; ; n++ {
			reached := false
			for seed := range uint64(20) {
				fsys := durabletest.New()
				write(t, fsys, "/file", "old bytes")
				first := fsys.Calls()
				fsys.Inject(func(c durabletest.Call) durabletest.Fault {
					if c.N != first+n {
						return durabletest.None
					}
					reached = true
					return fault
				})
				err := durable.WriteFile(fsys, "/file", []byte("the new bytes"), 0o600)
				var r *rand.Rand
				if seed > 0 {
					r = rand.New(rand.NewPCG(seed, 0))
				}
				got := contents(fsys.Crash(r), "/file")
				if got != "the new bytes" && (err == nil || got != "old bytes") {
					t.Fatalf("call %d, fault %d, seed %d: %v, then %q", n, fault, seed, err, got)
				}
			}
			if !reached {
				if n < 6 {
					t.Fatalf("WriteFile made only %d calls", n-1)
				}
				break
			}
		}
	}
}

// TestFS_Crash shows that the stand-in forgets what was not flushed, which the tests
// that rely on it could not notice themselves.
func TestFS_Crash(t *testing.T) {
	fsys := durabletest.New()
	f, err := fsys.Create("/named", 0o600)
	if err != nil {
		t.Fatal(err)
	}
	f.WriteAt([]byte("kept"), 0)
	if err := errors.Join(f.Sync(), fsys.SyncDir("/")); err != nil {
		t.Fatal(err)
	}
	f.WriteAt([]byte("lost"), 4)
	if _, err := fsys.Create("/unnamed", 0o600); err != nil {
		t.Fatal(err)
	}
	after := fsys.Crash(nil)
	if got := contents(after, "/named"); got != "kept" {
		t.Errorf("named: %q", got)
	}
	if _, err := after.Open("/unnamed"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("unnamed: %v", err)
	}
	if _, err := f.WriteAt([]byte("x"), 0); !errors.Is(err, durabletest.ErrCrashed) {
		t.Errorf("write after the crash: %v", err)
	}
}

// A crash tears a write at any place, and where the file was long enough also in the middle.
func TestFS_Crash_Torn(t *testing.T) {
	found := make(map[string]bool)
	for seed := range uint64(200) {
		fsys := durabletest.New()
		f, err := fsys.Create("/file", 0o600)
		if err != nil {
			t.Fatal(err)
		}
		f.WriteAt(bytes.Repeat([]byte("a"), 1536), 0)
		if err := errors.Join(f.Sync(), fsys.SyncDir("/")); err != nil {
			t.Fatal(err)
		}
		f.WriteAt(bytes.Repeat([]byte("b"), 1536), 0)
		after := contents(fsys.Crash(rand.New(rand.NewPCG(seed, 0))), "/file")
		if len(after) != 1536 {
			t.Fatalf("%d bytes", len(after))
		}
		found[string([]byte{after[0], after[512], after[1024]})] = true
	}
	for _, want := range []string{"aaa", "baa", "aba", "aab", "bab", "bbb"} {
		if !found[want] {
			t.Errorf("no crash left %q", want)
		}
	}
}

// TestFS_FailedFlush shows that a flush which succeeds after one that failed does not
// bring back what that one lost.
func TestFS_FailedFlush(t *testing.T) {
	fsys := durabletest.New()
	write(t, fsys, "/file", "")
	f, err := fsys.OpenWrite("/file")
	if err != nil {
		t.Fatal(err)
	}
	fail := true
	fsys.Inject(func(c durabletest.Call) durabletest.Fault {
		if fail && c.Op == "sync" {
			return durabletest.Before
		}
		return durabletest.None
	})
	f.WriteAt([]byte("lost"), 0)
	if f.Sync() == nil {
		t.Fatal("no fault")
	}
	fail = false
	f.WriteAt([]byte("kept"), 4)
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	if got := contents(fsys.Crash(nil), "/file"); got != "\x00\x00\x00\x00kept" {
		t.Errorf("%q", got)
	}
}
