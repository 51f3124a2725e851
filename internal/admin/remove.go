package admin

import (
	"context"
	"errors"
	"fmt"
	"time"

	"cmtpd/internal/config"
	"cmtpd/internal/control"
	"cmtpd/internal/datadir"
	"cmtpd/internal/durable"
	"cmtpd/internal/spool"
)

// RemoveMessages removes messages from the spool: through the daemon where one runs, and else
// directly, with the daemon kept from starting meanwhile. It returns how many it removed, also with
// an error; one that is not there is passed over.
func RemoveMessages(ctx context.Context, cfg *config.Config, ids []spool.ID) (removed int, err error) {
	lock, err := datadir.Lock(cfg)
	if errors.Is(err, datadir.ErrRunning) {
		return control.Dial(cfg.ControlSocket()).RemoveAll(ctx, ids, caller())
	}
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	o, wipe, err := writable(cfg)
	if err != nil {
		return 0, err
	}
	defer wipe()
	o.NoSpare, o.CompactRate = true, -1 // it is open for a moment
	s, err := spool.Open(cfg.SpoolDir(), o)
	if err != nil {
		return 0, fmt.Errorf("opening the spool: %w", err)
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	return s.RemoveAll(ctx, ids, caller())
}

// A RemovalView is a removal as it is shown, and the form of --json.
type RemovalView struct {
	ID      string    `json:"id"`
	Mailbox string    `json:"mailbox"` // zero where the message's own record was damaged
	Size    int64     `json:"size"`
	Removed time.Time `json:"removed"`
	By      string    `json:"by"`
	Commit  uint64    `json:"commit"`
}

// Removals returns what was removed from the spool, when and by whom, the first first. Where
// the spool is damaged it also returns an error, for some may be missing.
func Removals(ctx context.Context, cfg *config.Config) ([]RemovalView, error) {
	list, damage, err := spool.Removals(ctx, durable.OS, cfg.SpoolDir())
	if err != nil {
		return nil, err
	}
	views := make([]RemovalView, len(list))
	for i, r := range list {
		views[i] = RemovalView{r.ID.String(), r.Mailbox.String(), r.Size, r.Time.UTC(), r.By, r.Commit}
	}
	if len(damage) > 0 {
		err = fmt.Errorf("the spool is damaged (%d places), and removals may be missing here: see cmtpd spool verify", len(damage))
	}
	return views, err
}
