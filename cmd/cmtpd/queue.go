package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"cmtpd/internal/address"
	"cmtpd/internal/admin"
	"cmtpd/internal/queue"
	"cmtpd/internal/spool"
)

const (
	domainFlag = "domain"
	allFlag    = "all"
	topFlag    = "top"
	reportFlag = "report"
)

func queueCommand() *cobra.Command {
	return group(&cobra.Command{Use: "queue", Short: "Look at the mail that waits for other servers, and decide about it"},
		queueList(), queueSummary(), queueShow(), queueRetry(),
		onQueued("hold", "Keep messages from being tried and given up, however long", "held", (*admin.Queue).Hold),
		onQueued("release", "Undo hold: the messages are tried at once", "released", (*admin.Queue).Release),
		queueDrop())
}

func withQueue(c *cobra.Command, run func(*admin.Queue) error) error {
	cfg, err := load(c)
	if err != nil {
		return err
	}
	q, err := admin.OpenQueue(cfg)
	if err != nil {
		return err
	}
	return errors.Join(run(q), q.Close())
}

// onQueued makes a command on messages, of which what was done is said.
func onQueued(use, short, done string, run func(*admin.Queue, []spool.ID) (int, error)) *cobra.Command {
	c := &cobra.Command{
		Use: use + " ID...", Short: short, Args: args(cobra.MinimumNArgs(1)),
		RunE: func(c *cobra.Command, argv []string) error {
			ids, err := parseIDs(argv)
			if err != nil {
				return err
			}
			return withQueue(c, func(q *admin.Queue) error {
				n, err := run(q, ids)
				return said(c, done, n, err)
			})
		},
	}
	c.Flags().Bool(jsonFlag, false, "print JSON")
	return c
}

// said prints how many messages something was done to, unless it failed for all.
func said(c *cobra.Command, done string, n int, err error) error {
	switch {
	case err != nil && n == 0:
	case asJSON(c):
		err = errors.Join(err, printJSON(c, struct {
			Messages int `json:"messages"`
		}{n}))
	case n == 1:
		fmt.Fprintf(c.OutOrStdout(), "%s 1 message\n", done)
	default:
		fmt.Fprintf(c.OutOrStdout(), "%s %d messages\n", done, n)
	}
	return err
}

// domainOf returns the value of --domain, empty where it was not given.
func domainOf(c *cobra.Command) (string, error) {
	name, err := c.Flags().GetString(domainFlag)
	if err != nil || name == "" {
		return "", err
	}
	d, err := address.ParseDomain(name)
	if err != nil {
		return "", fmt.Errorf("%w (%w)", err, errUsage)
	}
	return d.String(), nil
}

func queueList() *cobra.Command {
	c := &cobra.Command{
		Use: "list", Short: "List the messages that wait, and what for", Args: args(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			domain, err := domainOf(c)
			if err != nil {
				return err
			}
			return withQueue(c, func(q *admin.Queue) error {
				if asJSON(c) {
					return streamQueue(c.OutOrStdout(), q, domain)
				}
				w := tabwriter.NewWriter(c.OutOrStdout(), 0, 0, 2, ' ', 0)
				lines := 0
				err := q.Each(domain, func(e *queue.Entry) error {
					fmt.Fprintf(w, "%s\t%s\t%d bytes\tto %s\t%s\n", e.ID, e.Arrived.Format(time.RFC3339), e.Size, strconv.QuoteToGraphic(e.Destination), e.Text)
					if lines++; lines%queue.MaxEntries == 0 {
						return w.Flush() // however long the queue is
					}
					return nil
				})
				return errors.Join(err, w.Flush())
			})
		},
	}
	c.Flags().String(domainFlag, "", "only those to this `DOMAIN`")
	c.Flags().Bool(jsonFlag, false, "print JSON")
	return c
}

// streamQueue prints a JSON array, and holds one message of it at a time.
func streamQueue(w io.Writer, q *admin.Queue, domain string) error {
	before := "[\n  "
	err := q.Each(domain, func(e *queue.Entry) error {
		b, err := json.MarshalIndent(e, "  ", "  ")
		if err == nil {
			_, err = fmt.Fprintf(w, "%s%s", before, b)
		}
		before = ",\n  "
		return err
	})
	end := "\n]\n"
	if before[0] == '[' && err != nil {
		return err // which is said instead
	} else if before[0] == '[' {
		end = "[]\n"
	}
	if _, endErr := io.WriteString(w, end); err == nil {
		err = endErr
	}
	return err
}

func queueShow() *cobra.Command {
	c := &cobra.Command{
		Use: "show ID", Short: "Show what is known of a message that waits", Args: args(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, argv []string) error {
			id, err := spool.ParseID(argv[0])
			if err != nil {
				return fmt.Errorf("%w (%w)", err, errUsage)
			}
			return withQueue(c, func(q *admin.Queue) error {
				e, err := q.Show(id)
				if err != nil {
					return err
				}
				if asJSON(c) {
					return printJSON(c, e)
				}
				return showQueued(c.OutOrStdout(), &e)
			})
		},
	}
	c.Flags().Bool(jsonFlag, false, "print JSON")
	return c
}

