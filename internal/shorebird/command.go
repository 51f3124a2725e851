package shorebird

import (
	"context"
	"time"

	"github.com/spf13/cobra"
)

const about = `shorebird sends and opens mail that only its reader can read, over CMTP.

It finds a domain's server by --server, or by $XDG_CONFIG_HOME/shorebird/config.toml:

    account = "you@example.org"         whose mail you send and open
    server = "mail.example.org:25"      the server of your account
    sent_copies = false                 keep no copies of what you send; true by default
    [servers]
    "example.net" = "mx.example.net:25"
    [accounts."you@example.com"]        another account of yours, for --account and --from
    server = "mail.example.com:25"

A password is asked for at the terminal. For scripts it is the first line of standard
input with --password-stdin, of the file that $SHOREBIRD_PASSWORD_FILE names, or of the
open descriptor whose number is in $SHOREBIRD_PASSWORD_FD; passwd takes the new one from
the second line. Nothing secret is ever an argument, and a script is never asked.

Your keys are kept in a file, sealed under your password, and where there is one in the
desktop keyring, so that the password is asked for seldom. Elsewhere shorebird unlock has
the Linux kernel keep them for some hours. --no-keyring, or SHOREBIRD_NO_KEYRING=1, leaves
both alone.`

const abroad = `Where ADDRESS is of another domain than your own, your own server is asked, as you, and
delivers: --server and server are then its place. The key of the other domain's server,
and what vouches for it, are what your server says; shorebird remembers it, and refuses
another one later. A domain that is named under [servers] is asked directly, as are all
with --direct.`

// command returns the command line's grammar.
func (r *run) command() *cobra.Command {
	root := &cobra.Command{
		Use: "shorebird", Short: "Send and open mail that only its reader can read", Long: about,
		SilenceErrors: true, SilenceUsage: true,
	}
	group(root)
	root.SetIn(r.In)
	root.SetOut(r.Out)
	root.SetErr(r.Err)
	flags := root.PersistentFlags()
	flags.BoolVar(&r.json, "json", false, "print JSON, for scripts")
	flags.StringVar(&r.server, "server", "", "the `HOST:PORT` of the server to ask")
	flags.DurationVar(&r.timeout, "timeout", 2*time.Minute, "how long to wait for a server's answer, or for any progress")
	flags.BoolVar(&r.noKeyring, "no-keyring", false, "use neither the desktop keyring nor what unlock gave the kernel")
	root.AddCommand(r.registerCommand(), r.keysCommand(), r.sendCommand(), r.openCommand(),
		r.passwdCommand(), r.rotateCommand(), r.recoverCommand(), r.versionCommand(),
		r.syncCommand(), r.listCommand(), r.readCommand(), r.saveCommand(), r.searchCommand(), r.watchCommand(),
		r.flagCommand(), r.deleteCommand(), r.trustCommand(),
		r.replyCommand(), r.forwardCommand(), r.outboxCommand(), r.draftsCommand(),
		r.devicesCommand(), r.accountsCommand(), r.unlockCommand(), r.lockCommand(), r.manCommand(),
		&cobra.Command{Use: "exit-codes", Short: "What the exit statuses mean", Long: exitCodes})
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	speakPlainly(root)
	r.offer(root)
	return root
}

// group makes a command of others. A word that none of them has is a wrong call: a script that slips must not be told
// that all is well.
func group(c *cobra.Command, commands ...*cobra.Command) *cobra.Command {
	c.Args, c.DisableFlagsInUseLine = cobra.ArbitraryArgs, true
	c.RunE = func(c *cobra.Command, args []string) error {
		if len(args) == 0 {
			return c.Help()
		}
		return unknownCommand(c, args[0])
	}
	c.AddCommand(commands...)
	return c
}

// action is a command's work, told from the reading of its arguments.
func (r *run) action(do func(context.Context, []string) error) func(*cobra.Command, []string) error {
	return func(c *cobra.Command, args []string) error {
		r.started, r.takesStdin = true, c.Flags().Lookup("password-stdin") != nil
		return do(c.Context(), args)
	}
}

func (r *run) keysCommand() *cobra.Command {
	var forget string
	var o keysOptions
	c := &cobra.Command{
		Use: "keys ADDRESS", Short: "Ask a server for an address's key, and check it",
		Long: "keys asks the server of ADDRESS for its own key and for the one of ADDRESS, checks the\n" +
			"signatures, and prints both with their fingerprints and how far they can be trusted.\n" +
			"A server that shows another key than before, which that one has not named, is refused;\n" +
			"so is another key of ADDRESS which the one before has not signed for. Where the owner\n" +
			"of ADDRESS has told you the new fingerprint, --accept-new-key takes it.\n\n" + abroad,
		Args: func(c *cobra.Command, args []string) error {
			if forget != "" {
				return cobra.NoArgs(c, args)
			}
			return cobra.ExactArgs(1)(c, args)
		},
		RunE: r.action(func(ctx context.Context, args []string) error {
			if forget != "" {
				return r.forget(ctx, forget)
			}
			return r.keys(ctx, args[0], o)
		}),
	}
	c.Flags().StringVar(&forget, "forget", "", "forget the remembered key of `DOMAIN`'s server, or of an address: the next contact is a first one")
	c.Flags().BoolVar(&o.accept, "accept-new-key", false, "remember the key of ADDRESS although it does not follow from the one before")
	c.Flags().StringVar(&o.account, "account", "", "your own `ADDRESS`, whose server is asked for other domains, instead of the configuration's account")
	r.directFlag(c, &o.direct)
	r.passwordFlag(c)
	return c
}

func (r *run) directFlag(c *cobra.Command, direct *bool) {
	c.Flags().BoolVar(direct, "direct", false, "ask the servers of other domains directly, not your own one")
}

func (r *run) openCommand() *cobra.Command {
	var o openOptions
	c := &cobra.Command{
		Use: "open FILE", Short: "Open a letter that was exported from a server",
		Long: "open decrypts the message in FILE, or on standard input for -, with your keys on this\n" +
			"machine, or with older ones that were set aside. Nothing is shown or saved before all\n" +
			"of it was found unaltered.\n\n" +
			"It says whether the letter was submitted with a key that is remembered of its source, or\n" +
			"vouched for by the server of its domain; who wrote what is sealed in it, nothing proves.\n" +
			"With --check, the source's keys are asked for first, as keys does. That domain's server\n" +
			"can see then that somebody reads the letter.",
		Args: cobra.ExactArgs(1),
		RunE: r.action(func(ctx context.Context, args []string) error { return r.open(ctx, args[0], o) }),
	}
	f := c.Flags()
	f.StringVar(&o.save, "save", "", "save the attachments in `DIR`; no file is ever replaced")
	f.StringVar(&o.account, "account", "", "the `ADDRESS` whose keys to use, instead of the letter's destination")
	f.BoolVar(&o.check, "check", false, "ask for the keys of the letter's source, to see whether it was submitted with them")
	r.pagerFlag(c)
	r.passwordFlag(c)
	return c
}

func (r *run) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		RunE: r.action(func(context.Context, []string) error { return r.version() }),
	}
}
