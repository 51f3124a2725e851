package main

import (
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"cmtpd/internal/address"
	"cmtpd/internal/admin"
	"cmtpd/internal/letter"
	"cmtpd/internal/spool"
	"cmtpd/internal/terminal"
)

func spoolCommand() *cobra.Command {
	return group(&cobra.Command{Use: "spool", Short: "Look into the spool, beside a running daemon or without one, remove from it, and repair it"},
		spoolList(), spoolShow(), spoolExport(), spoolRead(), spoolVerify(), spoolRemove(), spoolRemovals(), spoolRepair())
}

func withSpool(c *cobra.Command, run func(*admin.Spool) error) error {
	cfg, err := load(c)
	if err != nil {
		return err
	}
	s, err := admin.OpenSpool(cfg)
	if err != nil {
		return err
	}
	return errors.Join(run(s), s.Close())
}

func spoolList() *cobra.Command {
	c := &cobra.Command{
		Use: "list [ADDRESS]", Short: "List the messages of a user, or all", Args: args(cobra.MaximumNArgs(1)),
		RunE: func(c *cobra.Command, argv []string) error {
			var addr address.Address
			if len(argv) == 1 {
				var err error
				if addr, err = address.Parse(argv[0]); err != nil {
					return fmt.Errorf("%w (%w)", err, errUsage)
				}
			}
			operator, err := c.Flags().GetBool("operator")
			if err != nil {
				return err
			}
			if operator && len(argv) > 0 {
				return fmt.Errorf("--operator and an ADDRESS are two mailboxes: name one (%w)", errUsage)
			}
			return withSpool(c, func(s *admin.Spool) error {
				if operator {
					return listMessages(c, s, s.Operator())
				}
				seq, err := s.Select(addr)
				if err != nil {
					return err
				}
				return listMessages(c, s, seq)
			})
		},
	}
	c.Flags().Bool(jsonFlag, false, "print JSON")
	c.Flags().Bool("operator", false, "list the mail to the server itself")
	return c
}

// listMessages prints one message after the other. A damaged one is shown as
// such, and does not hide those behind it; a list that may lack one is no success.
func listMessages(c *cobra.Command, s *admin.Spool, seq iter.Seq2[spool.Info, error]) error {
	views := []admin.MessageView{}
	var damaged []error
	w := tabwriter.NewWriter(c.OutOrStdout(), 0, 0, 2, ' ', 0)
	for info, err := range seq {
		var v admin.MessageView
		if err == nil {
			v, err = s.View(info)
		}
		if err != nil {
			damaged = append(damaged, err)
			continue
		}
		if asJSON(c) {
			views = append(views, v)
			continue
		}
		showLine(w, &v)
	}
	if places := len(s.Damage()); places > 0 && len(damaged) == 0 {
		damaged = append(damaged, fmt.Errorf("the spool is damaged (%d places), and messages may be missing here: see cmtpd spool verify", places))
	}
	if asJSON(c) {
		return errors.Join(printJSON(c, views), errors.Join(damaged...))
	}
	return errors.Join(w.Flush(), errors.Join(damaged...))
}

func showLine(w io.Writer, v *admin.MessageView) {
	fmt.Fprintf(w, "%s\t%s\t%d bytes\tto %s\tclaims to be from %s\n", v.ID, v.Received.Format(time.RFC3339), v.Size,
		strconv.QuoteToGraphic(v.Destination), strconv.QuoteToGraphic(v.Source))
}

// onMessage makes a command on one message.
func onMessage(use, short string, run func(*cobra.Command, *admin.Spool, spool.ID) error) *cobra.Command {
	return &cobra.Command{
		Use: use + " ID", Short: short, Args: args(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, argv []string) error {
			id, err := spool.ParseID(argv[0])
			if err != nil {
				return fmt.Errorf("%w (%w)", err, errUsage)
			}
			return withSpool(c, func(s *admin.Spool) error { return run(c, s, id) })
		},
	}
}

