package admin

import (
	"context"
	"errors"
	"fmt"
	"os"

	"cmtpd/internal/backup"
	"cmtpd/internal/config"
	"cmtpd/internal/control"
	"cmtpd/internal/datadir"
	"cmtpd/internal/spool"
)

// Backup makes a backup in the new directory dir, beside a running daemon or without one. It is for
// the owner of the data: who reads the server's key could be anybody else only by mistake.
func Backup(ctx context.Context, cfg *config.Config, dir string, progress func(done, total int64)) (*backup.Manifest, error) {
	if _, err := os.Stat(cfg.DataDir); err != nil {
		return nil, fmt.Errorf("looking at the data directory: %w", err)
	}
	if err := datadir.Own(cfg.DataDir); err != nil {
		return nil, err
	}
	// Where a daemon runs, its word is asked first: a copy whose last commits are damaged looks like
	// one that a crash cut short.
	var want []spool.Head
	state, err := control.Dial(cfg.ControlSocket()).Spool()
	switch {
	case err == nil:
		want = append(want, state.Stats.Head)
	case !errors.Is(err, control.ErrNobody):
		return nil, fmt.Errorf("asking the daemon how far its spool goes: %w", err)
	}
	return backup.Make(ctx, cfg, dir, progress, want...)
}

// Restore makes the backup in dir the data of a server that has none.
func Restore(ctx context.Context, cfg *config.Config, dir string, progress func(done, total int64), want ...spool.Head) (*backup.Restored, error) {
	if _, err := os.Stat(cfg.DataDir); err == nil {
		if err := datadir.Own(cfg.DataDir); err != nil {
			return nil, err
		}
	}
	return backup.Restore(ctx, dir, cfg, progress, want...)
}
