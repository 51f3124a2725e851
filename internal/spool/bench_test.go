package spool_test

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"cmtpd/internal/durable"
	"cmtpd/internal/spool"
)

// BenchmarkStore compares, on the same disk and in the same run: the spool; the same
// without segments that are written ahead ("append"); one file for each message, flushed and renamed ("files"); and a bare log with shared flushes that neither hashes,
// signs nor indexes ("bare"). It is run with -benchtime as a number of messages.
func BenchmarkStore(b *testing.B) {
	for _, load := range []struct{ writers, size int }{{1, 4 << 10}, {64, 4 << 10}, {8, 1 << 20}} {
		for _, store := range []struct {
			name string
			open func(*testing.B) func(n uint64, data []byte) error
		}{{"spool", benchAhead}, {"append", benchAppend}, {"bare", benchBare}, {"files", benchFiles}} {
			b.Run(fmt.Sprintf("writers=%d/size=%dK/%s", load.writers, load.size>>10, store.name), func(b *testing.B) {
				benchStore(b, load.writers, load.size, store.open(b))
			})
		}
	}
}

func benchStore(b *testing.B, writers, size int, store func(n uint64, data []byte) error) {
	b.SetBytes(int64(size))
	b.ReportAllocs()
	var next atomic.Int64
	var wg sync.WaitGroup
	b.ResetTimer()
	for range writers {
		wg.Go(func() {
			data := text(1, size)
			for n := next.Add(1); n <= int64(b.N); n = next.Add(1) {
				binary.BigEndian.PutUint64(data, uint64(n))
				if err := store(uint64(n), data); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func benchAhead(b *testing.B) func(uint64, []byte) error  { return benchSpool(b, false) }
func benchAppend(b *testing.B) func(uint64, []byte) error { return benchSpool(b, true) }

// benchSpool begins with a segment that is written ahead, if there is to be any.
func benchSpool(b *testing.B, noSpare bool) func(uint64, []byte) error {
	o := options(b)
	o.NoSpare = noSpare
	s := open(b, b.TempDir(), o)
	for i := range 300 { // more than a segment
		mustStore(b, s, box(1), text(i, 250<<10))
	}
	before := s.Head().Number
	b.Cleanup(func() {
		if b.N > 1 {
			b.ReportMetric(float64(s.Head().Number-before)/float64(b.N), "flushes/op")
		}
	})
	return func(n uint64, data []byte) error {
		_, err := benchPut(s, n, data)
		return err
	}
}

func benchPut(s *spool.Spool, n uint64, data []byte) (spool.Stored, error) {
	w := s.NewWriter()
	defer w.Abort()
	for p := data; len(p) > 0; { // as it comes from a connection
		k := min(len(p), 32<<10)
		if _, err := w.Write(p[:k]); err != nil {
			return spool.Stored{}, err
		}
		p = p[k:]
	}
	var d [8]byte
	binary.BigEndian.PutUint64(d[:], n)
	return w.Commit(ctx, spool.Entry{Mailbox: box(byte(1 + n%200)), Digest: sha256.Sum256(d[:]), From: "192.0.2.1:4711"})
}

// BenchmarkStoreRemove is a spool from which as much is removed as comes in, while it is
// compacted. Files are used again, or, beside somebody who reads ("zeros"), not.
func BenchmarkStoreRemove(b *testing.B) {
	const size, kept, atOnce = 4 << 10, 4000, 256
	for _, writers := range []int{1, 64} {
		for _, mode := range []string{"recycle", "zeros"} {
			b.Run(fmt.Sprintf("writers=%d/size=%dK/%s", writers, size>>10, mode), func(b *testing.B) {
				dir, fsys := b.TempDir(), &spareCounter{FS: durable.OS}
				o := options(b)
				o.FS, o.NoSpare, o.SegmentSize, o.CompactRate = fsys, false, 8<<20, 1<<30
				s := open(b, dir, o)
				if mode == "zeros" {
					lock, err := durable.OS.LockShared(filepath.Join(dir, "readers"))
					if err != nil {
						b.Fatal(err)
					}
					defer lock.Close()
				}
				stored := make(chan spool.ID, kept+atOnce)
				benchStore(b, writers, size, func(n uint64, data []byte) error {
					st, err := benchPut(s, n, data)
					if err != nil {
						return err
					}
					if stored <- st.ID; n%atOnce != 0 || n < kept {
						return nil
					}
					ids := make([]spool.ID, atOnce)
					for i := range ids {
						ids[i] = <-stored
					}
					_, err = s.RemoveAll(ctx, ids, "user")
					return err
				})
				b.ReportMetric(float64(fsys.zeros.Load())/float64(b.N), "zeros/op")
				b.ReportMetric(float64(fsys.recycled.Load()), "recycled")
			})
		}
	}
}

// spareCounter counts zero bytes that are written ahead, and files that are used again.
type spareCounter struct {
	durable.FS
	zeros, recycled atomic.Int64
}

func (c *spareCounter) OpenWrite(path string) (durable.File, error) {
	f, err := c.FS.OpenWrite(path)
	if err != nil || !strings.Contains(path, "/spare/") {
		return f, err
	}
	c.recycled.Add(1)
	return &spareFile{f, c}, nil
}

func (c *spareCounter) Create(path string, mode fs.FileMode) (durable.File, error) {
	f, err := c.FS.Create(path, mode)
	if err != nil || !strings.Contains(path, "/spare/") {
		return f, err
	}
	return &spareFile{f, c}, nil
}

type spareFile struct {
	durable.File
	c *spareCounter
}

// WriteAt counts what does not begin as a record or a header does.
func (f *spareFile) WriteAt(b []byte, off int64) (int, error) {
	if len(b) >= 16 && [16]byte(b) == [16]byte{} {
		f.c.zeros.Add(int64(len(b)))
	}
	return f.File.WriteAt(b, off)
}

func benchFiles(b *testing.B) func(uint64, []byte) error {
	dir := b.TempDir()
	return func(n uint64, data []byte) error {
		return durable.WriteFile(durable.OS, filepath.Join(dir, fmt.Sprint(n)), data, 0o600)
	}
}

func benchBare(b *testing.B) func(uint64, []byte) error {
	f, err := durable.OS.Create(filepath.Join(b.TempDir(), "log"), 0o600)
	if err != nil {
		b.Fatal(err)
	}
	type request struct {
		data []byte
		done chan error
	}
	requests := make(chan request, 64)
	go func() {
		var buf []byte
		var offset int64
		for r := range requests {
			batch := []request{r}
			buf = append(buf[:0], r.data...)
			for more := true; more && len(buf) < 4<<20; {
				select {
				case r, more = <-requests:
					if more {
						batch, buf = append(batch, r), append(buf, r.data...)
					}
				default:
					more = false
				}
			}
			_, err := f.WriteAt(buf, offset)
			if err == nil {
				err = f.Sync()
			}
			offset += int64(len(buf))
			for _, r := range batch {
				r.done <- err
			}
		}
		f.Close()
	}()
	b.Cleanup(func() { close(requests) })
	return func(_ uint64, data []byte) error {
		done := make(chan error, 1)
		requests <- request{data, done}
		return <-done
	}
}
