package client

import (
	"context"
	"errors"
	"fmt"
	"time"

	"cmtpd/internal/cmtp"
)

// The mailbox of the user that Auth has proven (docs/protocol.md, Part III). Everything that a
// method returns has been held to what was asked for; a server that answers otherwise has ended
// the Channel.

// Mailbox asks for the state of the mailbox.
func (c *Channel) Mailbox() (s cmtp.MailboxState, err error) {
	payload, err := c.box(&cmtp.Command{Verb: cmtp.Mailbox}, len(s.Append(nil)))
	if err == nil {
		s, err = cmtp.ParseMailboxState(payload)
		err = c.checked(err)
	}
	if err != nil {
		return s, fmt.Errorf("asking for the mailbox: %w", err)
	}
	return s, nil
}

// List asks for messages by number.
func (c *Channel) List(q cmtp.ListQuery) (*cmtp.Page, error) {
	payload, err := c.box(&cmtp.Command{Verb: cmtp.List, Fixed: q.Append(nil)}, cmtp.MaxPage)
	var p *cmtp.Page
	if err == nil {
		p, err = cmtp.ParseList(payload, q)
		err = c.checked(err)
	}
	if err != nil {
		return nil, fmt.Errorf("listing messages: %w", err)
	}
	return p, nil
}

// Changes asks for what has changed. The answer is one from 0, though something else was asked
// for, where its epoch is another one or its Next is below q.Change.
func (c *Channel) Changes(q cmtp.ChangesQuery) (*cmtp.Page, error) {
	payload, err := c.box(&cmtp.Command{Verb: cmtp.Changes, Fixed: q.Append(nil)}, cmtp.MaxPage)
	var p *cmtp.Page
	if err == nil {
		p, err = cmtp.ParseChanges(payload, q)
		err = c.checked(err)
	}
	if err != nil {
		return nil, fmt.Errorf("asking for changes: %w", err)
	}
	return p, nil
}

// Flag notes something of messages. Each result stands in the place of its item; at most
// cmtp.MaxFlags, less where there are keywords, go into one form.
func (c *Channel) Flag(items []cmtp.FlagItem) ([]cmtp.FlagResult, error) {
	results, err := c.flag(items)
	if err != nil {
		return nil, fmt.Errorf("flagging messages: %w", err)
	}
	return results, nil
}

func (c *Channel) flag(items []cmtp.FlagItem) ([]cmtp.FlagResult, error) {
	var form []byte
	for i := range items {
		if len(items[i].Keywords) > cmtp.MaxKeywords || items[i].Mask > cmtp.UserFlags || items[i].Flags&^items[i].Mask != 0 {
			return nil, fmt.Errorf("%w: flags, mask or keywords of message %d", ErrParameter, items[i].Number)
		}
		form = items[i].Append(form)
	}
	payload, err := c.boxForm(cmtp.Flag, form, 10*len(items))
	if err != nil {
		return nil, err
	}
	results, err := cmtp.ParseFlagResults(payload, len(items))
	return results, c.checked(err)
}

// Delete removes messages, at most cmtp.MaxDelete, for good, and returns how many were there.
func (c *Channel) Delete(numbers []uint64) (removed int, err error) {
	if len(numbers) > cmtp.MaxDelete {
		return 0, fmt.Errorf("deleting messages: %w: %d of them, at most %d are allowed", ErrParameter, len(numbers), cmtp.MaxDelete)
	}
	payload, err := c.boxForm(cmtp.Delete, cmtp.AppendDeleteForm(nil, numbers), 4)
	if err == nil {
		removed, err = cmtp.ParseDeleted(payload, len(numbers))
		err = c.checked(err)
	}
	if err != nil {
		return 0, fmt.Errorf("deleting messages: %w", err)
	}
	return removed, nil
}

// Wait is Changes, answered when there is something to say or the seconds are over. When ctx
// ends the wait does, too, without an error: the answer is then what has changed by that
// time, perhaps nothing, and the Channel goes on.
func (c *Channel) Wait(ctx context.Context, q cmtp.WaitQuery) (*cmtp.Page, error) {
	p, err := c.wait(ctx, q)
	if err != nil {
		return nil, fmt.Errorf("waiting for news: %w", err)
	}
	return p, nil
}

func (c *Channel) wait(ctx context.Context, q cmtp.WaitQuery) (*cmtp.Page, error) {
	if q.Seconds < 1 || q.Seconds > cmtp.MaxWait {
		return nil, fmt.Errorf("%w: a wait of %d seconds", ErrParameter, q.Seconds)
	}
	if err := c.mine(); err != nil {
		return nil, err
	}
	if err := c.begin(cmtp.Wait, (&cmtp.Command{Verb: cmtp.Wait, Fixed: q.Append(nil)}).Append(nil)); err != nil {
		return nil, err
	}
	c.conn.SetReadDeadline(time.Now().Add(time.Duration(q.Seconds)*time.Second + c.timeout))
	// A byte of filler ends the wait as well as a command does, and has no reply of its own.
	ended := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() { ended <- c.write(cmtp.Wait, []byte{0}) })
	_, payload, err := c.reply(cmtp.MaxPage)
	if !stop() {
		err = errors.Join(err, <-ended)
	}
	if err != nil {
		return nil, err
	}
	p, err := cmtp.ParseChanges(payload, q.Changes())
	return p, c.checked(err)
}

// mine reports why there is no mailbox to speak of.
func (c *Channel) mine() error {
	switch {
	case c.closed:
		return ErrClosed
	case c.user.IsZero():
		return ErrNotProven
	}
	return nil
}

// box gives a command of the mailbox, and reads its answer.
func (c *Channel) box(cmd *cmtp.Command, limit int) ([]byte, error) {
	if err := c.mine(); err != nil {
		return nil, err
	}
	return c.do(cmd.Verb, cmd.Append(nil), limit)
}

func (c *Channel) boxForm(v cmtp.Verb, form []byte, n int) ([]byte, error) {
	if err := c.mine(); err != nil {
		return nil, err
	}
	if len(form) > cmtp.MaxForm {
		return nil, fmt.Errorf("%w: a form of %d bytes, at most %d are allowed", ErrParameter, len(form), cmtp.MaxForm)
	}
	return c.exactly(v, cmtp.AppendForm((&cmtp.Command{Verb: v}).Append(nil), form), n)
}

// checked ends the channel where an answer is not what it must be.
func (c *Channel) checked(err error) error {
	if err != nil {
		return c.lied(err)
	}
	return nil
}
