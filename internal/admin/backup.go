package admin

import (
	"context"
	"fmt"
	"os"

	"cmtpd/internal/backup"
	"cmtpd/internal/config"
	"cmtpd/internal/spool"
)

// Backup makes a backup in the new directory dir, beside a running daemon or without one. It is for
// the owner of the data: who reads the server's key could be anybody else only by mistake.
func Backup(ctx context.Context, cfg *config.Config, dir string, progress func(done, total int64)) (*backup.Manifest, error) {
	if _, err := os.Stat(cfg.DataDir); err != nil {
		return nil, fmt.Errorf("looking at the data directory: %w", err)
	}
	if err := OwnData(cfg.DataDir); err != nil {
		return nil, err
	}
	return backup.Make(ctx, cfg, dir, progress)
}

// Restore makes the backup in dir the data of a server that has none.
func Restore(ctx context.Context, cfg *config.Config, dir string, progress func(done, total int64), want ...spool.Head) (*backup.Restored, error) {
	if _, err := os.Stat(cfg.DataDir); err == nil {
		if err := OwnData(cfg.DataDir); err != nil {
			return nil, err
		}
	}
	return backup.Restore(ctx, dir, cfg, progress, want...)
}
