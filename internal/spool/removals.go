package spool

import (
	"context"
	"fmt"
	"time"

	"cmtpd/internal/durable"
)

// Removal is what the chain keeps of a message that was removed.
type Removal struct {
	ID      ID
	Mailbox MailboxID // zero where the message's own record was damaged
	Size    int64     // bytes that the message had
	Time    time.Time // of the removal
	By      string    // who removed it
	Commit  uint64    // number of the commit that vouches for the removal
}

// Removals reads the whole log in dir, not the large files, and returns what was removed, in that
// order. Nothing is changed and nobody is kept from writing. Where there is damage, removals may be
// missing. The error is the disk's or ctx's.
func Removals(ctx context.Context, fsys durable.FS, dir string) (list []Removal, damage []Damage, err error) {
	lock, err := lockShared(fsys, dir)
	if err != nil {
		return nil, nil, fmt.Errorf("read the removals of spool %s: %w", dir, err)
	}
	defer lock.Close()
	err = again(func() error {
		w, err := walk(ctx, fsys, dir, func(w *walker) {
			list = nil
			w.applied = func(h *held, _ []ID) {
				for i := range h.records {
					if r := &h.records[i]; r.kind == kindRemoval {
						list = append(list, Removal{r.removal.id, r.removal.mailbox, r.removal.size, r.removal.time, r.removal.by, h.commit.number})
					}
				}
			}
		})
		damage = w.damage
		return err
	})
	if err != nil {
		return nil, nil, fmt.Errorf("read the removals of spool %s: %w", dir, err)
	}
	return list, damage, nil
}
