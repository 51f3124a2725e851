package shorebird

import (
	"context"

	"github.com/spf13/cobra"
)

func (r *run) passwordFlag(c *cobra.Command) {
	c.Flags().BoolVar(&r.stdin, "password-stdin", false, "read the password from the first line of standard input")
}

func noRecoveryFlag(c *cobra.Command, v *bool) {
	c.Flags().BoolVar(v, "no-recovery", false, "make no recovery key: a forgotten password is the end of all mail")
}

func (r *run) registerCommand() *cobra.Command {
	var o registerOptions
	c := &cobra.Command{
		Use: "register ADDRESS", Short: "Make your account, with the code of an invitation",
		Long: "register makes your keys on this machine and gives the server of ADDRESS the public one,\n" +
			"and the others sealed under a password that the server never sees. The code comes from\n" +
			"the server's operator, and is asked for at the terminal, or read from standard input\n" +
			"with --code-stdin or from the file that $SHOREBIRD_CODE_FILE names. It also proves that\n" +
			"the server is the right one, before anything secret is sent.\n\n" +
			"You are shown the 12 words of a recovery key, once: write them on paper. With --json\n" +
			"they are in the report. Where the account exists the code resets it, and mail that is\n" +
			"sealed to its old keys cannot be read with the new ones.",
		Args: cobra.ExactArgs(1),
		RunE: r.action(func(ctx context.Context, args []string) error { return r.register(ctx, args[0], o) }),
	}
	c.Flags().BoolVar(&o.codeStdin, "code-stdin", false, "read the code from standard input")
	noRecoveryFlag(c, &o.noRecovery)
	r.passwordFlag(c)
	return c
}

func (r *run) passwdCommand() *cobra.Command {
	var o passwdOptions
	c := &cobra.Command{
		Use: "passwd [ADDRESS]", Short: "Give your account another password",
		Long: "passwd seals the keys of ADDRESS, or of the configuration's account, under another\n" +
			"password. Your other devices ask for it at their next use. Keys from before CMTP 1 are\n" +
			"brought up to date, and where there is no recovery key one is made: its 12 words are\n" +
			"shown once. For scripts the present password stands on the first line of where passwords\n" +
			"come from, and the new one on the second.\n\n" +
			"After a device or the password was stolen passwd is half of what to do: the thief may have\n" +
			"the key, which another password does not change. Run shorebird rotate, too; and where the\n" +
			"thief may have seen the words of the recovery key, give --new-recovery, which makes another\n" +
			"one: nothing else but a reset puts the old words out of force. What the thief has copied\n" +
			"stays open to him. A thief who was first, and has changed password or key himself, can only\n" +
			"be put out by the server's operator, who resets the account.",
		Args: cobra.MaximumNArgs(1),
		RunE: r.action(func(ctx context.Context, args []string) error { return r.passwd(ctx, args, o) }),
	}
	noRecoveryFlag(c, &o.noRecovery)
	c.Flags().BoolVar(&o.newRecovery, "new-recovery", false, "make another recovery key: for the words of the one before the server gives nothing any more")
	c.MarkFlagsMutuallyExclusive("no-recovery", "new-recovery")
	r.passwordFlag(c)
	return c
}

func (r *run) rotateCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "rotate [ADDRESS]", Short: "Give your account a new key",
		Long: "rotate makes a new key for ADDRESS, or for the configuration's account, which the one\n" +
			"before signs for, so that nobody is asked to trust it anew. All keys before are kept:\n" +
			"old mail stays readable.\n\n" +
			"After a device or the password was stolen run shorebird passwd, too: see its help.",
		Args: cobra.MaximumNArgs(1),
		RunE: r.action(r.rotate),
	}
	r.passwordFlag(c)
	return c
}

func (r *run) recoverCommand() *cobra.Command {
	var o recoverOptions
	c := &cobra.Command{
		Use: "recover ADDRESS", Short: "Fetch your keys from your server, to use them on this machine",
		Long: "recover fetches the sealed keys of ADDRESS from its server, opens them with your password,\n" +
			"proves that they are the ones that others seal their letters to, and keeps them on this\n" +
			"machine, sealed under the password.\n\n" +
			"With --words the 12 words of your recovery key open them instead, and you choose a new\n" +
			"password. The words are asked for at the terminal, or read from standard input with\n" +
			"--words-stdin or from the file that $SHOREBIRD_WORDS_FILE names.",
		Args: cobra.ExactArgs(1),
		RunE: r.action(func(ctx context.Context, args []string) error { return r.recover(ctx, args[0], o) }),
	}
	c.Flags().BoolVar(&o.words, "words", false, "open them with the words of your recovery key")
	c.Flags().BoolVar(&o.wordsStdin, "words-stdin", false, "read those words from standard input")
	r.passwordFlag(c)
	return c
}
