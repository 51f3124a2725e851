package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"cmtpd/internal/checkup"
)

// errFindings: check has found something that is wrong.
var errFindings = errors.New("the check has found what to do something about")

// A checkView is the form of check --json.
type checkView struct {
	OK       bool              `json:"ok"`
	Findings []checkup.Finding `json:"findings"`
}

func checkCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "check", Short: "Look whether everything is right, beside a running daemon or without one", Args: args(cobra.NoArgs),
		Long: "Look at the configuration, the data and its keys, the disk, the clock, the daemon and its spool, which domains are held, the users, the ports, the mail server\n" +
			"behind, and what DNS says, and change nothing. It prints one line for each finding, with what to do: WRONG where something is to be done, note where it may be.\n" +
			"The last line says that nothing is wrong, where that is so, how many notes there are, and whether no daemon could be asked.\n" +
			"The exit status is 0 when nothing is wrong, and 3 when something is.",
		RunE: func(c *cobra.Command, _ []string) error {
			path, err := c.Flags().GetString("config")
			if err != nil {
				return err
			}
			wrong, found := 0, []checkup.Finding{}
			for f := range checkup.Check(c.Context(), path) {
				if !f.Note {
					wrong++
				}
				if found = append(found, f); !asJSON(c) {
					showFinding(c, f)
				}
			}
			if asJSON(c) {
				err = printJSON(c, checkView{wrong == 0, found})
			} else if wrong == 0 {
				fmt.Fprintln(c.OutOrStdout(), checkup.Verdict(found))
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

// showFinding prints a line as soon as it is known: the last ones wait for DNS.
func showFinding(c *cobra.Command, f checkup.Finding) {
	weight := "WRONG"
	if f.Note {
		weight = "note "
	}
	fmt.Fprintln(c.OutOrStdout(), weight, f)
}
