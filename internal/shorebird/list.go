package shorebird

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cmtpd/internal/cache"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/terminal"
)

// listed is how many messages a list has that nobody has given a number for.
const listed = 25

type listOptions struct {
	mailboxOptions
	unseen, flagged, all bool
	sent                 bool
	count                int
	before, tag          string
}

// ListReport is what list and search print with --json.
type ListReport struct {
	Account  string          `json:"account"`
	InStep   bool            `json:"in_step"`          // whether the server was asked just now
	Synced   time.Time       `json:"synced,omitzero"`  // when the copy was in step last
	Messages []MessageReport `json:"messages"`         // the newest first
	Unseen   int64           `json:"unseen"`           // in the whole copy
	Total    int64           `json:"total"`            // likewise
	Scarce   bool            `json:"scarce,omitempty"` // less than a fifth of the mailbox's room is left
}

const marksHelp = `A line has the message's number, for read and the others; its marks: N new, A answered,
F flagged, + with attachments; when it came; in brackets its tags; who speaks for its source:
proven (the source's key has signed), vouched (its domain's server says so), server (your own
server), unproven (nobody), or FALSE (what came with it is not true); the source; and the
subject. What you have sent has the word sent there, and whom it went to.`

func (r *run) listCommand() *cobra.Command {
	var o listOptions
	c := &cobra.Command{
		Use: "list", Short: "List your messages, the newest first",
		Long: "list shows your newest messages, after it has fetched what is new. Without a network it\n" +
			"shows the copy on this machine, and says of when that is. With --sent it lists the letters\n" +
			"that you have sent, from whichever device, and whom they went to.\n\n" + marksHelp,
		Args: cobra.NoArgs,
		RunE: r.action(func(ctx context.Context, _ []string) error { return r.list(ctx, o) }),
	}
	f := c.Flags()
	f.BoolVar(&o.unseen, "unseen", false, "only those that were not read")
	f.BoolVar(&o.sent, "sent", false, "what you have sent, instead of what has come")
	f.BoolVar(&o.flagged, "flagged", false, "only those that are flagged")
	f.StringVar(&o.tag, "tag", "", "only those with the tag `WORD`")
	f.BoolVar(&o.all, "all", false, "all of them, not only the newest")
	f.IntVarP(&o.count, "number", "n", listed, "at most `N` messages")
	f.StringVar(&o.before, "before", "", "only those older than the message with the number `N`")
	c.MarkFlagsMutuallyExclusive("all", "number")
	r.mailboxFlags(c, &o.mailboxOptions)
	return c
}

func (r *run) list(ctx context.Context, o listOptions) error {
	return r.listing(ctx, o, func(m *mailbox, ctx context.Context, f cache.Filter) ([]cache.Message, error) {
		if f.Way = cache.Came; o.sent {
			f.Way = cache.Went
		}
		return m.copy.List(ctx, f)
	})
}

// listing prints the messages that choose chooses.
func (r *run) listing(ctx context.Context, o listOptions, choose func(*mailbox, context.Context, cache.Filter) ([]cache.Message, error)) error {
	if o.count < 1 {
		return usage(errors.New("-n: at least one message"))
	}
	m, err := r.openMailbox(ctx, o.mailboxOptions)
	if err != nil {
		return err
	}
	defer m.close()
	inStep, trouble := m.update(ctx)
	if ctx.Err() != nil {
		return trouble
	}
	f := cache.Filter{Limit: o.count, Word: o.tag}
	if o.all {
		f.Limit = 1<<31 - 1
	}
	if o.unseen {
		f.Mask |= cmtp.FlagSeen
	}
	if o.flagged {
		f.Mask, f.Flags = f.Mask|cmtp.FlagFlagged, f.Flags|cmtp.FlagFlagged
	}
	if o.before != "" {
		msg, _, err := m.find(ctx, o.before)
		if err != nil {
			return fmt.Errorf("--before: %w", err)
		}
		f.Before = msg.ID
	}
	all, err := choose(m, ctx, f)
	if err != nil {
		return err
	}
	v, err := m.listReport(ctx, all, inStep)
	if err != nil {
		return err
	}
	return errors.Join(trouble, r.report(v, func(out *bytes.Buffer) { r.lines(out, v) }))
}

func (m *mailbox) listReport(ctx context.Context, all []cache.Message, inStep bool) (*ListReport, error) {
	n, err := m.copy.Counts(ctx)
	if err != nil {
		return nil, err
	}
	v := &ListReport{Account: m.held.address.String(), InStep: inStep, Synced: n.Synced, Unseen: n.Unseen, Total: n.Messages,
		Scarce: n.Box != nil && cache.Scarce(n.Box)}
	v.Messages, err = m.reports(ctx, all)
	return v, err
}

