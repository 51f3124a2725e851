package letter_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"cmtpd/internal/cmtp"
	"cmtpd/internal/crypt"
	"cmtpd/internal/letter"
)

func TestOpenFile(t *testing.T) {
	dir := t.TempDir()
	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]error{
		dir: letter.ErrNotRegular, link: letter.ErrNotRegular, "/dev/null": letter.ErrNotRegular,
		pipe:                           letter.ErrNotRegular, // and it does not wait for a writer
		filepath.Join(dir, "not here"): fs.ErrNotExist,
	} {
		if _, err := letter.OpenFile(path); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", path, err, want)
		}
	}
}

// A file that changes while it is sent, in whatever way, must leave a message that
// nobody can take for a whole one.
func TestFile_Changes(t *testing.T) {
	const size = 300 << 10
	restamp := func(path string, stamp time.Time) error { return os.Chtimes(path, stamp, stamp) }
	changes := map[string]struct {
		change func(path string, stamp time.Time) error
		want   error
	}{
		"Grown": {func(path string, _ time.Time) error { return os.Truncate(path, size+1) }, letter.ErrChanged},
		"GrownUnnoticed": {func(path string, stamp time.Time) error {
			return errors.Join(os.Truncate(path, size+1), restamp(path, stamp))
		}, letter.ErrChanged},
		"Cut":       {func(path string, _ time.Time) error { return os.Truncate(path, size-1) }, letter.ErrChanged},
		"CutToZero": {func(path string, _ time.Time) error { return os.Truncate(path, 0) }, letter.ErrChanged},
		"Rewritten": {func(path string, _ time.Time) error { return overwrite(path, 0) }, letter.ErrChanged},
		"Restamped": {func(path string, stamp time.Time) error { return restamp(path, stamp.Add(time.Hour)) }, letter.ErrChanged},
		"FirstByte": {func(path string, stamp time.Time) error { return errors.Join(overwrite(path, 0), restamp(path, stamp)) }, crypt.ErrChanged},
		"LastByte": {func(path string, stamp time.Time) error {
			return errors.Join(overwrite(path, size-1), restamp(path, stamp))
		}, crypt.ErrChanged},
		"NotAtAll":   {func(string, time.Time) error { return nil }, nil},
		"OnlyItself": {func(path string, stamp time.Time) error { return restamp(path, stamp) }, nil},
	}
	for name, tt := range changes {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "file")
			if err := os.WriteFile(path, bytes.Repeat([]byte("x"), size), 0o600); err != nil {
				t.Fatal(err)
			}
			f, err := letter.OpenFile(path)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			info, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			d := &letter.Draft{Time: now, Attachments: []letter.Attachment{f.Attachment()}}
			m, err := d.Seal(alice, bob, key(t, 1).Public())
			if err != nil {
				t.Fatal(err)
			}
			if err := tt.change(path, info.ModTime()); err != nil {
				t.Fatal(err)
			}
			var sent bytes.Buffer
			if _, err := m.WriteTo(&sent); !errors.Is(err, tt.want) {
				t.Errorf("error %v, want %v", err, tt.want)
			}
			_, err = cmtp.ParseLayout(bytes.NewReader(sent.Bytes()), int64(sent.Len()))
			if whole := err == nil; whole != (tt.want == nil) {
				t.Errorf("the message is whole: %v", whole)
			}
		})
	}
}

// overwrite changes one byte.
func overwrite(path string, at int64) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt([]byte("y"), at)
	return errors.Join(err, f.Close())
}

func TestFile_ChangesBeforeSealing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := letter.OpenFile(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := os.Truncate(path, 100); err != nil {
		t.Fatal(err)
	}
	d := &letter.Draft{Time: now, Attachments: []letter.Attachment{f.Attachment()}}
	if _, err := d.Seal(alice, bob, key(t, 1).Public()); !errors.Is(err, letter.ErrChanged) {
		t.Errorf("error %v, want ErrChanged", err)
	}
}
