// Package durabletest is a file system in memory for tests of what must survive a
// crash. It guarantees no more than POSIX does: bytes are durable after a
// successful Sync, names after a successful SyncDir of their directory, and bytes
// that a failed Sync lost stay lost when a later one succeeds, as long as nobody writes
// them again. Each call that changes something can be made to fail, before or
// after it took effect.
package durabletest

import (
	"errors"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"cmtpd/internal/durable"
)

// ErrCrashed is what every call returns after Crash.
var ErrCrashed = errors.New("the machine has crashed")

// A Call is one that changes something, about to be carried out.
type Call struct {
	N    int    // counts from 1
	Op   string // create, mkdir, write, truncate, sync, rename, link, remove, syncdir
	Path string // of a rename or link: the new name
}

// A Fault says how a Call fails.
type Fault int

const (
	None   Fault = iota // it does not
	Before              // it fails with EIO and has no effect; the bytes of a Sync are lost at a crash
	After               // it fails with EIO though it took effect
	Short               // a write fails with ENOSPC after half of its bytes; any other call, as Before
)

// FS is the file system. It has one directory, "/", when it is new. Its methods are
// safe for concurrent use.
type FS struct {
	mu     sync.Mutex
	root   *node
	calls  int
	inject func(Call) Fault
	locks  map[string]int // how many share each, or exclusive
	freed  *sync.Cond     // some lock was given back, or the machine is dead
	dead   bool
}

var _ durable.FS = (*FS)(nil)

// node is a file or directory: as processes see it, and as a crash would leave it.
type node struct {
	dir     bool
	live    []byte
	synced  []byte
	pending []write // since the last flush

	names       map[string]*node
	syncedNames map[string]*node
	renames     []naming // since the last flush
}

// write is data at an offset, or a length to cut the file to.
type write struct {
	data   []byte
	offset int64
	cut    bool
}

// naming gives a node a name, or takes the name away.
type naming struct {
	name string
	node *node
}

func newDir() *node {
	return &node{dir: true, names: make(map[string]*node), syncedNames: make(map[string]*node)}
}

// New returns an empty file system.
func New() *FS {
	f := &FS{root: newDir(), locks: make(map[string]int)}
	f.freed = sync.NewCond(&f.mu)
	return f
}

// Inject has f decide how each Call goes from now on; nil lets all succeed. f must not
// use the file system.
func (f *FS) Inject(inject func(Call) Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.inject = inject
}

// Calls returns the number of Calls so far.
func (f *FS) Calls() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls
}

// Crash cuts the power. It returns what is found after it: all that was flushed, and,
// if r is not nil, of what was not a prefix of r's choice for each file and directory, and some
// sectors of the write that comes next.
// The old file system only fails from then on.
func (f *FS) Crash(r *rand.Rand) *FS {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dead = true
	f.freed.Broadcast()
	after := New()
	after.root = f.root.afterCrash(r, make(map[*node]*node))
	return after
}

// Kill ends the process: open files and locks are gone, but the kernel still has all
// that was written. It returns what the next process finds; the old file system only
// fails from then on.
func (f *FS) Kill() *FS {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dead = true
	f.freed.Broadcast()
	after := New()
	after.root = f.root
	return after
}

// afterCrash copies a node. A file that has two names stays one file.
func (n *node) afterCrash(r *rand.Rand, done map[*node]*node) *node {
	if c, ok := done[n]; ok {
		return c
	}
	if !n.dir {
		c := &node{synced: slices.Clone(n.synced)}
		done[n] = c
		if r != nil && len(n.pending) > 0 {
			keep := r.IntN(len(n.pending) + 1)
			for _, w := range n.pending[:keep] {
				c.synced = w.apply(c.synced)
			}
			if keep < len(n.pending) && !n.pending[keep].cut {
				for _, w := range n.pending[keep].tear(r) {
					c.synced = w.apply(c.synced)
				}
			}
		}
		c.live = slices.Clone(c.synced)
		return c
	}
	c := newDir()
	done[n] = c
	names := maps.Clone(n.syncedNames)
	if r != nil {
		apply(names, n.renames[:r.IntN(len(n.renames)+1)])
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		c.syncedNames[name] = names[name].afterCrash(r, done)
	}
	c.names = maps.Clone(c.syncedNames)
	return c
}

