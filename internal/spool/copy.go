package spool

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"path/filepath"

	"cmtpd/internal/crypt"
	"cmtpd/internal/durable"
)

// copyRounds bounds how often Copy looks again for what was changed meanwhile. Each round
// reads only that.
const copyRounds = 20

// Copy copies the spool in from, up to one of its commits, into the new directory to, and verifies
// the copy: identity, progress and want are Verify's. It changes nothing in from, and works
// beside a running writer, its removals and compactions; no file is used again meanwhile. The copy is flushed, but for the name of to
// itself, and has index files.
//
// A copy that is damaged, or that lacks a wanted head, is an error that wraps ErrUnproven, with
// the Report.
func Copy(ctx context.Context, fsys durable.FS, from, to string, identity crypt.PublicKey,
	progress func(done, total int64), want ...Head) (r Report, err error) {
	lock, err := lockShared(fsys, from)
	if err != nil {
		return r, fmt.Errorf("copy spool %s: %w", from, err)
	}
	defer lock.Close()
	c := &copier{fs: fsys, from: from, to: to, copied: make(map[string]copied), progress: progress}
	if r, err = c.run(ctx, identity, want); err != nil {
		return r, fmt.Errorf("copy spool %s: %w", from, err)
	}
	return r, nil
}

type copier struct {
	fs       durable.FS
	from, to string
	copied   map[string]copied // by segment's name
	merged   []string          // segments that one before them says it stands for; not copied
	progress func(done, total int64)
	done     int64
	total    int64
}

// copied is how far a segment was copied.
type copied struct {
	generation uint64
	size       int64
}

// run copies the log first and then the large files that it names. One that is gone by then was removed
// by a later commit, and so was data that a compaction took away meanwhile: then the log is copied up to
// that commit, too.
//
//	open, pwrite, fdatasync  log/<sequence>.seg, large/<name>   O_CREAT|O_EXCL
//	ftruncate, fdatasync     log/<sequence>.seg                 the newest, to its last commit
//	fsync                    every directory
func (c *copier) run(ctx context.Context, identity crypt.PublicKey, want []Head) (r Report, err error) {
	if c.total, err = totalSize(c.fs, c.from); err != nil {
		return r, err
	}
	for _, d := range []string{"", "log", "large", "index"} {
		if err := durable.MkdirAll(c.fs, filepath.Join(c.to, d), 0o700); err != nil {
			return r, err
		}
	}
	shell := &Spool{fs: c.fs, dir: c.to, log: slog.New(slog.DiscardHandler)}
	for range copyRounds {
		if err := c.log(ctx); err != nil {
			return r, err
		}
		w := newWalker(c.fs, c.to)
		w.sealed = shell.seal
		if err := w.walk(ctx); err != nil {
			return r, err
		}
		if err := c.cut(w); err != nil {
			return r, err
		}
		missing, err := c.large(ctx, w)
		if err == nil {
			err = c.superseded(w)
		}
		if err != nil {
			return r, err
		}
		if missing == 0 && len(w.gone) == 0 {
			break
		}
	}
	for _, d := range []string{"log", "large", "index", ""} {
		if err := c.fs.SyncDir(filepath.Join(c.to, d)); err != nil {
			return r, err
		}
	}
	copying := c.done
	verifying := func(done, total int64) {
		if c.progress != nil {
			c.progress(copying+done, copying+total)
		}
	}
	if r, err = verify(ctx, c.fs, c.to, identity, verifying, want, shell.seal); err != nil {
		return r, err
	}
	return r, r.Err()
}

// log copies what the log has that was not copied yet.
func (c *copier) log(ctx context.Context) error {
	err := again(func() error { return c.list(ctx) })
	if errors.Is(err, ErrMoved) {
		err = nil // a segment is missing for good: verifying says so
	}
	return err
}