func showQueued(out io.Writer, e *queue.Entry) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	line := func(what, text string) { fmt.Fprintf(w, "%s\t%s\n", what, text) }
	when := func(t *time.Time) string {
		if t == nil {
			return "none"
		}
		return t.Format(time.RFC3339)
	}
	line("id", e.ID)
	line("to", strconv.QuoteToGraphic(e.Destination))
	line("claims to be from", strconv.QuoteToGraphic(e.Source))
	line("size", fmt.Sprintf("%d bytes", e.Size))
	line("arrived", e.Arrived.Format(time.RFC3339))
	line("condition", e.Condition)
	line("", e.Text)
	line("attempts", strconv.Itoa(int(e.Attempts)))
	line("first attempt", when(e.First))
	line("last attempt", when(e.Last))
	line("not before", when(e.Next))
	line("status", strconv.Itoa(int(e.Status)))
	line("reason", e.Reason)
	line("sender was told of the delay", strconv.FormatBool(e.Noticed))
	return w.Flush()
}

func queueRetry() *cobra.Command {
	c := &cobra.Command{
		Use: "retry [ID...]", Short: "Try messages now, whatever they wait for", Args: args(cobra.ArbitraryArgs),
		Long: "retry has messages tried as soon as a connection is free: those that are named, those to a domain, or all. One that\n" +
			"is held has to be released first, and is passed over by --domain and --all.",
		RunE: func(c *cobra.Command, argv []string) error {
			ids, err := parseIDs(argv)
			if err != nil {
				return err
			}
			domain, err := domainOf(c)
			if err != nil {
				return err
			}
			all, err := c.Flags().GetBool(allFlag)
			if err != nil {
				return err
			}
			named := 0
			for _, given := range []bool{len(ids) > 0, domain != "", all} {
				if given {
					named++
				}
			}
			if named != 1 {
				return fmt.Errorf("name either messages, or --domain, or --all (%w)", errUsage)
			}
			return withQueue(c, func(q *admin.Queue) (err error) {
				n := 0
				switch {
				case all:
					n, err = q.RetryAll()
				case domain != "":
					n, err = q.RetryDomain(domain)
				default:
					n, err = q.Retry(ids)
				}
				return said(c, "retrying", n, err)
			})
		},
	}
	c.Flags().String(domainFlag, "", "all messages to this `DOMAIN`")
	c.Flags().Bool(allFlag, false, "all messages")
	c.Flags().Bool(jsonFlag, false, "print JSON")
	return c
}

func queueDrop() *cobra.Command {
	c := &cobra.Command{
		Use: "drop ID...", Short: "Take messages out of the queue for good", Args: args(cobra.MinimumNArgs(1)),
		Long: "drop shows the messages, and drops nothing before you agree: at a terminal, or with --yes. Their senders are told only\n" +
			"with --report. The chain keeps that they were there: see cmtpd spool removals.",
		RunE: func(c *cobra.Command, argv []string) error {
			ids, err := parseIDs(argv)
			if err != nil {
				return err
			}
			report, err := c.Flags().GetBool(reportFlag)
			if err != nil {
				return err
			}
			if err := withQueue(c, func(q *admin.Queue) error { return showDropped(c, q, ids) }); err != nil {
				return err
			}
			ctx, stop := untilSignal(c)
			defer stop()
			if err := agree(ctx, c, "Drop", "drop these"); err != nil {
				return err
			}
			return withQueue(c, func(q *admin.Queue) error {
				n, err := q.Drop(ids, report)
				return said(c, "dropped", n, err)
			})
		},
	}
	c.Flags().Bool(yesFlag, false, "drop without asking")
	c.Flags().Bool(reportFlag, false, "tell their senders, in a message into their own mailboxes")
	c.Flags().Bool(jsonFlag, false, "print JSON")
	return c
}

// showDropped shows what is about to be dropped, and fails where one is not there: then a number is
// mistyped, and perhaps not only that one.
func showDropped(c *cobra.Command, q *admin.Queue, ids []spool.ID) error {
	out := c.OutOrStdout()
	if asJSON(c) {
		out = c.ErrOrStderr()
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	var missing []error
	for _, id := range ids {
		e, err := q.Show(id)
		if err != nil {
			missing = append(missing, err)
			continue
		}
		fmt.Fprintf(w, "%s\t%s\t%d bytes\tto %s\t%s\n", e.ID, e.Arrived.Format(time.RFC3339), e.Size, strconv.QuoteToGraphic(e.Destination), e.Text)
	}
	if missing != nil {
		return fmt.Errorf("%w; %w", errors.Join(missing...), errRefused)
	}
	return w.Flush()
}
