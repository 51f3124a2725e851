package main

import (
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"cmtpd/internal/admin"
)

func keyCommand() *cobra.Command {
	return group(&cobra.Command{Use: "key", Short: "Show the server's keys, and change them"}, keyShow(), keyRotate())
}

func keyShow() *cobra.Command {
	c := &cobra.Command{
		Use: "show", Short: "Show the server's identity and the key of its spool", Args: args(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := load(c)
			if err != nil {
				return err
			}
			v, err := admin.Keys(cfg)
			if err != nil {
				return err
			}
			if asJSON(c) {
				return printJSON(c, v)
			}
			w := tabwriter.NewWriter(c.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintf(w, "identity\t%s\n", v.Identity.Fingerprint)
			if v.Spool != nil {
				fmt.Fprintf(w, "spool\t%s\n", v.Spool.Fingerprint)
			}
			for _, k := range v.Former {
				fmt.Fprintf(w, "former identity\t%s\n", k.Fingerprint)
			}
			return w.Flush()
		},
	}
	c.Flags().Bool(jsonFlag, false, "print JSON")
	return c
}

func keyRotate() *cobra.Command {
	c := &cobra.Command{
		Use: "rotate", Short: "Give the stopped server a new key", Args: args(cobra.NoArgs),
		Long: "Give the server a new identity key while it is stopped, and keep the former one beside it.\n" +
			"Whoever has remembered the former key is warned of the new one: see docs/operations.md, Keys.",
		RunE: func(c *cobra.Command, _ []string) error {
			own, err := c.Flags().GetBool("spool")
			if err != nil {
				return err
			}
			cfg, err := load(c)
			if err != nil {
				return err
			}
			out := c.OutOrStdout()
			if own {
				now, err := admin.RotateSpoolKey(cfg)
				if err != nil {
					return err
				}
				fmt.Fprintf(out, "the spool's key is now %s\ncmtpd serve signs it into the spool at its next start\n", now.Fingerprint)
				return nil
			}
			former, now, err := admin.RotateKey(cfg)
			if err != nil {
				return err
			}
			fmt.Fprintf(out, "the server's key was     %s\nand is now               %s\nthe former one is in     %s\n", former.Fingerprint, now.Fingerprint, former.File)
			fmt.Fprintf(out, "Start cmtpd now, and back up %s.\nTell your users the new fingerprint: see docs/operations.md, Keys.\n", cfg.DataDir)
			return nil
		},
	}
	c.Flags().Bool("spool", false, "change the key of the spool instead, which nobody outside sees")
	return c
}
