package main

import (
	"fmt"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"cmtpd/internal/admin"
)

func backupCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "backup DIR", Short: "Copy everything into the new directory DIR, beside a running daemon or without one", Args: args(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, argv []string) error {
			cfg, err := load(c)
			if err != nil {
				return err
			}
			ctx, stop := untilSignal(c)
			defer stop()
			m, err := admin.Backup(ctx, cfg, argv[0], progress(c, "copying and verifying"))
			if err != nil {
				return err
			}
			fmt.Fprintf(c.ErrOrStderr(), "%s holds %s, the secret key of this server: who has it is your server.\n", argv[0], filepath.Base(cfg.KeyFile()))
			if asJSON(c) {
				return printJSON(c, m)
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "%d messages in %d signed commits, %d accounts; every signature and every digest is right\nhead %s\n",
				m.Messages, m.Commits, m.Accounts, m.Head)
			return err
		},
	}
	c.Flags().Bool(jsonFlag, false, "print JSON")
	return c
}

// A restoredView is the form of restore --json.
type restoredView struct {
	Time     time.Time `json:"time"` // of the backup
	Messages uint64    `json:"messages"`
	Accounts int       `json:"accounts"`
	Backup   string    `json:"backup_head"`
	Head     string    `json:"head"`
	Key      string    `json:"spool_key"`
}

func restoreCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "restore DIR", Short: "Make the backup in DIR the data of a server that has none", Args: args(cobra.ExactArgs(1)),
		Long: "restore proves the whole backup first, and then makes it the data_dir of the configuration,\n" +
			"which must be empty or missing. Run it as the user that cmtpd runs as.",
		RunE: func(c *cobra.Command, argv []string) error {
			want, err := heads(c)
			if err != nil {
				return err
			}
			cfg, err := load(c)
			if err != nil {
				return err
			}
			ctx, stop := untilSignal(c)
			defer stop()
			r, err := admin.Restore(ctx, cfg, argv[0], progress(c, "copying and verifying"), want...)
			if err != nil {
				return err
			}
			v := restoredView{r.Manifest.Time, r.Manifest.Messages, r.Manifest.Accounts, r.Manifest.Head, r.Head.String(), r.Key.String()}
			if asJSON(c) {
				return printJSON(c, v)
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "%d messages and %d accounts are in %s, as of %s\nWhat was accepted or changed later is not in the backup.\n"+
				"the backup's head %s\nhead %s\nnew spool key %s\n", v.Messages, v.Accounts, cfg.DataDir, v.Time.Format(time.RFC3339), v.Backup, v.Head, v.Key)
			return err
		},
	}
	c.Flags().Bool(jsonFlag, false, "print JSON")
	c.Flags().StringArray("head", nil, "a `HEAD` kept elsewhere, NUMBER:HASH, that the backup has to contain")
	return c
}