// lines prints a list for a person.
func (r *run) lines(out *bytes.Buffer, v *ListReport) {
	digits, tags := 1, 0
	for i := range v.Messages {
		digits = max(digits, len(fmt.Sprint(v.Messages[i].Number)))
		tags = max(tags, terminal.Columns(v.Messages[i].labels()))
	}
	for i := range v.Messages {
		out.WriteString(r.line(&v.Messages[i], digits, tags))
	}
	if len(v.Messages) == 0 {
		out.WriteString("No messages.\n")
	}
	if v.Scarce {
		r.note("Less than a fifth of the room in your mailbox is left: delete what you do not need.")
	}
}

// maxLabels bounds the columns of tags at a terminal.
const maxLabels = 24

// labels are the tags in a list.
func (v *MessageReport) labels() string {
	if len(v.Tags) == 0 {
		return ""
	}
	return terminal.OneLine("[" + strings.Join(v.Tags, ", ") + "]")
}

// narrow is a terminal of fewer columns, where a line has no hour and no tags.
const narrow = 60

// line is a message in a list, with so many columns for its tags. The subject stands last, so that nothing that the program
// says, and no tag, comes after a stranger's words.
func (r *run) line(v *MessageReport, digits, tags int) string {
	from, subject, day := terminal.Unlimited, terminal.Unlimited, r.day(v.Came)
	if w := r.Room(); w > 0 {
		if w < narrow {
			day, tags = day[:len("Jan 02")], 0
		}
		if tags > 0 {
			tags = min(tags, maxLabels, w/8)
			w -= tags + len("  ")
		}
		room := w - 1 - digits - len("  NAF+  ") - len(day) - len("  unproven  ") - len("  ")
		from = min(max(room/3, 4), 32)
		subject = max(room-from, 1)
	}
	said, paint := string(v.Source), v.Source.colour()
	if v.Sent {
		said, paint = "sent", ""
	}
	word := r.Paint(r.Getenv, paint, said) + strings.Repeat(" ", len(Unproven)-len(said))
	source := terminal.Clip(v.who(), from)
	if from < terminal.Unlimited {
		source = terminal.Pad(v.who(), from)
	}
	labels := ""
	if tags > 0 {
		labels = terminal.Pad(v.labels(), tags) + "  "
	}
	return fmt.Sprintf("%*d  %s  %s  %s%s  %s  %s\n", digits, v.Number, v.marks(), day, labels, word, source, terminal.Clip(v.title(), subject))
}

// day is a time in 12 columns: with the hour in the last half year, else with the year.
func (r *run) day(t time.Time) string {
	t = t.Local()
	if age := r.Now().Sub(t); age > 182*24*time.Hour || age < -24*time.Hour {
		return t.Format("Jan 02  2006")
	}
	return t.Format("Jan 02 15:04")
}

func (r *run) searchCommand() *cobra.Command {
	var o listOptions
	c := &cobra.Command{
		Use: "search TERM...", Short: "Find messages by their words",
		Long: cache.QueryHelp + "\n\nPut the terms behind -- where one begins with a dash. Only what was fetched is found.\n\n" + marksHelp,
		Args: cobra.MinimumNArgs(1),
		RunE: r.action(func(ctx context.Context, args []string) error {
			return r.listing(ctx, o, func(m *mailbox, ctx context.Context, f cache.Filter) ([]cache.Message, error) {
				return m.copy.Search(ctx, query(args), f)
			})
		}),
	}
	f := c.Flags()
	f.BoolVar(&o.all, "all", false, "all that match, not only the newest")
	f.IntVarP(&o.count, "number", "n", listed, "at most `N` messages")
	f.StringVar(&o.before, "before", "", "only those older than the message with the number `N`")
	c.MarkFlagsMutuallyExclusive("all", "number")
	r.mailboxFlags(c, &o.mailboxOptions)
	return c
}

// query makes a query of arguments: what a shell has taken the quotation marks from gets them back.
func query(args []string) string {
	var terms []string
	for _, a := range args {
		if strings.ContainsAny(a, " \t") && !strings.Contains(a, `"`) && len(args) > 1 {
			if name, rest, ok := strings.Cut(a, ":"); ok && !strings.ContainsAny(name, " \t") {
				a = name + `:"` + rest + `"`
			} else {
				a = `"` + a + `"`
			}
		}
		terms = append(terms, a)
	}
	return strings.Join(terms, " ")
}