func (c *copier) list(ctx context.Context) error {
	names, err := c.fs.ReadDir(filepath.Join(c.from, "log"))
	if err != nil {
		return err
	}
	last, there := uint64(0), make(map[string]bool)
	c.merged = nil
	for _, name := range names {
		sequence, err := parseSegmentName(name)
		if err != nil {
			return fmt.Errorf("%w: log/%s is %w", ErrUnproven, name, err)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if sequence <= last {
			c.merged = append(c.merged, name)
			continue
		}
		h, err := c.segment(name)
		if errors.Is(err, fs.ErrNotExist) {
			return ErrMoved
		}
		if err != nil {
			return err
		}
		last, there[name] = max(h.last, sequence), true
	}
	for name := range c.copied {
		if !there[name] {
			delete(c.copied, name)
			if err := c.fs.Remove(filepath.Join(c.to, "log", name)); err != nil {
				return err
			}
		}
	}
	return nil
}

// superseded checks that what was not copied is what a compaction has left behind: it begins before the
// end of the copy. Else a header claims segments that it does not hold, and the copy would be whole
// without them.
func (c *copier) superseded(w *walker) error {
	for _, name := range c.merged {
		f, err := c.fs.Open(filepath.Join(c.from, "log", name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		b := make([]byte, headerSize)
		n, err := f.ReadAt(b, 0)
		f.Close()
		if err != nil && err != io.EOF {
			return err
		}
		if h, err := parseHeader(b[:n]); err != nil || h.before.Number >= w.chain.head.Number {
			return fmt.Errorf("%w: log/%s is not what the segment before it says that it stands for", ErrUnproven, name)
		}
	}
	return nil
}

// segment copies a segment, or what it has grown by.
func (c *copier) segment(name string) (h header, err error) {
	path, to := filepath.Join(c.from, "log", name), filepath.Join(c.to, "log", name)
	f, err := c.fs.Open(path)
	if err != nil {
		return h, err
	}
	defer f.Close()
	b := make([]byte, headerSize)
	if n, err := f.ReadAt(b, 0); n == len(b) {
		h, _ = parseHeader(b) // verifying says what is wrong with it
	} else if size, sizeErr := f.Size(); sizeErr != nil || size >= headerSize {
		return h, errors.Join(err, sizeErr)
	}
	was, ok := c.copied[name]
	if ok && was.generation != h.generation {
		delete(c.copied, name)
		if err := c.fs.Remove(to); err != nil {
			return h, err
		}
		was = copied{}
	}
	n, err := copyOpen(c.fs, f, to, was.size)
	c.copied[name] = copied{h.generation, was.size + n}
	c.count(n)
	return h, err
}

// count shows the progress of the first half, the copying.
func (c *copier) count(n int64) {
	c.done += n
	if c.progress != nil {
		c.progress(c.done, max(2*c.total, c.done))
	}
}

// cut cuts off what follows the last commit.
func (c *copier) cut(w *walker) error {
	newest := w.before()
	if newest == nil {
		return nil
	}
	f, err := c.fs.OpenWrite(newest.path)
	if err != nil {
		return err
	}
	if err = f.Truncate(newest.size); err == nil {
		err = f.Sync()
	}
	name := filepath.Base(newest.path)
	c.copied[name] = copied{c.copied[name].generation, newest.size}
	return errors.Join(err, f.Close())
}

// large copies the large files of messages that are there, and removes those of others. It
// returns how many the spool does not have any more.
func (c *copier) large(ctx context.Context, w *walker) (missing int, err error) {
	names, err := c.fs.ReadDir(filepath.Join(c.to, "large"))
	if err != nil {
		return 0, err
	}
	there := make(map[string]bool, len(names))
	for _, name := range names {
		there[name] = true
	}
	for file, id := range w.large {
		name := hex.EncodeToString(file[:])
		path := filepath.Join(c.to, "large", name)
		removed := w.chain.index.removed.has(id)
		switch {
		case removed && there[name]:
			err = c.fs.Remove(path)
		case !removed && !there[name]:
			var n int64
			n, err = copyFile(c.fs, filepath.Join(c.from, "large", name), path)
			c.count(n)
		}
		if errors.Is(err, fs.ErrNotExist) {
			missing, err = missing+1, nil
		}
		if err = errors.Join(err, ctx.Err()); err != nil {
			return missing, err
		}
	}
	return missing, nil
}
