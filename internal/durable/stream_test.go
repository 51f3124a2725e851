package durable_test

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"syscall"
	"testing"

	"cmtpd/internal/durable"
	"cmtpd/internal/durable/durabletest"
)

// noDirect is a file on a file system that cannot go past the page cache: it says so at once,
// or with the first write.
type noDirect struct {
	durable.File
	late   bool
	direct bool
}

func (f *noDirect) Direct(on bool) error {
	if on && !f.late {
		return syscall.EINVAL
	}
	f.direct = on
	return nil
}

func (f *noDirect) WriteAt(p []byte, off int64) (int, error) {
	if f.direct {
		return 0, syscall.EINVAL
	}
	return f.File.WriteAt(p, off)
}

// TestStream writes files of all kinds of lengths in pieces of all kinds; the fake refuses
// direct writes that are not aligned.
func TestStream(t *testing.T) {
	files := map[string]func(durable.File) durable.File{
		"Direct":  func(f durable.File) durable.File { return f },
		"Refused": func(f durable.File) durable.File { return &noDirect{File: f} },
		"TooLate": func(f durable.File) durable.File { return &noDirect{File: f, late: true} },
	}
	for name, as := range files {
		t.Run(name, func(t *testing.T) {
			both(t, func(t *testing.T, fsys durable.FS, dir string) {
				const b = durable.StreamBuffer
				for _, size := range []int{0, 1, 4095, 4096, 4097, b - 1, b, b + 1, 3*b + 4096, 3*b + 5000} {
					for _, piece := range []int{1000, b, 2*b + 7} {
						path := filepath.Join(dir, fmt.Sprint(size, "-", piece))
						data := bytes.Repeat([]byte("0123456789abcdefg"), size/17+1)[:size]
						stream(t, fsys, path, data, piece, as)
						if got, err := durable.ReadFile(fsys, path, 8*b); err != nil || !bytes.Equal(got, data) {
							t.Errorf("%d bytes in pieces of %d: %d bytes, %v", size, piece, len(got), err)
						}
					}
				}
			})
		})
	}
}

func stream(t *testing.T, fsys durable.FS, path string, data []byte, piece int, as func(durable.File) durable.File) {
	t.Helper()
	f, err := fsys.Create(path, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	s := durable.NewStream(as(f))
	for len(data) > 0 {
		n, err := s.Write(data[:min(piece, len(data))])
		if err != nil {
			t.Fatal(err)
		}
		data = data[n:]
	}
	if err := errors.Join(s.Finish(), f.Sync(), f.Close()); err != nil {
		t.Fatal(err)
	}
	s.Abort() // does nothing any more
}

// A disk that is full says so, and the stream does not go on behind a gap.
func TestStream_Full(t *testing.T) {
	fsys := durabletest.New()
	f, err := fsys.Create("/file", 0o600)
	if err != nil {
		t.Fatal(err)
	}
	fsys.Inject(func(durabletest.Call) durabletest.Fault { return durabletest.Short })
	s := durable.NewStream(f)
	defer s.Abort()
	if _, err := s.Write(make([]byte, durable.StreamBuffer)); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("error %v, want ENOSPC", err)
	}
}
