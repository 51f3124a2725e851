package main

import (
	"fmt"
	"io"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"cmtpd/internal/address"
	"cmtpd/internal/admin"
	"cmtpd/internal/queue"
)

// usualTop is how many domains a summary shows: what fits on a screen.
const usualTop = 40

func queueSummary() *cobra.Command {
	c := &cobra.Command{
		Use: "summary", Short: "Count the messages that wait, for each domain", Args: args(cobra.NoArgs),
		Long: "summary shows how many messages wait for each domain, those with the most first: how many of them are held, how old the oldest is, how\n" +
			"many are younger than each time in the heading (and not than the one before), when one is tried next, and why the last one failed.",
		RunE: func(c *cobra.Command, _ []string) error {
			n, err := c.Flags().GetInt(topFlag)
			if err != nil {
				return err
			}
			if n < 0 || n > queue.MaxEntries {
				return fmt.Errorf("--%s is a number of domains from 0 to %d (%w)", topFlag, queue.MaxEntries, errUsage)
			}
			return withQueue(c, func(q *admin.Queue) error {
				s, err := q.Summary(n)
				switch {
				case err != nil:
					return err
				case asJSON(c):
					return printJSON(c, s)
				}
				return showSummary(c.OutOrStdout(), &s)
			})
		},
	}
	c.Flags().Int(topFlag, usualTop, "how many domains, `N`; the others are summed up")
	c.Flags().Bool(jsonFlag, false, "print JSON")
	return c
}

func showSummary(out io.Writer, s *queue.Summary) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprint(w, "domain\tmessages\theld\toldest")
	for _, limit := range s.AgeLimits {
		fmt.Fprintf(w, "\t<%s", short(time.Duration(limit)*time.Second))
	}
	fmt.Fprint(w, "\tolder\tnext attempt\tlast failure\n")
	line := func(name string, sum *queue.Sum, why string) {
		fmt.Fprintf(w, "%s\t%d\t%d\t%s", name, sum.Messages, sum.Held, age(sum.Oldest, s.Time))
		for _, n := range sum.Ages {
			fmt.Fprintf(w, "\t%d", n)
		}
		fmt.Fprintf(w, "\t%s\t%s\n", nextOf(sum), why)
	}
	line("all", &s.Total, "")
	for i := range s.Most {
		d := &s.Most[i]
		line(shownDomain(d.Domain), &d.Sum, why(d))
	}
	if others := s.Destinations - len(s.Most); others > 0 {
		line(fmt.Sprintf("(%d others)", others), &s.Others, "")
	}
	return w.Flush()
}

// shownDomain quotes what is no domain: the words of whoever wrote to it.
func shownDomain(name string) string {
	if _, err := address.ParseDomain(name); err != nil {
		return strconv.QuoteToGraphic(name)
	}
	return name
}

func why(d *queue.DestinationSum) string {
	if d.Status == 0 {
		return d.Reason
	}
	return fmt.Sprintf("status %d: %s", d.Status, d.Reason)
}

func nextOf(s *queue.Sum) string {
	switch {
	case s.Next != nil:
		return s.Next.Format(time.RFC3339)
	case s.Held == s.Messages:
		return "-"
	}
	return "now"
}

func age(since *time.Time, now time.Time) string {
	if since == nil {
		return "-"
	}
	return short(max(now.Sub(*since), 0))
}

// short shows a time by its largest unit.
func short(d time.Duration) string {
	day := 24 * time.Hour
	switch {
	case d >= 2*day, d == day:
		return fmt.Sprintf("%dd", d/day)
	case d >= 2*time.Hour, d == time.Hour:
		return fmt.Sprintf("%dh", d/time.Hour)
	case d >= time.Minute:
		return fmt.Sprintf("%dm", d/time.Minute)
	}
	return fmt.Sprintf("%ds", d/time.Second)
}
