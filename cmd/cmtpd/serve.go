package main

import (
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"cmtpd/internal/config"
	"cmtpd/internal/daemon"
)

func serveCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "serve",
		Short: "Run the server until it is told to stop",
		Args:  args(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := load(c)
			if err != nil {
				return err
			}
			ctx, stop := untilSignal(c)
			defer stop()
			return daemon.Run(ctx, cfg, logger(cfg), nil)
		},
	}
}

func logger(cfg *config.Config) *slog.Logger {
	opts := &slog.HandlerOptions{Level: cfg.Log.Level}
	if cfg.Log.Format == config.LogJSON {
		return slog.New(slog.NewJSONHandler(os.Stderr, opts))
	}
	return slog.New(slog.NewTextHandler(os.Stderr, opts))
}
