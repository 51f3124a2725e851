package main

import (
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"cmtpd/internal/config"
	"cmtpd/internal/daemon"
	"cmtpd/internal/service"
)

func serveCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "serve",
		Short: "Run the server until it is told to stop",
		Long: "Run the server until it is told to stop, by SIGTERM or SIGINT. SIGHUP has it read the\n" +
			"configuration anew: the log says of each setting whether it counts now or waits for a restart.",
		Args: args(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := load(c)
			if err != nil {
				return err
			}
			level := new(slog.LevelVar)
			level.Set(cfg.Log.Level.Level())
			log := logger(cfg, level)
			manager, err := service.FromEnvironment(log, daemon.SharedSockets, daemon.CMTPOnlySockets)
			if err != nil {
				return err
			}
			ctx, stop := untilSignal(c)
			defer stop()
			reload := make(chan os.Signal, 1) // one that waits is as good as many
			signal.Notify(reload, syscall.SIGHUP)
			defer signal.Stop(reload)
			return daemon.Run(ctx, cfg, log, daemon.Options{
				Load: func() (*config.Config, error) { return load(c) }, Reload: reload, Level: level, Manager: manager,
			})
		},
	}
}

func logger(cfg *config.Config, level slog.Leveler) *slog.Logger {
	opts := &slog.HandlerOptions{Level: level}
	if cfg.Log.Format == config.LogJSON {
		return slog.New(slog.NewJSONHandler(os.Stderr, opts))
	}
	return slog.New(slog.NewTextHandler(os.Stderr, opts))
}