func spoolShow() *cobra.Command {
	c := onMessage("show", "Show what the server can see of a message", func(c *cobra.Command, s *admin.Spool, id spool.ID) error {
		info, err := s.Get(id)
		if errors.Is(err, spool.ErrNotFound) {
			err = fmt.Errorf("%w; cmtpd spool removals lists what was removed", err)
		}
		if err != nil {
			return err
		}
		v, err := s.View(info)
		if err != nil {
			return err
		}
		if asJSON(c) {
			return printJSON(c, v)
		}
		w := tabwriter.NewWriter(c.OutOrStdout(), 0, 0, 2, ' ', 0)
		fmt.Fprintf(w, "id\t%s\nmailbox\t%s\nreceived\t%s\nhanded over by\t%s\nto\t%s\nclaims to be from\t%s\nsize\t%d bytes\ncrypto system\t%d\nattachments\t%d\ncore digest\t%s\nSHA-256\t%s\nin a file of its own\t%v\nflags\t%s\nchange number\t%d\n",
			v.ID, v.Mailbox, v.Received.Format(time.RFC3339), v.From, strconv.QuoteToGraphic(v.Destination), strconv.QuoteToGraphic(v.Source),
			v.Size, v.System, v.Attachments, v.Digest, v.SHA256, v.Large, info.Mark.Flags, v.Change)
		for _, e := range v.Log {
			fmt.Fprintf(w, "log\t%s\n", strconv.QuoteToGraphic(e))
		}
		return w.Flush()
	})
	c.Flags().Bool(jsonFlag, false, "print JSON")
	return c
}

func spoolExport() *cobra.Command {
	c := onMessage("export", "Write a message as it came over the wire", func(c *cobra.Command, s *admin.Spool, id spool.ID) error {
		path, err := c.Flags().GetString("output")
		if err != nil {
			return err
		}
		if path != "" {
			return s.ExportFile(id, path)
		}
		if terminal.Is(os.Stdout) {
			return fmt.Errorf("a message is binary and would upset the terminal; use --output FILE (%w)", errUsage)
		}
		return s.Export(id, c.OutOrStdout())
	})
	c.Flags().StringP("output", "o", "", "write to the new `FILE`, not to standard output")
	return c
}

func spoolRead() *cobra.Command {
	c := onMessage("read", "Read a message to the server itself, with the server's key", func(c *cobra.Command, s *admin.Spool, id spool.ID) error {
		save, err := c.Flags().GetString("save")
		if err != nil {
			return err
		}
		return s.ReadOwn(id, func(l *letter.Letter) error {
			out := c.OutOrStdout()
			fmt.Fprintf(out, "From        %s\nDate        %s\nSubject     %s\nReply to    %s\n",
				letter.Claim(l.Header), l.Time.UTC().Format(time.RFC1123Z), letter.Line(l.Subject), letter.Line(l.ReplyTo))
			for i, a := range l.Attachments {
				fmt.Fprintf(out, "Attachment  %d. %s, %d bytes\n", i+1, letter.Line(a.Name), a.Size)
			}
			fmt.Fprintf(out, "\n%s\n", letter.Text(l.Text))
			if save == "" {
				return nil
			}
			return saveAttachments(c, save, l)
		})
	})
	c.Flags().String("save", "", "save the attachments in this `DIRECTORY`")
	return c
}

// saveAttachments writes the attachments into a directory, which it makes.
func saveAttachments(c *cobra.Command, path string, l *letter.Letter) error {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return fmt.Errorf("making the directory for attachments: %w", err)
	}
	dir, err := os.OpenRoot(path)
	if err != nil {
		return fmt.Errorf("opening the directory for attachments: %w", err)
	}
	defer dir.Close()
	for _, a := range l.Attachments {
		name, err := letter.Save(dir, a)
		if err != nil {
			return err
		}
		fmt.Fprintf(c.ErrOrStderr(), "saved %s\n", name)
	}
	return nil
}

