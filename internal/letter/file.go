package letter

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/text/unicode/norm"

	"cmtpd/internal/cmtp"
)

// A File is a regular file that is being sent.
type File struct {
	f    *os.File
	size int64
	time time.Time // of its last change when it was opened
}

// OpenFile opens the file at path to be attached. What cannot be read twice, a
// pipe, a device or a directory, is refused with ErrNotRegular.
func OpenFile(path string) (*File, error) {
	// Without O_NONBLOCK, opening a pipe waits for somebody to write to it.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("attaching a file: %w", err)
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s: %w but a %s", path, ErrNotRegular, kind(info.Mode()))
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("attaching a file: %w", err)
	}
	return &File{f: f, size: info.Size(), time: info.ModTime()}, nil
}

func kind(m fs.FileMode) string {
	switch {
	case m.IsDir():
		return "directory"
	case m&fs.ModeNamedPipe != 0:
		return "pipe"
	case m&fs.ModeDevice != 0:
		return "device"
	}
	return "special file"
}

// Attachment returns the file as an attachment under the last element of its
// path. It is good until Close.
func (f *File) Attachment() Attachment {
	return Attachment{Name: filepath.Base(f.f.Name()), Size: f.size, Data: f}
}

// Modified returns when the file was changed last before it was opened.
func (f *File) Modified() time.Time { return f.time }

// Close closes the file.
func (f *File) Close() error { return f.f.Close() }

// ReadAt reads from the file. Reading up to its end fails with ErrChanged when
// it is no longer the file that was opened: crypt notices other bytes, but
// neither a file that has grown nor a change between its two passes that was
// undone. The last bytes are not handed out then, so no message gets whole.
func (f *File) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.f.ReadAt(p, off)
	if off+int64(n) < f.size && err == nil {
		return n, nil
	}
	info, serr := f.f.Stat()
	if serr != nil {
		return 0, serr
	}
	if info.Size() != f.size || !info.ModTime().Equal(f.time) {
		return 0, fmt.Errorf("%s: %w", f.f.Name(), ErrChanged)
	}
	return n, err
}

// sentName returns the form in which an attachment's name is sent: never a path,
// in NFC, so that it looks the same wherever it is typed.
func sentName(name string) (string, error) {
	name = name[strings.LastIndexByte(name, '/')+1:]
	name = norm.NFC.String(strings.ToValidUTF8(name, "\uFFFD"))
	if name == "" || strings.IndexByte(name, 0) >= 0 || len(name) > cmtp.MaxFileName {
		return "", fmt.Errorf("%w: %q is no file name", ErrField, name)
	}
	return name, nil
}
