package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"cmtpd/internal/admin"
)

// errFindings: check has found something that is wrong.
var errFindings = errors.New("the check has found what to do something about")

// A checkView is the form of check --json.
type checkView struct {
	OK       bool            `json:"ok"`
	Findings []admin.Finding `json:"findings"`
}

func checkCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "check", Short: "Look whether everything is right, beside a running daemon or without one", Args: args(cobra.NoArgs),
		Long: "Look at the configuration, the data and its keys, the disk, the daemon and its spool, which domains are held, the users, and what is published in DNS, and change nothing.\n" +
			"It prints one line for each finding, with what to do. The exit status is 0 when nothing is wrong, and 3 when something is.",
		RunE: func(c *cobra.Command, _ []string) error {
			path, err := c.Flags().GetString("config")
			if err != nil {
				return err
			}
			found := admin.Check(c.Context(), path)
			wrong := 0
			for _, f := range found {
				if !f.Note {
					wrong++
				}
			}
			if asJSON(c) {
				err = printJSON(c, checkView{wrong == 0, append([]admin.Finding{}, found...)})
			} else {
				showFindings(c, found, wrong)
			}
			if err == nil && wrong > 0 {
				err = fmt.Errorf("%w (%d)", errFindings, wrong)
			}
			return err
		},
	}
	c.Flags().Bool(jsonFlag, false, "print JSON")
	return c
}

func showFindings(c *cobra.Command, found []admin.Finding, wrong int) {
	out := c.OutOrStdout()
	for _, f := range found {
		fmt.Fprintln(out, f)
	}
	if wrong == 0 {
		fmt.Fprintln(out, "nothing is wrong")
	}
}