func apply(names map[string]*node, ops []naming) {
	for _, op := range ops {
		if op.node == nil {
			delete(names, op.name)
		} else {
			names[op.name] = op.node
		}
	}
}

// sector is what a disk writes as a whole or not at all, in bytes.
const sector = 512

// tear returns what of a write reached the disk: its beginning, or sectors in no order.
func (w write) tear(r *rand.Rand) (parts []write) {
	if r.IntN(2) == 0 {
		return []write{{data: w.data[:r.IntN(len(w.data)+1)], offset: w.offset}}
	}
	for len(w.data) > 0 {
		n := min(int64(len(w.data)), sector-w.offset%sector)
		if r.IntN(2) == 0 {
			parts = append(parts, write{data: w.data[:n], offset: w.offset})
		}
		w.data, w.offset = w.data[n:], w.offset+n
	}
	return parts
}

func (w write) apply(b []byte) []byte {
	end := w.offset + int64(len(w.data))
	if w.cut && w.offset < int64(len(b)) {
		return b[:w.offset]
	}
	if end > int64(len(b)) {
		b = append(b, make([]byte, end-int64(len(b)))...)
	}
	copy(b[w.offset:], w.data)
	return b
}

// change carries out one Call under the lock. lose is what a failed flush does.
func (f *FS) change(op, path string, do func(fault Fault) error, lose func()) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.dead {
		return ErrCrashed
	}
	f.calls++
	fault := None
	if f.inject != nil {
		fault = f.inject(Call{N: f.calls, Op: op, Path: path})
	}
	injected := &fs.PathError{Op: op, Path: path, Err: syscall.EIO}
	switch {
	case fault == Short && op == "write":
		injected.Err = syscall.ENOSPC
		if err := do(fault); err != nil {
			return err
		}
		return injected
	case fault == Before || fault == Short:
		if lose != nil {
			lose()
		}
		return injected
	}
	if err := do(fault); err != nil {
		return &fs.PathError{Op: op, Path: path, Err: err}
	}
	if fault == After {
		return injected
	}
	return nil
}

// find returns a path's directory, the last element, and what is there, if anything.
func (f *FS) find(path string) (dir *node, name string, n *node, err error) {
	path = filepath.Clean("/" + path)
	if path == "/" {
		return nil, "", f.root, nil
	}
	dir = f.root
	elems := strings.Split(path[1:], "/")
	for _, e := range elems[:len(elems)-1] {
		dir = dir.names[e]
		if dir == nil {
			return nil, "", nil, fs.ErrNotExist
		}
		if !dir.dir {
			return nil, "", nil, syscall.ENOTDIR
		}
	}
	name = elems[len(elems)-1]
	return dir, name, dir.names[name], nil
}

// set gives or takes a name.
func (n *node) set(name string, to *node) {
	op := []naming{{name, to}}
	apply(n.names, op)
	n.renames = append(n.renames, op...)
}

// Open implements durable.FS.
func (f *FS) Open(path string) (durable.File, error) { return f.open(path, false) }

// OpenWrite implements durable.FS.
func (f *FS) OpenWrite(path string) (durable.File, error) { return f.open(path, true) }

func (f *FS) open(path string, write bool) (durable.File, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.dead {
		return nil, ErrCrashed
	}
	_, _, n, err := f.find(path)
	if err == nil && n == nil {
		err = fs.ErrNotExist
	}
	if err == nil && write && n.dir {
		err = syscall.EISDIR
	}
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return &file{fs: f, node: n, path: path, write: write}, nil
}

// Create implements durable.FS. There are no modes here.
func (f *FS) Create(path string, _ fs.FileMode) (durable.File, error) {
	n := &node{}
	if err := f.make("create", path, n); err != nil {
		return nil, err
	}
	return &file{fs: f, node: n, path: path, write: true}, nil
}

// Mkdir implements durable.FS.
func (f *FS) Mkdir(path string, _ fs.FileMode) error { return f.make("mkdir", path, newDir()) }

