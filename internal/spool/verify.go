package spool

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"cmtpd/internal/crypt"
	"cmtpd/internal/durable"
)

// ErrUnproven is what Report.Err wraps.
var ErrUnproven = errors.New("spool: not as it was written")

// Report is what Verify found.
type Report struct {
	Head     Head // the last commit that counts
	Commits  uint64
	Messages uint64          // that are there: not the removed ones
	Removed  uint64          // messages that were removed
	Bytes    int64           // of log and large files
	Key      crypt.PublicKey // the spool key in force at the end
	Identity crypt.PublicKey // the identity key in force at the end
	Torn     int64           // bytes after the last commit: what a crash left, or a writer is at work on
	Damage   []Damage        // in the order of the log, what fails first comes first
	Scars    []Scar          // what was damage until it was repaired
	Lost     []ID            // messages that a repair removed, since their data was damaged
	Missing  []Head          // of those that were wanted
	Foreign  bool            // Identity is not the one that the chain has to end with
}

// Err returns nil where everything is proven, else an error that wraps
// ErrUnproven and says what failed first.
func (r *Report) Err() error {
	switch {
	case len(r.Damage) > 0:
		return fmt.Errorf("%w: %s (%d places in all)", ErrUnproven, r.Damage[0], len(r.Damage))
	case r.Foreign:
		return fmt.Errorf("%w: the chain belongs to another identity key: %s", ErrUnproven, r.Identity)
	case len(r.Missing) > 0:
		return fmt.Errorf("%w: the chain ends at %s and does not contain %s", ErrUnproven, r.Head, r.Missing[0])
	}
	return nil
}

// Verify reads the whole spool in dir: every commit's place in the chain, every
// signature, and SHA-256 of every message. Nothing is changed and nobody is kept from writing, so it works on a copy
// and beside a running writer, which uses no file again meanwhile. identity is the server's key, which the chain must end with; want
// are heads kept elsewhere, which the chain must contain. progress, if not nil, is called with bytes
// read and bytes in all.
//
// The error is the disk's or ctx's. What is wrong with the spool is in the Report.
func Verify(ctx context.Context, fsys durable.FS, dir string, identity crypt.PublicKey,
	progress func(done, total int64), want ...Head) (Report, error) {
	var r Report
	lock, err := lockShared(fsys, dir)
	if err != nil {
		return r, fmt.Errorf("verify spool %s: %w", dir, err)
	}
	defer lock.Close()
	err = again(func() (err error) {
		r, err = verify(ctx, fsys, dir, identity, progress, want, nil)
		return err
	})
	if err != nil {
		return r, fmt.Errorf("verify spool %s: %w", dir, err)
	}
	return r, nil
}

func verify(ctx context.Context, fsys durable.FS, dir string, identity crypt.PublicKey,
	progress func(done, total int64), want []Head, sealed func(*segment)) (r Report, err error) {
	total, err := totalSize(fsys, dir)
	if err != nil {
		return r, err
	}
	var missing map[uint64]Head
	w, err := walk(ctx, fsys, dir, func(w *walker) {
		r, missing = Report{}, make(map[uint64]Head)
		for _, h := range want {
			missing[h.Number] = h
		}
		w.deep, w.sealed = true, sealed
		w.progress = func(n int64) {
			r.Bytes += n
			if progress != nil {
				progress(min(r.Bytes, total), total)
			}
		}
		w.applied = func(h *held, _ []ID) {
			r.count(h)
			if at := h.commit.head(); missing[at.Number] == at {
				delete(missing, at.Number)
			}
		}
	})
	if err != nil {
		return r, err
	}
	r.Head, r.Key, r.Identity = w.chain.head, w.chain.keys.key, w.chain.keys.identity
	r.Torn, r.Damage, r.Scars = w.torn, w.damage, w.scars
	r.Foreign = r.Identity != identity
	for _, h := range want {
		if missing[h.Number] == h {
			r.Missing = append(r.Missing, h)
		}
	}
	return r, nil
}

// count adds a commit.
func (r *Report) count(h *held) {
	r.Commits++
	for i := range h.records {
		switch rec := &h.records[i]; {
		case rec.kind == kindRemoval:
			r.Removed++
			if !rec.settled { // its data is still there
				r.Messages--
			}
			if rec.removal.by == repairActor {
				r.Lost = append(r.Lost, rec.removal.id)
			}
		case rec.message.id != 0 && !rec.gone:
			r.Messages++
		}
	}
}

// totalSize adds up what Verify will read.
func totalSize(fsys durable.FS, dir string) (total int64, err error) {
	for _, sub := range []string{"log", "large"} {
		names, err := fsys.ReadDir(filepath.Join(dir, sub))
		if err != nil {
			return 0, err
		}
		for _, name := range names {
			f, err := fsys.Open(filepath.Join(dir, sub, name))
			if errors.Is(err, fs.ErrNotExist) {
				continue // removed, meanwhile
			}
			if err != nil {
				return 0, err
			}
			size, err := f.Size()
			f.Close()
			if err != nil {
				return 0, err
			}
			total += size
		}
	}
	return total, nil
}
