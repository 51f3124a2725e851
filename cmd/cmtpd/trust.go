package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"cmtpd/internal/address"
	"cmtpd/internal/admin"
	"cmtpd/internal/trust"
)

func trustCommand() *cobra.Command {
	return group(&cobra.Command{Use: "trust", Short: "Show the keys of other domains' servers, and decide about them"},
		trustList(), trustShow(), trustAccept(), trustPin(), trustForget())
}

func withTrust(c *cobra.Command, run func(*admin.Trust) error) error {
	cfg, err := load(c)
	if err != nil {
		return err
	}
	t, err := admin.OpenTrust(cfg)
	if err != nil {
		return err
	}
	return errors.Join(run(t), t.Close())
}

// onDomain makes a command on one domain, and what follows it.
func onDomain(use, short string, n cobra.PositionalArgs, run func(*cobra.Command, *admin.Trust, address.Domain, []string) error) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Args: args(n),
		RunE: func(c *cobra.Command, argv []string) error {
			domain, err := address.ParseDomain(argv[0])
			if err != nil {
				return fmt.Errorf("%w (%w)", err, errUsage)
			}
			return withTrust(c, func(t *admin.Trust) error { return run(c, t, domain, argv[1:]) })
		},
	}
}

const heldFlag = "held"

func trustList() *cobra.Command {
	c := &cobra.Command{
		Use: "list", Short: "List the domains whose keys are known", Args: args(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			held, err := c.Flags().GetBool(heldFlag)
			if err != nil {
				return err
			}
			return withTrust(c, func(t *admin.Trust) error {
				all, err := t.List()
				if err != nil {
					return err
				}
				views := []admin.TrustView{}
				for _, e := range all {
					if !held || len(e.Holding) > 0 {
						views = append(views, admin.ViewTrust(e))
					}
				}
				if asJSON(c) {
					return printJSON(c, views)
				}
				return listTrust(c.OutOrStdout(), views)
			})
		},
	}
	c.Flags().Bool(heldFlag, false, "only those of which a server is held")
	c.Flags().Bool(jsonFlag, false, "print JSON")
	return c
}

// listTrust prints a line for each key, and for each hold.
func listTrust(out io.Writer, all []admin.TrustView) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, v := range all {
		name := v.Domain
		if v.Damage != "" {
			name = v.File
		}
		for _, k := range v.Keys {
			fmt.Fprintf(w, "%s\ttrusted\t%s\t%s\n", name, k.Provenance, k.Fingerprint)
		}
		for _, h := range v.Holding {
			fmt.Fprintf(w, "%s\theld\t%s\t%s\n", name, h.Why, h.Fingerprint)
		}
		if len(v.Keys)+len(v.Holding) == 0 {
			fmt.Fprintf(w, "%s\tforgotten\t\t\n", name)
		}
	}
	return w.Flush()
}

func trustShow() *cobra.Command {
	c := onDomain("show DOMAIN", "Show what is known of a domain", cobra.ExactArgs(1),
		func(c *cobra.Command, t *admin.Trust, domain address.Domain, _ []string) error {
			e, err := t.Show(domain)
			if err != nil {
				return err
			}
			v := admin.ViewTrust(e)
			if asJSON(c) {
				return printJSON(c, v)
			}
			return showTrust(c.OutOrStdout(), v)
		})
	c.Flags().Bool(jsonFlag, false, "print JSON")
	return c
}

func showTrust(out io.Writer, v admin.TrustView) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	line := func(what, text string) { fmt.Fprintf(w, "%s\t%s\n", what, text) }
	key := func(what string, k admin.TrustKeyView, more string) {
		line(what, k.Fingerprint)
		line("", k.Key)
		line("", strings.TrimPrefix(k.Provenance+more+", first seen "+moment(k.First)+", last "+moment(k.Last), ", "))
	}
	if v.Damage != "" {
		line("file", v.File)
		line("damage", v.Damage)
		return w.Flush()
	}
	line("domain", v.Domain)
	line("file", v.File)
	line("CMTP 1", map[bool]string{true: "spoken, and required", false: "not spoken yet"}[v.CMTP1])
	if !v.Enforce.IsZero() {
		line("enforce", "until "+moment(v.Enforce))
	}
	for _, k := range v.Keys {
		key("key", k, "")
	}
	if v.Successor != nil {
		key("successor", *v.Successor, "")
	}
	if v.Candidate != nil {
		key("announced", *v.Candidate, ", in the successor's place")
	}
	for _, k := range v.Waiting {
		key("published", k, "")
	}
	for _, h := range v.Holding {
		line("held", h.Text)
		if h.Key != "" {
			line("", h.Fingerprint)
			line("", h.Key)
		}
		line("", "since "+moment(h.Since)+", last seen "+moment(h.Last))
		if !h.Until.IsZero() {
			line("", "until "+moment(h.Until)+", if no other key is seen")
		}
	}
	for _, a := range v.Actions {
		line("operator", strings.TrimSpace(moment(a.At)+" "+a.Do+" "+a.Fingerprint))
		if a.Key != "" {
			line("", a.Key)
		}
	}
	return w.Flush()
}

func moment(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return t.UTC().Format("2006-01-02 15:04:05 MST")
}

func trustAccept() *cobra.Command {
	c := onDomain("accept DOMAIN FINGERPRINT", "End the hold of a key that you have compared with the domain's operator", cobra.MinimumNArgs(2),
		func(c *cobra.Command, t *admin.Trust, domain address.Domain, argv []string) error {
			f, err := trust.ParseFingerprint(strings.Join(argv, " "))
			if err != nil {
				return fmt.Errorf("%w (%w)", err, errUsage)
			}
			if err := t.Accept(domain, f); err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "this key, and no other, is now the one of %s\n", domain)
			return nil
		})
	c.Long = "End the hold of exactly the key whose fingerprint, or base64, is given: compare it by voice with the operator of the domain.\n" +
		"It becomes the domain's only key, and the domain is pinned: what DNS says changes nothing until you forget it."
	return c
}

func trustPin() *cobra.Command {
	c := onDomain("pin DOMAIN KEY", "Vouch for a key of a domain", cobra.ExactArgs(2),
		func(c *cobra.Command, t *admin.Trust, domain address.Domain, argv []string) error {
			key, err := trust.ParseKey(argv[0])
			if err != nil {
				return fmt.Errorf("%w (%w)", err, errUsage)
			}
			if err := t.Pin(domain, key); err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "%s is pinned to %s\n", domain, key)
			return nil
		})
	c.Long = "Vouch for a key, in base64, of a domain that may be known or not. It is added to those that you have vouched for before; the\n" +
		"domain's other keys are forgotten. Until you forget the domain, what DNS says changes nothing; a pinned key can name the one that follows it."
	return c
}

func trustForget() *cobra.Command {
	return onDomain("forget DOMAIN", "Meet a domain as a stranger the next time, whatever was known of it", cobra.ExactArgs(1),
		func(_ *cobra.Command, t *admin.Trust, domain address.Domain, _ []string) error {
			return t.Forget(domain)
		})
}
