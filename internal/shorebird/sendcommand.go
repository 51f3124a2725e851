package shorebird

import (
	"context"

	"github.com/spf13/cobra"
)

func (r *run) sendCommand() *cobra.Command {
	var o sendOptions
	c := &cobra.Command{
		Use: "send [ADDRESS...]", Short: "Send a letter",
		Long: "send seals a letter to each ADDRESS and sends each its own copy. All keys are asked for\n" +
			"and checked first: if one is not to be had, nothing is sent to anybody. Your own server\n" +
			"wants to see proven who you are, by your keys, before it takes your letter.\n\n" +
			"The text comes from standard input, or from the file that --text names. At a terminal it\n" +
			"is written in $VISUAL or $EDITOR, with the header above it, and what you do not send is\n" +
			"kept as a draft; without an editor, it is typed, and so kept too.\n\n" +
			"Where your keys are on this machine, each sealed copy is kept in the outbox before any\n" +
			"is sent, and is sent again, unchanged, until its server has taken it: so it arrives\n" +
			"once. What cannot be sent for now stays there (exit status 75), and goes with the next\n" +
			"send, sync or outbox send. A letter of more than 64 MiB, all its copies together, is\n" +
			"sent without the outbox.\n\n" +
			"A copy for yourself goes to your own mailbox, sealed, where all your devices find it with\n" +
			"list --sent; a letter past your own server, or to yourself alone, leaves none. --no-copy,\n" +
			"or sent_copies = false in the configuration file, leaves it out.\n\n" + abroad,
		RunE: r.action(func(ctx context.Context, args []string) error { return r.send(ctx, args, o) }),
	}
	f := c.Flags()
	f.StringVarP(&o.subject, "subject", "s", "", "the letter's `SUBJECT`")
	f.StringVar(&o.text, "text", "", "read the text from `FILE`, or from standard input for -")
	f.StringArrayVarP(&o.attach, "attach", "a", nil, "attach `FILE`; may be given several times")
	f.StringVar(&o.from, "from", "", "your own `ADDRESS`, instead of the configuration's account")
	f.StringVar(&o.replyTo, "reply-to", "", "the `ADDRESS` that answers should go to")
	f.StringArrayVar(&o.cc, "cc", nil, "name `ADDRESS` as one who got a copy; it gets none by this; may be given several times")
	f.BoolVar(&o.unkept, "no-outbox", false, "keep nothing: what cannot be sent for now has failed")
	noCopyFlag(c, &o.noCopy)
	r.directFlag(c, &o.direct)
	return c
}

func noCopyFlag(c *cobra.Command, v *bool) {
	c.Flags().BoolVar(v, "no-copy", false, "keep no copy of the letter in your own mailbox")
}
