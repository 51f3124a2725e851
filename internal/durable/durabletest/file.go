package durabletest

import (
	"io"
	"io/fs"
	"slices"
	"syscall"
)

// file is an open file. It stays usable when its name is gone.
type file struct {
	fs     *FS
	node   *node
	path   string
	write  bool
	closed bool // guarded by fs.mu
}

// check is called under the lock.
func (f *file) check(op string) error {
	switch {
	case f.fs.dead:
		return ErrCrashed
	case f.closed:
		return &fs.PathError{Op: op, Path: f.path, Err: fs.ErrClosed}
	}
	return nil
}

func (f *file) ReadAt(p []byte, off int64) (int, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if err := f.check("read"); err != nil {
		return 0, err
	}
	if f.node.dir {
		return 0, &fs.PathError{Op: "read", Path: f.path, Err: syscall.EISDIR}
	}
	if off >= int64(len(f.node.live)) {
		return 0, io.EOF
	}
	n := copy(p, f.node.live[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *file) WriteAt(p []byte, off int64) (n int, err error) {
	err = f.fs.change("write", f.path, func(fault Fault) error {
		if err := f.writable(); err != nil {
			return err
		}
		if n = len(p); fault == Short {
			n /= 2
		}
		f.modify(write{data: slices.Clone(p[:n]), offset: off})
		return nil
	}, nil)
	return n, err
}

func (f *file) Truncate(size int64) error {
	return f.fs.change("truncate", f.path, func(Fault) error {
		if err := f.writable(); err != nil {
			return err
		}
		f.modify(write{offset: size, cut: true})
		return nil
	}, nil)
}

func (f *file) writable() error {
	if f.closed {
		return fs.ErrClosed
	}
	if !f.write {
		return syscall.EBADF
	}
	return nil
}

func (f *file) modify(w write) {
	f.node.live = w.apply(f.node.live)
	f.node.pending = append(f.node.pending, w)
}

func (f *file) Sync() error {
	return f.fs.change("sync", f.path, func(Fault) error {
		if f.closed {
			return fs.ErrClosed
		}
		for _, w := range f.node.pending {
			f.node.synced = w.apply(f.node.synced)
		}
		f.node.pending = nil
		return nil
	}, func() { f.node.pending = nil })
}

func (f *file) Size() (int64, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if f.node.dir {
		return 4096, f.check("stat") // as ext4 says
	}
	return int64(len(f.node.live)), f.check("stat")
}

func (f *file) Close() error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	err := f.check("close")
	f.closed = true
	return err
}