func spoolVerify() *cobra.Command {
	c := &cobra.Command{
		Use: "verify", Short: "Prove every commit, signature and message of the spool", Args: args(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
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
			report, err := admin.Verify(ctx, cfg, progress(c, "verifying"), want...)
			if err != nil {
				return err
			}
			return errors.Join(showReport(c, &report), admin.Proven(cfg, &report))
		},
	}
	c.Flags().Bool(jsonFlag, false, "print JSON")
	c.Flags().StringArray("head", nil, "a `HEAD` kept elsewhere, NUMBER:HASH, that the chain has to contain")
	return c
}

func heads(c *cobra.Command) (want []spool.Head, err error) {
	texts, err := c.Flags().GetStringArray("head")
	if err != nil {
		return nil, err
	}
	for _, t := range texts {
		h, err := spool.ParseHead(t)
		if err != nil {
			return nil, fmt.Errorf("%w (%w)", err, errUsage)
		}
		want = append(want, h)
	}
	return want, nil
}

// progress shows a bar on a terminal, and nothing to a script.
func progress(c *cobra.Command, doing string) func(done, total int64) {
	if !terminal.Is(os.Stderr) {
		return nil
	}
	var bar *terminal.Bar
	return func(done, total int64) {
		if bar == nil {
			bar = terminal.NewBar(c.ErrOrStderr(), doing, total, terminal.Bytes)
		}
		bar.Set(done, total)
	}
}

// A reportView is the form of verify --json.
type reportView struct {
	Head     string   `json:"head"`
	Commits  uint64   `json:"commits"`
	Messages uint64   `json:"messages"`
	Removed  uint64   `json:"removed"`
	Bytes    int64    `json:"bytes"`
	Torn     int64    `json:"unfinished_bytes"`
	Damage   []string `json:"damage"`
	Missing  []string `json:"missing_heads"`
	Identity string   `json:"identity"` // fingerprint of the key that the chain ends with
	Foreign  bool     `json:"foreign"`  // it is not this server's
	Repaired []string `json:"repaired"`
	Lost     []string `json:"lost"` // messages that a repair removed
}

func showReport(c *cobra.Command, r *spool.Report) error {
	v := reportView{r.Head.String(), r.Commits, r.Messages, r.Removed, r.Bytes, r.Torn, []string{}, []string{}, r.Identity.String(), r.Foreign, []string{}, ids(r.Lost)}
	for _, d := range r.Damage {
		v.Damage = append(v.Damage, d.String())
	}
	for _, s := range r.Scars {
		v.Repaired = append(v.Repaired, s.String())
	}
	for _, h := range r.Missing {
		v.Missing = append(v.Missing, h.String())
	}
	if asJSON(c) {
		return printJSON(c, v)
	}
	out := c.OutOrStdout()
	fmt.Fprintf(out, "%d messages in %d signed commits, %d bytes read\nhead %s\n", v.Messages, v.Commits, v.Bytes, v.Head)
	if v.Removed > 0 {
		fmt.Fprintf(out, "%d more were removed\n", v.Removed)
	}
	if v.Torn > 0 {
		fmt.Fprintf(out, "%d bytes behind the last commit: what a crash left, or a running daemon is writing\n", v.Torn)
	}
	if len(v.Damage) > 0 {
		fmt.Fprintf(out, "DAMAGED, the first first:\n  %s\n", strings.Join(v.Damage, "\n  "))
	}
	if len(v.Repaired) > 0 {
		fmt.Fprintf(out, "what was damage until it was repaired:\n  %s\n", strings.Join(v.Repaired, "\n  "))
	}
	if len(v.Lost) > 0 {
		fmt.Fprintf(out, "messages that a repair removed, since their data was damaged: %s\n", strings.Join(v.Lost, ", "))
	}
	if len(v.Missing) > 0 {
		fmt.Fprintf(out, "not in the chain: %s\n", strings.Join(v.Missing, ", "))
	}
	if r.Foreign {
		fmt.Fprintf(out, "not this server's: the chain ends with the identity key %s\n", v.Identity)
	}
	if r.Err() == nil {
		fmt.Fprintln(out, "every signature and every digest is right")
	}
	return nil
}
