package shorebird

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cmtpd/internal/address"
	"cmtpd/internal/cache"
	"cmtpd/internal/letter"
)

// DraftsReport is what drafts list prints with --json.
type DraftsReport struct {
	Account string        `json:"account"`
	Drafts  []DraftReport `json:"drafts"`
}

// DraftReport is a letter that was not sent yet.
type DraftReport struct {
	Number  int64     `json:"number"`
	Changed time.Time `json:"changed"`
	From    string    `json:"from"`
	To      []string  `json:"to"`
	Subject string    `json:"subject"`
	Files   []string  `json:"files"` // names of attachments
}

// deliverDraft sends a draft, which stays one where nothing of it was sent or kept in the outbox.
func (o *office) deliverDraft(ctx context.Context, d *cache.Draft) error {
	id := d.ID
	err := o.deliver(ctx, d)
	if id == 0 {
		return err
	}
	box, berr := o.boxOf(ctx, d)
	if box == nil || berr != nil {
		return errors.Join(err, berr)
	}
	if err == nil { // sent without the outbox
		if rerr := box.RemoveDraft(ctx, id); !errors.Is(rerr, cache.ErrNotFound) {
			return rerr
		}
		return nil
	}
	if _, derr := box.Draft(context.WithoutCancel(ctx), id); derr == nil {
		o.tellDraft(&cache.Draft{ID: id})
	}
	return err
}

func (r *run) draftsCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "drafts", Short: "Letters that were begun",
		Long: "A letter that was composed and not sent is kept as a draft, in the encrypted copy of your\n" +
			"mailbox on this machine. The files that it attaches stay where they are until it is sent.",
	}
	return group(c, r.boxCommand("list", "List the drafts", cobra.NoArgs, r.listDrafts),
		r.boxCommand("edit N", "Go on with draft N in your editor, and send it", cobra.ExactArgs(1), r.editDraft),
		r.boxCommand("send N", "Send draft N as it is", cobra.ExactArgs(1), r.sendDraft),
		r.boxCommand("delete N...", "Delete drafts", cobra.MinimumNArgs(1), r.deleteDrafts))
}

func (r *run) listDrafts(ctx context.Context, _ *office, box *cache.Cache, a address.Address, _ []string) error {
	all, err := box.Drafts(ctx)
	if err != nil {
		return err
	}
	v := &DraftsReport{Account: a.String(), Drafts: []DraftReport{}}
	for _, d := range all {
		one := DraftReport{Number: d.ID, Changed: d.Changed, From: d.From, To: append([]string{}, d.Recipients...), Subject: d.Subject, Files: []string{}}
		for _, f := range d.Files {
			one.Files = append(one.Files, f.Name)
		}
		v.Drafts = append(v.Drafts, one)
	}
	return r.report(v, func(out *bytes.Buffer) {
		if len(v.Drafts) == 0 {
			out.WriteString("there are no drafts\n")
		}
		for _, d := range v.Drafts {
			fmt.Fprintf(out, "%d  %s  %s  %s\n", d.Number, d.Changed.Local().Format("2 Jan 2006, 15:04"), letter.Line(strings.Join(d.To, ", ")), letter.Line(d.Subject))
		}
	})
}

// draft returns the draft with a number.
func draft(ctx context.Context, box *cache.Cache, arg string) (*cache.Draft, error) {
	id, err := number([]string{arg})
	if err != nil {
		return nil, err
	}
	d, err := box.Draft(ctx, id)
	if errors.Is(err, cache.ErrNotFound) {
		err = hint(fmt.Errorf("draft %d: %w", id, err), "See shorebird drafts list.")
	}
	return d, err
}

func (r *run) editDraft(ctx context.Context, o *office, box *cache.Cache, _ address.Address, args []string) error {
	d, err := draft(ctx, box, args[0])
	if err != nil {
		return err
	}
	if r.Edit == nil {
		return hint(errNoEditor, "Set VISUAL or EDITOR, and be at a terminal.")
	}
	return o.compose(ctx, d)
}

var errNoEditor = kind{"there is no editor", errUsage}

func (r *run) sendDraft(ctx context.Context, o *office, box *cache.Cache, _ address.Address, args []string) error {
	d, err := draft(ctx, box, args[0])
	if err != nil {
		return err
	}
	return o.deliverDraft(ctx, d)
}

func (r *run) deleteDrafts(ctx context.Context, _ *office, box *cache.Cache, _ address.Address, args []string) error {
	return r.removeAll(args, "drafts list", func(id int64) error { return box.RemoveDraft(ctx, id) })
}
