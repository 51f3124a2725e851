package shorebird

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"cmtpd/internal/address"
	"cmtpd/internal/cache"
	"cmtpd/internal/letter"
	"cmtpd/internal/provenance"
	"cmtpd/internal/terminal"
)

// maxQuoted bounds what is quoted of a letter, in bytes.
const maxQuoted = 1 << 20

type replyOptions struct {
	mailboxOptions
	text                           string
	attach                         []string
	direct, unkept, unquoted, bare bool
	noCopy                         bool
	asked                          bool // the answer goes where the letter asks for it
}

func (r *run) replyCommand() *cobra.Command {
	var o replyOptions
	c := &cobra.Command{
		Use: "reply N", Short: "Answer message N",
		Long: "reply sends an answer to the source of message N, with its text quoted, and marks the\n" +
			"message answered. The text comes from where send takes it. Where nothing proves the\n" +
			"source, you are warned: the answer goes to who is named there, whoever wrote the letter.\n" +
			"A letter can ask for answers to another address; --to-reply-to sends the answer there. The\n" +
			"answer to a letter that you have sent goes to whom that went to.",
		Args: cobra.ExactArgs(1),
		RunE: r.action(func(ctx context.Context, args []string) error { return r.reply(ctx, args[0], o) }),
	}
	r.answerFlags(c, &o)
	c.Flags().BoolVar(&o.asked, "to-reply-to", false, "answer to the address that the letter asks for, not to its source")
	c.Flags().BoolVar(&o.unquoted, "no-quote", false, "do not quote the message")
	return c
}

func (r *run) forwardCommand() *cobra.Command {
	var o replyOptions
	c := &cobra.Command{
		Use: "forward N ADDRESS...", Short: "Send message N on to others",
		Long: "forward sends each ADDRESS the text of message N and its attachments, behind a text of\n" +
			"your own. It is your letter: nothing of it proves to others who wrote the message.\n" +
			"Attachments are forwarded where the copy on this machine has all of the message; else\n" +
			"save them, and attach them with -a.",
		Args: cobra.MinimumNArgs(2),
		RunE: r.action(func(ctx context.Context, args []string) error { return r.forward(ctx, args[0], args[1:], o) }),
	}
	r.answerFlags(c, &o)
	c.Flags().BoolVar(&o.bare, "no-attachments", false, "leave the message's attachments out")
	return c
}

func (r *run) answerFlags(c *cobra.Command, o *replyOptions) {
	r.mailboxFlags(c, &o.mailboxOptions)
	r.directFlag(c, &o.direct)
	noCopyFlag(c, &o.noCopy)
	f := c.Flags()
	f.StringVar(&o.text, "text", "", "read the text from `FILE`, or from standard input for -")
	f.StringArrayVarP(&o.attach, "attach", "a", nil, "attach `FILE`; may be given several times")
	f.BoolVar(&o.unkept, "no-outbox", false, "keep nothing: what cannot be sent for now has failed")
}

func (r *run) reply(ctx context.Context, arg string, o replyOptions) error {
	return r.answer1(ctx, arg, o, func(m *mailbox, msg *cache.Message) (*cache.Draft, string, error) {
		d := &cache.Draft{Recipients: msg.Opened.SentTo, Subject: prefixed("Re: ", msg.Opened.Subject), InReplyTo: msg.SHA256}
		if !o.unquoted {
			d.Text = quoted(msg)
		}
		if len(d.Recipients) > 0 && !o.asked { // one's own letter is gone on with
			return d, "", nil
		}
		to, err := answerTo(msg, o.asked)
		if err != nil {
			return nil, "", err
		}
		d.Recipients = []string{to.String()}
		warning, err := m.warning(ctx, msg, to)
		return d, warning, err
	})
}

func (r *run) forward(ctx context.Context, arg string, to []string, o replyOptions) error {
	return r.answer1(ctx, arg, o, func(_ *mailbox, msg *cache.Message) (*cache.Draft, string, error) {
		d := &cache.Draft{Recipients: to, Subject: prefixed("Fwd: ", msg.Opened.Subject), Text: forwarded(msg), Forwards: msg.SHA256}
		if o.bare {
			return d, "", nil
		}
		if msg.State != cache.Kept && (msg.Opened.Missing > 0 || len(msg.Opened.Attachments) > 0) {
			return nil, "", hint(fmt.Errorf("the attachments: %w", cache.ErrNotKept),
				fmt.Sprintf("Save them with shorebird save %s, and attach them with -a; or leave them out with --no-attachments.", arg))
		}
		for _, a := range msg.Opened.Attachments {
			d.Files = append(d.Files, cache.File{Name: a.Name, Size: a.Size})
		}
		return d, "", nil
	})
}

