// Package durable is the only place that flushes to disk. It guarantees that
// what a function here reports as done survives a power cut, as far as the disk
// keeps its own promises, and it lets faults be injected below everything that
// depends on that (package durabletest).
//
// Each durable function has the system calls that are to be expected of it above
// it, in their order. An error leaves open which of them took effect: the caller
// must not tell anybody that the thing is stored, and after a failed flush it must
// not try again and believe the second answer, since the kernel may have
// dropped the pages that it could not write.
package durable

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// ErrLocked is what FS.Lock wraps when another process, or another part of this
// one, holds the lock or shares it.
var ErrLocked = errors.New("locked by another process")

// FS is a file system whose directories and files are flushed explicitly. Its
// methods are safe for concurrent use; its errors are *fs.PathError or
// *os.LinkError, and errors.Is finds fs.ErrNotExist and fs.ErrExist in them.
type FS interface {
	// Open opens a file for reading: open(O_RDONLY).
	Open(path string) (File, error)
	// OpenWrite opens a file that exists for reading and writing: open(O_RDWR).
	OpenWrite(path string) (File, error)
	// Create makes a file that did not exist: open(O_RDWR|O_CREAT|O_EXCL). Its
	// name is durable after SyncDir, its bytes are after File.Sync.
	Create(path string, mode fs.FileMode) (File, error)
	// Mkdir makes a directory: mkdir. It is durable after SyncDir of its parent.
	Mkdir(path string, mode fs.FileMode) error
	// ReadDir lists the names in a directory in ascending order.
	ReadDir(path string) ([]string, error)
	// Rename moves a file over whatever had the new name: rename. It is durable
	// after SyncDir of the new name's directory.
	Rename(from, to string) error
	// Link gives a file one more name, which nothing had: link. It is durable after SyncDir
	// of the new name's directory. Not every file system can.
	Link(from, to string) error
	// Remove deletes a file or an empty directory: unlink or rmdir.
	Remove(path string) error
	// SyncDir flushes a directory's names: open(O_DIRECTORY), fsync, close.
	SyncDir(path string) error
	// Lock takes the exclusive lock on a file, which it makes if need be, without
	// waiting: open(O_CREAT), flock(LOCK_EX|LOCK_NB). Closing frees it, and so does
	// the end of the process, however it comes.
	Lock(path string) (io.Closer, error)
	// LockShared takes a lock on a file that is there, which any number can share and which
	// excludes Lock. It waits while somebody has that: open(O_RDONLY), flock(LOCK_SH). Where
	// there are no locks errors.Is finds errors.ErrUnsupported in its error.
	LockShared(path string) (io.Closer, error)
}

// File is an open file. ReadAt may run beside any other method, as with os.File;
// WriteAt, Truncate and Sync are for one goroutine at a time.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	// Sync flushes the file's bytes and its length: fdatasync where there is one,
	// else fsync.
	Sync() error
	// Truncate cuts or extends the file: ftruncate. It is durable after Sync.
	Truncate(size int64) error
	// Size returns the file's length in bytes: fstat.
	Size() (int64, error)
}

// WriteFile replaces the file at path, atomically: after a crash at any point it
// holds either all of the old bytes or all of data, and after WriteFile has
// returned nil it holds data. Its directory must exist. A temporary file in the
// same directory, named ".<base>.<random>.tmp", may be left behind by a crash.
//
//	open       .<base>.<random>.tmp   O_CREAT|O_EXCL
//	pwrite     .<base>.<random>.tmp   data
//	fdatasync  .<base>.<random>.tmp
//	rename     .<base>.<random>.tmp   path
//	fsync      the directory
func WriteFile(fsys FS, path string, data []byte, mode os.FileMode) error {
	dir, base := filepath.Split(path)
	tmp := filepath.Join(dir, "."+base+"."+rand.Text()+".tmp")
	if err := WriteNew(fsys, tmp, data, mode); err != nil {
		return err
	}
	return Publish(fsys, tmp, path)
}

// WriteNew makes a file that did not exist, with data in it, and removes it again
// when that fails. Its bytes are durable, its name is not yet: Publish does that.
//
//	open       path   O_CREAT|O_EXCL
//	pwrite     path   data
//	fdatasync  path
func WriteNew(fsys FS, path string, data []byte, mode os.FileMode) error {
	f, err := fsys.Create(path, mode)
	if err != nil {
		return err
	}
	if len(data) > 0 {
		_, err = f.WriteAt(data, 0)
	}
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err != nil {
		err = errors.Join(err, fsys.Remove(path))
	}
	return err
}

// Publish gives a flushed file its final name, over whatever had that name. When
// the rename fails it removes the file at from.
//
//	rename  from   to
//	fsync   the directory of to
func Publish(fsys FS, from, to string) error {
	if err := fsys.Rename(from, to); err != nil {
		return errors.Join(err, fsys.Remove(from))
	}
	return fsys.SyncDir(filepath.Dir(to))
}

// MkdirAll makes a directory and those above it that are missing. It may have been
// made by a start that was cut short before the flush, so its parent is flushed in
// any case; those further up, which may belong to others and be unreadable, only when
// something is made in them.
//
//	mkdir  each one missing, the outermost first
//	fsync  its parent
func MkdirAll(fsys FS, path string, mode os.FileMode) error {
	path = filepath.Clean(path)
	err := fsys.Mkdir(path, mode)
	parent := filepath.Dir(path)
	if errors.Is(err, fs.ErrNotExist) && parent != path {
		if err := MkdirAll(fsys, parent, mode); err != nil {
			return err
		}
		err = fsys.Mkdir(path, mode)
	}
	if errors.Is(err, fs.ErrExist) {
		// A file in the directory's place is told from a directory by reading it.
		_, err = fsys.ReadDir(path)
	}
	if err != nil {
		return err
	}
	return fsys.SyncDir(parent)
}

// ReadFile returns the bytes of a file of at most limit bytes; a longer one is an
// error, found before it is read.
func ReadFile(fsys FS, path string, limit int64) ([]byte, error) {
	f, err := fsys.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	if size > limit {
		return nil, fmt.Errorf("%s has %d bytes, more than the limit of %d", path, size, limit)
	}
	data := make([]byte, size)
	if n, err := f.ReadAt(data, 0); n < len(data) {
		return nil, err
	}
	return data, nil
}

// RandomName returns a file name that nobody has: 16 random bytes as 32
// lower-case hex digits.
func RandomName() string {
	var b [16]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}
