package shorebird

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"cmtpd/internal/cache"
	"cmtpd/internal/cmtp"
)

// MarkReport is what flag and delete print with --json.
type MarkReport struct {
	Account string  `json:"account"`
	Numbers []int64 `json:"numbers"`
	Deleted bool    `json:"deleted"`
	InStep  bool    `json:"in_step"` // whether the server has heard of it
}

func (r *run) deleteCommand() *cobra.Command {
	var o mailboxOptions
	c := &cobra.Command{
		Use: "delete NUMBER...", Short: "Delete messages, for good",
		Long: "delete removes messages from the copy on this machine and from the mailbox, for good and\n" +
			"from all your devices. Without a network the server is told by the next sync.",
		Args: cobra.MinimumNArgs(1),
		RunE: r.action(func(ctx context.Context, args []string) error {
			return r.mark(ctx, args, o, "deleted", func(c *cache.Cache, ids []int64) error { return c.Delete(ctx, ids) })
		}),
	}
	r.mailboxFlags(c, &o)
	return c
}

// flagNames are the flags that a person can set and clear.
var flagNames = []struct {
	set, clear string
	bit        uint32
}{
	{"seen", "unseen", cmtp.FlagSeen}, {"answered", "unanswered", cmtp.FlagAnswered}, {"flagged", "unflagged", cmtp.FlagFlagged},
}

func (r *run) flagCommand() *cobra.Command {
	var o mailboxOptions
	var note cache.Note
	c := &cobra.Command{
		Use: "flag NUMBER...", Short: "Note something of messages: seen, answered, flagged, tags",
		Long: "flag notes something of messages, for all your devices. Tags are words of your own: the\n" +
			"server cannot read them. About 80 bytes of them fit with one message. Without a network\n" +
			"the server is told by the next sync.",
		Args: cobra.MinimumNArgs(1),
	}
	on := make([]bool, 2*len(flagNames))
	for i, f := range flagNames {
		c.Flags().BoolVar(&on[2*i], f.set, false, "they are "+f.set)
		c.Flags().BoolVar(&on[2*i+1], f.clear, false, "they are not "+f.set)
		c.MarkFlagsMutuallyExclusive(f.set, f.clear)
	}
	c.Flags().StringArrayVar(&note.Add, "tag", nil, "add the tag `WORD`; may be given several times")
	c.Flags().StringArrayVar(&note.Remove, "untag", nil, "take away the tag `WORD`; may be given several times")
	c.Flags().BoolVar(&note.Force, "replace-tags", false, "also where there are tags that do not open here, which are lost by it")
	c.RunE = r.action(func(ctx context.Context, args []string) error {
		for i, f := range flagNames {
			if on[2*i] || on[2*i+1] {
				note.Mask |= f.bit
			}
			if on[2*i] {
				note.Flags |= f.bit
			}
		}
		if note.Mask == 0 && len(note.Add)+len(note.Remove) == 0 {
			return usage(errors.New("say what to note, as --seen, --unseen, --flagged or --tag WORD"))
		}
		return r.mark(ctx, args, o, "marked", func(c *cache.Cache, ids []int64) error {
			if err := fit(ctx, c, ids, note); err != nil {
				return err
			}
			return c.Change(ctx, ids, note)
		})
	})
	r.mailboxFlags(c, &o)
	return c
}

// fit refuses tags that no server would take, before anything is changed.
func fit(ctx context.Context, c *cache.Cache, ids []int64, n cache.Note) error {
	for _, id := range ids {
		m, err := c.Message(ctx, id)
		if err != nil {
			return err
		}
		words := slices.DeleteFunc(slices.Concat(m.Words, n.Add), func(w string) bool { return slices.Contains(n.Remove, w) })
		slices.Sort(words)
		if _, err := plainWords(slices.Compact(words)); err != nil && len(n.Add) > 0 {
			return hint(err, "Nothing was changed. Take tags away with --untag WORD, or use shorter ones.")
		}
	}
	return nil
}

// mark changes messages, here and then with the server.
func (r *run) mark(ctx context.Context, args []string, o mailboxOptions, done string, change func(*cache.Cache, []int64) error) error {
	m, err := r.openMailbox(ctx, o)
	if err != nil {
		return err
	}
	defer m.close()
	ids, numbers, err := m.findAll(ctx, args)
	if err != nil {
		return err
	}
	if err := change(m.copy, ids); err != nil {
		return err
	}
	v := MarkReport{Account: m.held.address.String(), Numbers: numbers, Deleted: done == "deleted"}
	var trouble error
	v.InStep, trouble = m.update(ctx)
	return errors.Join(trouble, r.report(v, func(out *bytes.Buffer) {
		later := ""
		if !v.InStep {
			later = ", and on the server with the next sync"
		}
		fmt.Fprintf(out, "%s %s%s\n", done, strings.Trim(fmt.Sprint(numbers), "[]"), later)
	}))
}
