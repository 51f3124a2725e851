package shorebird

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cmtpd/internal/address"
	"cmtpd/internal/cache"
	"cmtpd/internal/letter"
	"cmtpd/internal/terminal"
)

// OutboxReport is what outbox list prints with --json.
type OutboxReport struct {
	Account string         `json:"account"`
	Letters []OutboxLetter `json:"letters"`
}

// OutboxLetter is a letter in the outbox.
type OutboxLetter struct {
	Number  int64        `json:"number"`
	Queued  time.Time    `json:"queued"`
	From    string       `json:"from"`
	Subject string       `json:"subject"`
	Copies  []OutboxCopy `json:"copies"`
	// Own is the sender's copy, where there is one still.
	Own *OutboxCopy `json:"own,omitempty"`
}

// OutboxCopy is one recipient's.
type OutboxCopy struct {
	Address string `json:"address"`
	State   string `json:"state"` // waiting, sealed, sent or refused
	Reason  string `json:"reason,omitempty"`
}

// FlushReport is what outbox send prints with --json.
type FlushReport struct {
	Letters []SendReport `json:"letters"`
}

// RemovedReport is what outbox drop and drafts delete print with --json.
type RemovedReport struct {
	Removed []int64 `json:"removed"`
}

// copyStates are by cache.CopyState.
var copyStates = []string{"waiting", "sealed", "sent", "refused"}

func (r *run) outboxCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "outbox", Short: "Letters that are still to be sent",
		Long: "The outbox keeps each letter until the servers of all its recipients have taken it:\n" +
			"waiting to be sealed, once every key can be had; or sealed, and sent again as it is,\n" +
			"so that it arrives once. What a server has refused stays, too, so that nothing is lost.",
	}
	return group(c, r.boxCommand("list", "List the letters in the outbox", cobra.NoArgs, r.listOutbox),
		r.outboxSendCommand(),
		r.boxCommand("drop N...", "Remove letters from the outbox; what was sent stays sent", cobra.MinimumNArgs(1), r.dropOutbox))
}

func (r *run) accountFlag(c *cobra.Command, account *string) {
	c.Flags().StringVar(account, "account", "", "your own `ADDRESS`, instead of the configuration's account")
}

// boxWork is done with the copy of the user's mailbox.
type boxWork func(context.Context, *office, *cache.Cache, address.Address, []string) error

// boxCommand returns a command that opens the copy of the user's mailbox for its work, and has the flags for that.
func (r *run) boxCommand(use, short string, args cobra.PositionalArgs, do boxWork) *cobra.Command {
	account, direct := "", false
	c := &cobra.Command{Use: use, Short: short, Args: args,
		RunE: r.action(func(ctx context.Context, args []string) error {
			return r.withBox(ctx, account, direct, func(o *office, box *cache.Cache, a address.Address) error {
				return do(ctx, o, box, a, args)
			})
		})}
	r.accountFlag(c, &account)
	if strings.HasSuffix(use, " N") { // it may be sent
		r.directFlag(c, &direct)
	}
	r.passwordFlag(c)
	return c
}

func (r *run) listOutbox(ctx context.Context, _ *office, box *cache.Cache, a address.Address, _ []string) error {
	all, err := box.Outbox(ctx)
	if err != nil {
		return err
	}
	v := newOutboxReport(a, all)
	return r.report(v, func(out *bytes.Buffer) { v.text(out) })
}

func (r *run) outboxSendCommand() *cobra.Command {
	account, again, direct := "", false, false
	c := &cobra.Command{
		Use: "send [N]", Short: "Send what is in the outbox, or letter N of it",
		Long: "send looks the keys of all recipients up again, and sends what is not sent yet. With\n" +
			"--again it also seals anew and sends what was refused.",
		Args: cobra.MaximumNArgs(1),
		RunE: r.action(func(ctx context.Context, args []string) error {
			only, err := number(args)
			if err != nil {
				return err
			}
			return r.withBox(ctx, account, direct, func(o *office, box *cache.Cache, _ address.Address) error {
				return o.sendOutbox(ctx, box, only, again)
			})
		}),
	}
	c.Flags().BoolVar(&again, "again", false, "seal anew and send what was refused, too")
	r.accountFlag(c, &account)
	r.directFlag(c, &direct)
	r.passwordFlag(c)
	return c
}

func (r *run) dropOutbox(ctx context.Context, _ *office, box *cache.Cache, _ address.Address, args []string) error {
	return r.removeAll(args, "outbox list", func(id int64) error {
		lock, err := lockLetter(ctx, box, id) // not one that is just being sent
		if err != nil {
			return err
		}
		defer lock.Close()
		return box.RemoveLetter(ctx, id)
	})
}

// number reads the number of a letter or a draft; 0 where there is none.
func number(args []string) (int64, error) {
	if len(args) == 0 {
		return 0, nil
	}
	n, err := strconv.ParseInt(args[0], 10, 64)
	if err != nil || n < 1 {
		return 0, usage(fmt.Errorf("%q is no number of a letter", args[0]))
	}
	return n, nil
}