// answer1 sends a letter about a message, of which begin makes what is not the user's to write, with a warning.
func (r *run) answer1(ctx context.Context, arg string, o replyOptions, begin func(*mailbox, *cache.Message) (*cache.Draft, string, error)) error {
	m, err := r.openMailbox(ctx, o.mailboxOptions)
	if err != nil {
		return err
	}
	defer m.close()
	msg, _, err := m.whole(ctx, arg)
	if err != nil {
		return err
	}
	m.release() // a person may take any time to write
	d, warning, err := begin(m, msg)
	if err != nil {
		return err
	}
	if _, err := recipients(d.Recipients); err != nil {
		return err
	}
	p := r.officeOf(m.network, m.home, o.direct, o.unkept)
	p.desks[m.held.address], p.boxes[m.held.address] = m.desk, m.copy
	p.noCopy, d.NoCopy = o.noCopy, o.noCopy
	if p.warning = warning; warning != "" {
		r.note("WARNING: %s", warning)
	}
	d.From = ownName(msg, m.held.address).String()
	more, err := attach(o.attach)
	if err != nil {
		return err
	}
	d.Files = append(d.Files, more...)
	if r.composes(&sendOptions{text: o.text}) {
		d.Text = "\n\n" + d.Text
		err = p.compose(ctx, d)
	} else {
		var text string
		if text, err = r.text(ctx, o.text); err == nil {
			d.Text = strings.TrimRight(text, "\n") + "\n\n" + d.Text
			err = p.deliver(ctx, d)
		}
	}
	if err != nil {
		return err
	}
	return m.tell(ctx)
}

// answerTo returns whom an answer to a message is for.
func answerTo(msg *cache.Message, asked bool) (a address.Address, err error) {
	if asked {
		if a, err = address.Parse(msg.Opened.ReplyTo); err != nil {
			return a, fmt.Errorf("the letter does not say where answers should go: %w", err)
		}
		return a, nil
	}
	if a, err = provenance.SourceOf(&msg.Header); err == nil && a.Account.IsZero() {
		err = errors.New("it is from a server")
	}
	if err != nil {
		return a, fmt.Errorf("the letter has no source that could be answered: %w", err)
	}
	return a, nil
}

// ownName returns whom an answer is from: whom the message was for, where that is the account, or it with
// a tag.
func ownName(msg *cache.Message, account address.Address) address.Address {
	a, err := address.Parse(msg.Header.DestinationAccount + "@" + msg.Header.DestinationDomain)
	if err == nil && a.Domain == account.Domain && a.Account.Base() == account.Account {
		return a
	}
	return account
}

// warning says in one line what a person should know before answering.
func (m *mailbox) warning(ctx context.Context, msg *cache.Message, to address.Address) (string, error) {
	if _, err := m.proofOf(ctx, msg, false); err != nil { // by the keys that are known now
		return "", err
	}
	named := terminal.OneLine(source(&msg.Header))
	switch asked := terminal.OneLine(msg.Opened.ReplyTo); {
	case standing(msg, m.held.address.Domain) == False:
		return fmt.Sprintf("what came with the letter to prove that it is from %s is FALSE; the answer goes to %s", named, to), nil
	case standing(msg, m.held.address.Domain) == Unproven:
		return fmt.Sprintf("nothing proves that the letter is from %s; the answer goes to %s, whoever wrote it", named, to), nil
	case asked != "" && asked != to.String():
		return fmt.Sprintf("the letter asks for answers to %s, and this one goes to %s: see --to-reply-to", asked, to), nil
	}
	return "", nil
}

// prefixed returns a subject with a prefix, once.
func prefixed(prefix, subject string) string {
	subject = letter.Line(strings.TrimSpace(subject))
	if len(subject) >= len(prefix)-1 && strings.EqualFold(subject[:len(prefix)-1], prefix[:len(prefix)-1]) {
		return subject
	}
	return prefix + subject
}

// excerpt returns a message's text, fit for a terminal, and cut where it is too long.
func excerpt(msg *cache.Message) string {
	text := msg.Opened.Text
	if len(text) > maxQuoted {
		text = strings.ToValidUTF8(text[:maxQuoted], "") + "\n[...]\n"
	}
	return strings.TrimRight(letter.Text([]byte(text)), "\n") + "\n"
}

func quoted(msg *cache.Message) string {
	var b strings.Builder
	fmt.Fprintf(&b, "On %s, %s wrote:\n", written(msg), letter.Line(source(&msg.Header)))
	for line := range strings.Lines(excerpt(msg)) {
		if line != "\n" {
			line = " " + line
		}
		b.WriteString(">" + line)
	}
	return b.String()
}

func forwarded(msg *cache.Message) string {
	to := msg.Header.DestinationAccount + "@" + msg.Header.DestinationDomain
	if len(msg.Opened.SentTo) > 0 {
		to = strings.Join(msg.Opened.SentTo, ", ")
	}
	return fmt.Sprintf("---- Forwarded letter ----\nFrom: %s\nTo: %s\nDate: %s\nSubject: %s\n\n%s", letter.Line(source(&msg.Header)),
		letter.Line(to), written(msg), letter.Line(msg.Opened.Subject), excerpt(msg))
}

func written(msg *cache.Message) string { return msg.Opened.Written.Format("2 Jan 2006 15:04 -0700") }
