package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf16"

	"github.com/spf13/cobra"

	"cmtpd/internal/account"
	"cmtpd/internal/address"
	"cmtpd/internal/admin"
	"cmtpd/internal/terminal"
)

func userCommand() *cobra.Command {
	return group(&cobra.Command{Use: "user", Short: "Add, list and change the users of this server"},
		userAdd(), userInvite(), userInvitations(),
		userDo("uninvite", "End an invitation", (*admin.Users).Revoke),
		userPasswd(), userList(), userShow(),
		userDo("disable", "Answer and receive nothing for a user, and keep everything", func(u *admin.Users, a address.Address) error { return u.SetDisabled(a, true) }),
		userDo("enable", "Undo disable", func(u *admin.Users, a address.Address) error { return u.SetDisabled(a, false) }),
		userRemove())
}

const (
	passwordFlag = "password-stdin"
	jsonFlag     = "json"
)

// onUser makes a command on one address.
func onUser(use, short string, run func(*cobra.Command, *admin.Users, address.Address) error) *cobra.Command {
	return &cobra.Command{
		Use: use + " ADDRESS", Short: short, Args: args(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, argv []string) error {
			addr, err := address.Parse(argv[0])
			if err != nil {
				return fmt.Errorf("%w (%w)", err, errUsage)
			}
			return withUsers(c, func(u *admin.Users) error { return run(c, u, addr) })
		},
	}
}

func withUsers(c *cobra.Command, run func(*admin.Users) error) error {
	cfg, err := load(c)
	if err != nil {
		return err
	}
	users, err := admin.OpenUsers(cfg)
	if err != nil {
		return err
	}
	return errors.Join(run(users), users.Close())
}

func userDo(use, short string, do func(*admin.Users, address.Address) error) *cobra.Command {
	return onUser(use, short, func(_ *cobra.Command, u *admin.Users, a address.Address) error { return do(u, a) })
}

const version2Flag = "version-2"

func userAdd() *cobra.Command {
	c := onUser("add", "Make keys for a new user, sealed under a password", func(c *cobra.Command, u *admin.Users, a address.Address) error {
		version2, err := c.Flags().GetBool(version2Flag)
		if err != nil {
			return err
		}
		password, err := newPassword(c, a)
		if err != nil {
			return err
		}
		defer clear(password)
		create := u.Create
		if version2 {
			create = u.CreateVersion2
		}
		made, err := create(a, password)
		if err != nil {
			return err
		}
		fmt.Fprintf(c.ErrOrStderr(), "The keys of %s were made on this machine, which has seen the password; they are stored sealed under it. "+
			"With user invite the user makes them, and this machine does not see the password.\n"+
			"There is no recovery key: the user's program makes one at the next upload of the keys.\n", a)
		return showUser(c, made)
	})
	c.Flags().Bool(passwordFlag, false, "read the password from the first line of standard input")
	c.Flags().Bool(version2Flag, false, "let the password alone open the keys, for programs that know no UNLOCK")
	c.Flags().Bool(jsonFlag, false, "print JSON")
	return c
}

// userRemove asks first: without the sealed keys the user's mail is noise.
func userRemove() *cobra.Command {
	c := onUser("remove", "Forget a user and the sealed keys; the mail in the spool can be read by nobody then", func(c *cobra.Command, u *admin.Users, a address.Address) error {
		found, err := u.Get(a)
		if err != nil {
			return err
		}
		if err := showUser(c, found); err != nil {
			return err
		}
		ctx, stop := untilSignal(c)
		defer stop()
		if err := showMail(c, u, found); err != nil {
			return err
		}
		if err := agree(ctx, c, "Forget", "forget this user and the sealed keys"); err != nil {
			return err
		}
		return u.Remove(a)
	})
	c.Flags().Bool(yesFlag, false, "forget without asking")
	return c
}

// showMail shows what would be lost with the keys, unless nobody is asked. Mail that cannot be
// counted is perhaps there: then it is for --yes to say that it does not matter.
func showMail(c *cobra.Command, u *admin.Users, a *account.Account) error {
	if yes, err := c.Flags().GetBool(yesFlag); err != nil || yes {
		return err
	}
	messages, bytes, err := u.Mail(a)
	if err != nil {
		return fmt.Errorf("%w; nothing was removed: --%s removes the user all the same", err, yesFlag)
	}
	if messages == 0 {
		fmt.Fprintln(c.ErrOrStderr(), "The mailbox is empty.")
		return nil
	}
	fmt.Fprintf(c.ErrOrStderr(), "The mailbox holds %d messages, %d bytes, which nobody can read without the keys.\n", messages, bytes)
	return nil
}

func userPasswd() *cobra.Command {
	c := onUser("passwd", "Seal a user's keys under another password", func(c *cobra.Command, u *admin.Users, a address.Address) error {
		old, password, err := changedPassword(c, a)
		if err != nil {
			return err
		}
		defer clear(password)
		defer clear(old)
		return u.ChangePassword(a, old, password)
	})
	c.Flags().Bool(passwordFlag, false, "read the present and the new password from two lines of standard input")
	return c
}

func userShow() *cobra.Command {
	c := onUser("show", "Show a user", func(c *cobra.Command, u *admin.Users, a address.Address) error {
		found, err := u.Get(a)
		if err != nil {
			return err
		}
		return showUser(c, found)
	})
	c.Flags().Bool(jsonFlag, false, "print JSON")
	return c
}

