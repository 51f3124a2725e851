package spool

import (
	"errors"
	"io"

	"cmtpd/internal/durable"
)

// copyFile copies a file into one that did not exist. Its bytes are durable then, its name is not.
//
//	open       to   O_CREAT|O_EXCL
//	pwrite     to
//	fdatasync  to
func copyFile(fsys durable.FS, from, to string) (n int64, err error) {
	f, err := fsys.Open(from)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	return copyOpen(fsys, f, to, 0)
}

// copyOpen is copyFile for a file that is open, or, from an offset on, for one whose bytes before
// that were copied.
func copyOpen(fsys durable.FS, f durable.File, to string, offset int64) (n int64, err error) {
	size, err := f.Size()
	if err != nil || (offset > 0 && size <= offset) {
		return 0, err
	}
	var out durable.File
	if offset == 0 {
		out, err = fsys.Create(to, 0o600)
	} else {
		out, err = fsys.OpenWrite(to)
	}
	if err != nil {
		return 0, err
	}
	n, err = io.CopyBuffer(io.NewOffsetWriter(out, offset), io.NewSectionReader(f, offset, size-offset), make([]byte, compactBuffer))
	if err == nil {
		err = out.Sync()
	}
	return n, errors.Join(err, out.Close())
}