// removeAll removes letters or drafts by their numbers.
func (r *run) removeAll(args []string, list string, remove func(int64) error) error {
	v := RemovedReport{Removed: []int64{}}
	for _, arg := range args {
		id, err := number([]string{arg})
		if err == nil {
			err = remove(id)
		}
		if errors.Is(err, cache.ErrNotFound) {
			err = hint(fmt.Errorf("number %d: %w", id, err), "See shorebird "+list+".")
		}
		if err != nil {
			return err
		}
		v.Removed = append(v.Removed, id)
	}
	return r.report(v, func(out *bytes.Buffer) { fmt.Fprintf(out, "removed: %d\n", len(v.Removed)) })
}

// withBox has something done with the local copy of the user's account.
func (r *run) withBox(ctx context.Context, account string, direct bool, do func(*office, *cache.Cache, address.Address) error) error {
	o, err := r.office(direct, false)
	if err != nil {
		return err
	}
	defer o.close()
	box, a, err := o.ownBox(ctx, account)
	if err != nil {
		return err
	}
	return do(o, box, a)
}

// ownBox opens the local copy of the account given, or of the configuration's.
func (o *office) ownBox(ctx context.Context, account string) (*cache.Cache, address.Address, error) {
	var args []string
	if account != "" {
		args = []string{account}
	}
	a, err := o.run.ownAccount(args, o.net.settings)
	if err != nil {
		return nil, a, err
	}
	if box := o.boxes[a]; box != nil {
		return box, a, nil
	}
	held, err := o.run.held(ctx, o.home, a)
	if err != nil {
		return nil, a, err
	}
	defer held.ring.Wipe()
	box, err := o.run.mailbox(ctx, o.home, a, keys(held.ring))
	if err != nil {
		return nil, a, err
	}
	o.boxes[a] = box
	return box, a, nil
}

// sendOutbox sends what waits in an outbox.
func (o *office) sendOutbox(ctx context.Context, box *cache.Cache, only int64, again bool) error {
	if only != 0 {
		if _, err := outgoingLetter(ctx, box, only); err != nil {
			return hint(err, "See shorebird outbox list.")
		}
	}
	if again {
		if err := retry(ctx, box, only); err != nil {
			return err
		}
	}
	letters, err := o.flush(ctx, box, only)
	v := FlushReport{Letters: append([]SendReport{}, letters...)}
	return errors.Join(err, o.run.report(v, func(out *bytes.Buffer) {
		for i := range v.Letters {
			v.Letters[i].text(out)
			if len(v.Letters[i].Sent)+len(v.Letters[i].Failed) == 1 {
				v.Letters[i].failures(out) // else said already
			}
		}
		if len(v.Letters) == 0 {
			out.WriteString("nothing waits\n")
		}
	}))
}

// retry makes what was refused wait again.
func retry(ctx context.Context, box *cache.Cache, only int64) error {
	letters, err := box.Outbox(ctx)
	if err != nil {
		return err
	}
	for _, l := range letters {
		for _, c := range l.Copies {
			if c.State != cache.Failed || only != 0 && l.ID != only {
				continue
			}
			if err := box.Retry(ctx, c.ID); err != nil {
				return err
			}
		}
	}
	return nil
}

func newOutboxReport(a address.Address, all []cache.Outgoing) *OutboxReport {
	v := &OutboxReport{Account: a.String(), Letters: []OutboxLetter{}}
	for _, l := range all {
		one := OutboxLetter{Number: l.ID, Queued: l.Queued, From: l.Draft.From, Subject: l.Draft.Subject, Copies: []OutboxCopy{}}
		for _, c := range l.Copies {
			one.Copies = append(one.Copies, OutboxCopy{c.Recipient, copyStates[c.State], c.Reason})
		}
		if l.Own != nil {
			one.Own = &OutboxCopy{l.Draft.From, copyStates[l.Own.State], l.Own.Reason}
		}
		v.Letters = append(v.Letters, one)
	}
	return v
}

func (v *OutboxReport) text(out *bytes.Buffer) {
	if len(v.Letters) == 0 {
		out.WriteString("the outbox is empty\n")
	}
	for _, l := range v.Letters {
		fmt.Fprintf(out, "%d  %s  %s\n", l.Number, l.Queued.Local().Format("2 Jan 2006, 15:04"), letter.Line(l.Subject))
		for _, c := range l.Copies {
			out.WriteString("   " + c.Address + ": " + c.text())
		}
		if l.Own != nil {
			out.WriteString("   your own copy: " + l.Own.text())
		}
	}
}

func (c *OutboxCopy) text() string {
	if c.Reason == "" {
		return c.State + "\n"
	}
	return c.State + ", " + strings.TrimSpace(terminal.OneLine(c.Reason)) + "\n"
}