func userList() *cobra.Command {
	c := &cobra.Command{
		Use: "list", Short: "List the users", Args: args(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			return withUsers(c, func(u *admin.Users) error {
				all, err := u.List()
				if err != nil {
					return err
				}
				return listUsers(c, all)
			})
		},
	}
	c.Flags().Bool(jsonFlag, false, "print JSON")
	return c
}

func listUsers(c *cobra.Command, all []*account.Account) error {
	views := make([]admin.UserView, 0, len(all))
	for _, a := range all {
		views = append(views, admin.View(a))
	}
	if asJSON(c) {
		return printJSON(c, views)
	}
	w := tabwriter.NewWriter(c.OutOrStdout(), 0, 0, 2, ' ', 0)
	for _, v := range views {
		state := "active"
		if v.Disabled {
			state = "disabled"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\txzibit %d\t%s\n", v.Address, state, keysOf(v), v.XzibitVersion, v.Fingerprint)
	}
	return w.Flush()
}

// keysOf tells what became of a user's keys.
func keysOf(v admin.UserView) string {
	text := "1 key"
	if v.Keys > 1 {
		text = fmt.Sprintf("%d keys", v.Keys)
	}
	if !v.KeySince.IsZero() {
		text += ", since " + v.KeySince.Format(time.DateOnly)
	}
	if v.Reset {
		text += ", was reset"
	}
	return text
}

func showUser(c *cobra.Command, a *account.Account) error {
	v := admin.View(a)
	if asJSON(c) {
		return printJSON(c, v)
	}
	w := tabwriter.NewWriter(c.OutOrStdout(), 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "address\t%s\nkey\t%s\nfingerprint\t%s\nkeys\t%d\nsince\t%s\nreset\t%v\nxzibit\tversion %d\ncreated\t%s\ndisabled\t%v\nmailbox\t%s\n",
		v.Address, v.Key, v.Fingerprint, v.Keys, showTime(v.KeySince), v.Reset, v.XzibitVersion, showTime(v.Created), v.Disabled, v.ID)
	return w.Flush()
}

func showTime(t time.Time) string {
	if t.IsZero() {
		return "unknown"
	}
	return t.Format("2006-01-02 15:04:05 MST")
}

func asJSON(c *cobra.Command) bool {
	on, err := c.Flags().GetBool(jsonFlag)
	return err == nil && on
}

// printJSON prints v with everything escaped that no one can see: JSON itself lets
// a C1 control or a change of the writing direction pass to the terminal.
func printJSON(c *cobra.Command, v any) error {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	var out strings.Builder
	for _, r := range string(text) {
		switch {
		case r == '\n' || unicode.IsGraphic(r):
			out.WriteRune(r)
		default:
			for _, unit := range utf16.AppendRune(nil, r) {
				fmt.Fprintf(&out, `\u%04x`, unit)
			}
		}
	}
	_, err = fmt.Fprintln(c.OutOrStdout(), out.String())
	return err
}

// fromStdin reports whether passwords come from standard input, and reads it.
func fromStdin(c *cobra.Command) ([]byte, bool, error) {
	if on, err := c.Flags().GetBool(passwordFlag); err != nil || !on {
		return nil, false, err
	}
	input, err := io.ReadAll(io.LimitReader(c.InOrStdin(), 4096))
	if err != nil {
		err = fmt.Errorf("reading the password: %w", err)
	}
	return input, true, err
}

func newPassword(c *cobra.Command, a address.Address) ([]byte, error) {
	input, ok, err := fromStdin(c)
	if err != nil {
		return nil, err
	}
	if ok {
		password, _, err := admin.CutPassword(input)
		return password, err
	}
	return askTwice(c, fmt.Sprintf("New password for %s: ", a))
}

func changedPassword(c *cobra.Command, a address.Address) (old, password []byte, err error) {
	input, ok, err := fromStdin(c)
	if err != nil {
		return nil, nil, err
	}
	if ok {
		old, rest, err := admin.CutPassword(input)
		if err != nil {
			return nil, nil, fmt.Errorf("the present password, on the first line: %w", err)
		}
		if password, _, err = admin.CutPassword(rest); err != nil {
			return nil, nil, fmt.Errorf("the new password, on the second line: %w", err)
		}
		return old, password, nil
	}
	if old, err = ask(c, fmt.Sprintf("Present password of %s: ", a)); err != nil {
		return nil, nil, err
	}
	password, err = askTwice(c, fmt.Sprintf("New password for %s: ", a))
	return old, password, err
}

func askTwice(c *cobra.Command, prompt string) ([]byte, error) {
	first, err := ask(c, prompt)
	if err != nil {
		return nil, err
	}
	second, err := ask(c, "Once more: ")
	if err != nil {
		return nil, err
	}
	defer clear(second)
	if string(first) != string(second) {
		return nil, errors.New("the two passwords differ; nothing was changed")
	}
	return first, nil
}

// ask reads a password from the terminal without showing it. A signal ends the
// question, and Ctrl-Z stops it for a while: the terminal shows again what is typed.
func ask(c *cobra.Command, prompt string) ([]byte, error) {
	if !terminal.Is(os.Stdin) {
		return nil, fmt.Errorf("there is no terminal to ask for a password; use --%s (%w)", passwordFlag, errUsage)
	}
	ctx, stop := untilSignal(c)
	defer stop()
	line, err := terminal.AskPassword(ctx, os.Stdin, c.ErrOrStderr(), prompt)
	switch {
	case err != nil && ctx.Err() != nil:
		return nil, errors.New("interrupted; nothing was changed")
	case err != nil:
		return nil, fmt.Errorf("reading the password: %w", err)
	}
	password, _, err := admin.CutPassword(line)
	return password, err
}
