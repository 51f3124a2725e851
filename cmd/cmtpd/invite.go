package main

import (
	"fmt"
	"net"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"cmtpd/internal/address"
	"cmtpd/internal/admin"
	"cmtpd/internal/config"
)

func userInvite() *cobra.Command {
	var life life
	c := onUser("invite", "Let somebody make the keys of a new account, or new keys of an old one", func(c *cobra.Command, u *admin.Users, a address.Address) error {
		reset, err := c.Flags().GetBool("reset")
		if err != nil {
			return err
		}
		cfg, err := load(c)
		if err != nil {
			return err
		}
		made, err := u.Invite(a, reset, time.Duration(life))
		if err != nil {
			return err
		}
		v := u.ViewInvitation(made.Invitation)
		if v.Code = made.Code; asJSON(c) {
			return printJSON(c, v)
		}
		_, err = fmt.Fprintln(c.OutOrStdout(), v.Code)
		fmt.Fprintf(c.ErrOrStderr(), "This code is shown only now, and works once, until %s. Give it to the user alone, who runs\n\n"+
			"\tshorebird register %s --server %s\n\nand is asked for it. user uninvite ends it.\n", showTime(v.Expires), a, reachedAt(cfg))
		if reset {
			fmt.Fprintln(c.ErrOrStderr(), "It replaces the account's key. Whoever knows the old one is told; mail that is sealed to it opens only with the old keyring.")
		}
		return err
	})
	c.Flags().Bool("reset", false, "for a user who has lost password and recovery key")
	c.Flags().Var(&life, "life", "how long the code works, such as 7d or 12h, 1m at least (default: accounts.invitation_life)")
	c.Flags().Bool(jsonFlag, false, "print JSON")
	return c
}

// reachedAt is where users reach the server, as far as its configuration tells. Behind a load balancer that is the
// usual port.
func reachedAt(cfg *config.Config) string {
	all := slices.Concat(cfg.Listen.Addresses, cfg.Listen.CMTPOnly) // never empty
	_, port, err := net.SplitHostPort(all[0])
	if err != nil || len(cfg.Listen.ProxyFrom) > 0 {
		port = "25"
	}
	return net.JoinHostPort(cfg.Hostname.String(), port)
}

// life is a duration above zero, as the configuration spells it.
type life time.Duration

func (l *life) Set(s string) error {
	d, err := config.ParseDuration(s)
	if err == nil && d <= 0 {
		err = fmt.Errorf("%v is no duration above zero", d)
	}
	if err != nil {
		return err
	}
	*l = life(d)
	return nil
}

func (l *life) Type() string { return "DURATION" }

func (l *life) String() string {
	if *l == 0 {
		return ""
	}
	return time.Duration(*l).String()
}

func userInvitations() *cobra.Command {
	c := &cobra.Command{
		Use: "invitations", Short: "List the open invitations", Args: args(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			return withUsers(c, func(u *admin.Users) error { return listInvitations(c, u) })
		},
	}
	c.Flags().Bool(jsonFlag, false, "print JSON")
	return c
}

func listInvitations(c *cobra.Command, u *admin.Users) error {
	all, err := u.Invitations()
	if err != nil {
		return err
	}
	views := make([]admin.InvitationView, 0, len(all))
	for _, i := range all {
		views = append(views, u.ViewInvitation(i))
	}
	if asJSON(c) {
		return printJSON(c, views)
	}
	w := tabwriter.NewWriter(c.OutOrStdout(), 0, 0, 2, ' ', 0)
	for _, v := range views {
		what := "new"
		if v.Reset {
			what = "reset"
		}
		void := ""
		if v.Void {
			void = "\tvoid: the server's key has changed; invite again"
		}
		fmt.Fprintf(w, "%s\t%s\tuntil %s%s\n", v.Address, what, showTime(v.Expires), void)
	}
	return w.Flush()
}
