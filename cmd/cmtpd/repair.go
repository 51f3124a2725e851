package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"cmtpd/internal/admin"
	"cmtpd/internal/spool"
	"cmtpd/internal/terminal"
)

const yesFlag = "yes"

// errRefused is why a repair or removal that nobody agreed to ends.
var errRefused = errors.New("nothing was changed")

func spoolRepair() *cobra.Command {
	c := &cobra.Command{
		Use: "repair", Short: "Make a damaged spool whole, as far as it can be, while cmtpd is stopped", Args: args(cobra.NoArgs),
		Long: "repair lists what is damaged and what would be lost, and changes nothing before you agree: at a\n" +
			"terminal, or with --yes. What it replaces is kept in the spool's quarantine directory.",
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := load(c)
			if err != nil {
				return err
			}
			ctx, stop := untilSignal(c)
			defer stop()
			view := repairView{Damage: []string{}, Lost: []string{}, Rewritten: []string{}, Removed: []string{}}
			m, err := admin.RepairSpool(ctx, cfg, func(p spool.Plan) error {
				view.plan(&p)
				if !asJSON(c) {
					view.showPlan(c)
				}
				return agree(ctx, c, "Repair", "repair this")
			})
			view.Repaired = err == nil && len(view.Damage) > 0
			view.Quarantine, view.Vouched = m.Quarantine, m.Vouched
			view.Rewritten, view.Removed = append(view.Rewritten, m.Rewritten...), ids(m.Removed)
			if asJSON(c) {
				return errors.Join(printJSON(c, view), err)
			}
			if err == nil {
				view.show(c, &m)
			}
			return err
		},
	}
	c.Flags().Bool(jsonFlag, false, "print JSON")
	c.Flags().Bool(yesFlag, false, "repair without asking")
	return c
}

// A repairView is the form of repair --json.
type repairView struct {
	Damage     []string `json:"damage"`
	Lost       []string `json:"lost"` // messages
	Repaired   bool     `json:"repaired"`
	Quarantine string   `json:"quarantine"`
	Rewritten  []string `json:"rewritten"`
	Removed    []string `json:"removed"`
	Vouched    int      `json:"vouched"`
}

func ids(list []spool.ID) []string {
	texts := make([]string, len(list))
	for i, id := range list {
		texts[i] = id.String()
	}
	return texts
}

func (v *repairView) plan(p *spool.Plan) {
	for _, d := range p.Damage {
		v.Damage = append(v.Damage, d.String())
	}
	v.Lost = ids(p.Lost)
}

func (v *repairView) showPlan(c *cobra.Command) {
	out := c.OutOrStdout()
	fmt.Fprintf(out, "DAMAGED, the first first:\n  %s\n", strings.Join(v.Damage, "\n  "))
	if len(v.Lost) > 0 {
		fmt.Fprintf(out, "These messages cannot be saved, and would count as removed:\n  %s\n", strings.Join(v.Lost, "\n  "))
	}
	fmt.Fprintln(out, "Everything else that is whole stays as it is. What is missing stays missing, and a signature will say so.")
}

func (v *repairView) show(c *cobra.Command, m *spool.Mending) {
	out := c.OutOrStdout()
	if !v.Repaired {
		fmt.Fprintln(out, "every signature and every digest is right; there is nothing to repair")
		return
	}
	fmt.Fprintf(out, "repaired: %d segments written again, %d messages removed, %d places vouched for\n", len(v.Rewritten), len(v.Removed), v.Vouched)
	if v.Quarantine != "" {
		fmt.Fprintf(out, "what was replaced is kept in %s of the spool\n", v.Quarantine)
	}
	fmt.Fprintf(out, "%d messages in %d signed commits\nhead %s\n", m.Report.Messages, m.Report.Commits, m.Report.Head)
}

// agree asks the person at the terminal. A script has to say --yes.
// It is asked for a verb, and told for what.
func agree(ctx context.Context, c *cobra.Command, verb, what string) error {
	yes, err := c.Flags().GetBool(yesFlag)
	if err != nil || yes {
		return err
	}
	if !terminal.Is(os.Stdin) {
		return fmt.Errorf("%w: to %s, run it with --%s", errRefused, what, yesFlag)
	}
	fmt.Fprintf(c.ErrOrStderr(), "%s it? [y/N] ", verb)
	answered := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(c.InOrStdin()).ReadString('\n') // no answer is no
		answered <- strings.ToLower(strings.TrimSpace(line))
	}()
	select {
	case answer := <-answered:
		if answer == "y" || answer == "yes" {
			return nil
		}
		return errRefused
	case <-ctx.Done():
		return fmt.Errorf("interrupted; %w", errRefused)
	}
}