func (f *FS) make(op, path string, n *node) error {
	return f.change(op, path, func(Fault) error {
		dir, name, there, err := f.find(path)
		if err != nil {
			return err
		}
		if there != nil {
			return fs.ErrExist
		}
		dir.set(name, n)
		return nil
	}, nil)
}

// ReadDir implements durable.FS.
func (f *FS) ReadDir(path string) ([]string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.dead {
		return nil, ErrCrashed
	}
	_, _, n, err := f.find(path)
	if err == nil && n == nil {
		err = fs.ErrNotExist
	}
	if err == nil && !n.dir {
		err = syscall.ENOTDIR
	}
	if err != nil {
		return nil, &fs.PathError{Op: "readdir", Path: path, Err: err}
	}
	return slices.Sorted(maps.Keys(n.names)), nil
}

// Rename implements durable.FS, for files.
func (f *FS) Rename(from, to string) error {
	return f.name("rename", from, to, func(src, dst *node, srcName, dstName string) error {
		dst.set(dstName, src.names[srcName])
		src.set(srcName, nil)
		return nil
	})
}

// Link implements durable.FS.
func (f *FS) Link(from, to string) error {
	return f.name("link", from, to, func(src, dst *node, srcName, dstName string) error {
		if dst.names[dstName] != nil {
			return fs.ErrExist
		}
		dst.set(dstName, src.names[srcName])
		return nil
	})
}

// name gives a file that is there another name.
func (f *FS) name(op, from, to string, do func(src, dst *node, srcName, dstName string) error) error {
	err := f.change(op, to, func(Fault) error {
		src, srcName, n, err := f.find(from)
		if err != nil {
			return err
		}
		dst, dstName, _, err := f.find(to)
		if err != nil {
			return err
		}
		if n == nil {
			return fs.ErrNotExist
		}
		return do(src, dst, srcName, dstName)
	}, nil)
	if pe, ok := err.(*fs.PathError); ok {
		return &os.LinkError{Op: op, Old: from, New: to, Err: pe.Err}
	}
	return err
}

// Remove implements durable.FS.
func (f *FS) Remove(path string) error {
	return f.change("remove", path, func(Fault) error {
		dir, name, n, err := f.find(path)
		if err != nil {
			return err
		}
		if n == nil {
			return fs.ErrNotExist
		}
		if len(n.names) > 0 {
			return syscall.ENOTEMPTY
		}
		dir.set(name, nil)
		return nil
	}, nil)
}

// SyncDir implements durable.FS.
func (f *FS) SyncDir(path string) error {
	return f.change("syncdir", path, func(Fault) error {
		_, _, n, err := f.find(path)
		if err != nil {
			return err
		}
		if n == nil {
			return fs.ErrNotExist
		}
		apply(n.syncedNames, n.renames)
		n.renames = nil
		return nil
	}, nil)
}

// Lock implements durable.FS.
func (f *FS) Lock(path string) (io.Closer, error) {
	c, err := f.Create(path, 0o600)
	if errors.Is(err, fs.ErrExist) {
		c, err = f.OpenWrite(path)
	}
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.locks[path] != 0 {
		return nil, &fs.PathError{Op: "lock", Path: path, Err: durable.ErrLocked}
	}
	f.locks[path] = exclusive
	return &unlocker{Closer: c, fs: f, path: path}, nil
}

// exclusive is what locks has for a lock that nobody shares.
const exclusive = -1

// LockShared implements durable.FS.
func (f *FS) LockShared(path string) (io.Closer, error) {
	c, err := f.Open(path)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for f.locks[path] == exclusive && !f.dead {
		f.freed.Wait()
	}
	if f.dead {
		return nil, ErrCrashed
	}
	f.locks[path]++
	return &unlocker{Closer: c, fs: f, path: path}, nil
}

type unlocker struct {
	io.Closer
	fs   *FS
	path string
	done bool // guarded by fs.mu
}

func (u *unlocker) Close() error {
	u.fs.mu.Lock()
	if !u.done {
		u.done = true
		u.fs.locks[u.path] = max(u.fs.locks[u.path]-1, 0)
		u.fs.freed.Broadcast()
	}
	u.fs.mu.Unlock()
	return u.Closer.Close()
}
