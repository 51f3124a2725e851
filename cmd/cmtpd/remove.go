package main

import (
	"errors"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"cmtpd/internal/admin"
	"cmtpd/internal/spool"
)

func spoolRemove() *cobra.Command {
	c := &cobra.Command{
		Use: "remove ID...", Short: "Remove messages for good", Args: args(cobra.MinimumNArgs(1)),
		Long: "remove shows the messages, and removes nothing before you agree: at a terminal, or with --yes. The chain keeps\n" +
			"that they were there, and when and by whom they were removed: see cmtpd spool removals.",
		RunE: func(c *cobra.Command, argv []string) error {
			list, err := parseIDs(argv)
			if err != nil {
				return err
			}
			if err := withSpool(c, func(s *admin.Spool) error { return showDoomed(c, s, list) }); err != nil {
				return err
			}
			ctx, stop := untilSignal(c)
			defer stop()
			if err := agree(ctx, c, "Remove", "remove these"); err != nil {
				return err
			}
			cfg, err := load(c)
			if err != nil {
				return err
			}
			n, err := admin.RemoveMessages(ctx, cfg, list)
			fmt.Fprintf(c.OutOrStdout(), "removed %d messages\n", n)
			return err
		},
	}
	c.Flags().Bool(yesFlag, false, "remove without asking")
	return c
}

// parseIDs reads message numbers, each once.
func parseIDs(argv []string) (list []spool.ID, err error) {
	seen := make(map[spool.ID]bool)
	for _, text := range argv {
		id, err := spool.ParseID(text)
		if err != nil {
			return nil, fmt.Errorf("%w (%w)", err, errUsage)
		}
		if !seen[id] {
			seen[id] = true
			list = append(list, id)
		}
	}
	return list, nil
}

// showDoomed shows what is about to be removed, and fails where one is not there: then a number
// is mistyped, and perhaps not only that one. A damaged message can be removed.
func showDoomed(c *cobra.Command, s *admin.Spool, list []spool.ID) error {
	w := tabwriter.NewWriter(c.OutOrStdout(), 0, 0, 2, ' ', 0)
	var missing []error
	for _, id := range list {
		info, err := s.Get(id)
		var v admin.MessageView
		if err == nil {
			v, err = s.View(info)
		}
		switch {
		case err == nil:
			showLine(w, &v)
		case errors.Is(err, spool.ErrDamaged):
			fmt.Fprintf(w, "%s\tdamaged\n", id)
		default:
			missing = append(missing, err)
		}
	}
	if missing != nil {
		return fmt.Errorf("%w; %w", errors.Join(missing...), errRefused)
	}
	return w.Flush()
}

func spoolRemovals() *cobra.Command {
	c := &cobra.Command{
		Use: "removals", Short: "List what was removed, when and by whom", Args: args(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := load(c)
			if err != nil {
				return err
			}
			ctx, stop := untilSignal(c)
			defer stop()
			list, err := admin.Removals(ctx, cfg)
			if list == nil {
				return err
			}
			if asJSON(c) {
				return errors.Join(printJSON(c, list), err)
			}
			w := tabwriter.NewWriter(c.OutOrStdout(), 0, 0, 2, ' ', 0)
			for _, r := range list {
				fmt.Fprintf(w, "%s\t%s\t%d bytes\tmailbox %s\tremoved by %q\tcommit %d\n", r.ID, r.Removed.Format(time.RFC3339), r.Size, r.Mailbox, r.By, r.Commit)
			}
			return errors.Join(w.Flush(), err)
		},
	}
	c.Flags().Bool(jsonFlag, false, "print JSON")
	return c
}
