package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"cmtpd/internal/address"
	"cmtpd/internal/identity"
)

func keyCommand() *cobra.Command {
	return group(&cobra.Command{Use: "key", Short: "Show the server's keys, and change them"}, keyShow(), keyRotate(), keySuccessor(), keyRecover())
}

func keyShow() *cobra.Command {
	c := &cobra.Command{
		Use: "show", Short: "Show the server's keys, and the records that tell others of them", Args: args(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			dns, err := c.Flags().GetBool("dns")
			if err != nil {
				return err
			}
			cfg, err := load(c)
			if err != nil {
				return err
			}
			v, err := identity.Keys(c.Context(), cfg, dns)
			if err != nil {
				return err
			}
			if asJSON(c) {
				return printJSON(c, v)
			}
			return showKeys(c.OutOrStdout(), v)
		},
	}
	c.Flags().Bool("dns", false, "ask DNS what is published")
	c.Flags().Bool(jsonFlag, false, "print JSON")
	return c
}

func showKeys(out io.Writer, v identity.KeysView) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	line := func(what string, k *identity.KeyView) {
		if k != nil {
			fmt.Fprintf(w, "%s\t%s\n", what, k.Fingerprint)
		}
	}
	line("identity", &v.Identity)
	line("spool", v.Spool)
	line("next identity", v.Next)
	line("successor", v.Successor)
	for _, k := range v.Former {
		line("former identity", &k)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(out, "\nWhat DNS should have:")
	showRecords(out, v.Records)
	return nil
}

// showRecords prints lines for a zone file, and in comments what DNS says of them.
func showRecords(out io.Writer, all []identity.DomainView) {
	for _, d := range all {
		if d.DNS == nil {
			fmt.Fprintln(out, d.Zone)
			continue
		}
		for _, fault := range d.DNS.Faults {
			fmt.Fprintln(out, ";", fault)
		}
		if d.DNS.Right {
			fmt.Fprintf(out, "; %s publishes it, with a TTL of %v", d.Domain, time.Duration(d.DNS.TTL)*time.Second)
			fmt.Fprintln(out, map[bool]string{true: ", and DNSSEC vouches for it", false: ""}[d.DNS.Authenticated])
		}
		fmt.Fprintln(out, d.Zone)
	}
}

// Flags of key rotate.
const (
	prepareFlag     = "prepare"
	switchFlag      = "switch"
	retireFlag      = "retire"
	nowFlag         = "now"
	spoolFlag       = "spool"
	fromFlag        = "from"
	waitFlag        = "wait"
	withoutDNSFlag  = "without-dns"
	unpublishedFlag = "unpublished"
	forceFlag       = "force"
)

func keyRotate() *cobra.Command {
	c := &cobra.Command{
		Use: "rotate", Short: "Give the server a new key, step by step", Args: args(cobra.NoArgs),
		Long: "Give the server a new identity key, so that nobody who knows the server is without a way to it: --prepare the next key, publish it,\n" +
			"--switch to it, and --retire the former one. Without a step it says where that stands, and what is due. Each step may be run again.\n" +
			"See docs/operations.md, Keys.",
		RunE: rotate,
	}
	f := c.Flags()
	f.Bool(prepareFlag, false, "make the next key, and say what to publish")
	f.Bool(switchFlag, false, "make the next key the server's, once DNS names it; cmtpd must be stopped")
	f.Bool(retireFlag, false, "say what to publish once the former key need not be named any more")
	f.Bool(nowFlag, false, "prepare and switch at once, without a look at DNS; cmtpd must be stopped")
	f.Bool(spoolFlag, false, "change the key of the spool instead, which nobody outside sees")
	f.String(fromFlag, "", "with --prepare or --now: take the key in `FILE`, which the successor's is")
	f.Var(new(life), waitFlag, "how long old answers of DNS may live, such as 2h (default: 1d)")
	f.Bool(withoutDNSFlag, false, "do not ask DNS what is published")
	f.StringArray(unpublishedFlag, nil, "with --switch: nothing is published of `DOMAIN`; may be given again")
	f.Bool(forceFlag, false, "with --prepare, --switch or --now: take another key than the announced successor")
	f.Bool(jsonFlag, false, "print JSON")
	return c
}

func rotate(c *cobra.Command, _ []string) error {
	f := c.Flags()
	step := ""
	for _, name := range []string{prepareFlag, switchFlag, retireFlag, nowFlag, spoolFlag} {
		if on, err := f.GetBool(name); err != nil {
			return err
		} else if on && step != "" {
			return fmt.Errorf("--%s and --%s are two steps; give one (%w)", step, name, errUsage)
		} else if on {
			step = name
		}
	}
	for name, steps := range map[string]string{fromFlag: "prepare now", waitFlag: "prepare switch retire", unpublishedFlag: "switch",
		withoutDNSFlag: " prepare switch retire", forceFlag: "prepare switch now"} {
		if f.Changed(name) && !slices.Contains(strings.Split(steps, " "), step) {
			return fmt.Errorf("--%s means nothing here; see %s --help (%w)", name, c.CommandPath(), errUsage)
		}
	}
	if step == spoolFlag {
		return rotateSpool(c)
	}
	r, err := rotation(c)
	if err != nil {
		return err
	}
	from, err := f.GetString(fromFlag)
	if err != nil {
		return err
	}
	var v identity.StepView
	switch step {
	case prepareFlag:
		v, err = r.Prepare(c.Context(), from)
	case switchFlag:
		v, err = r.Switch(c.Context())
	case retireFlag:
		v, err = r.Retire(c.Context())
	case nowFlag:
		v, err = r.Now(from)
	default:
		v, err = r.Status(c.Context())
	}
	if err != nil {
		return err
	}
	if off, _ := f.GetBool(withoutDNSFlag); off && step == switchFlag || step == nowFlag {
		fmt.Fprintln(c.ErrOrStderr(), "DNS was not asked. Servers that know this one believe the former key, which has named the new one. Where your records name keys, correct them\n"+
			"now: who meets this server for the first time has nothing else to go by.")
	}
	return showStep(c, v)
}

// rotation returns what the flags say of the steps.
func rotation(c *cobra.Command) (*identity.Rotation, error) {
	f := c.Flags()
	cfg, err := load(c)
	if err != nil {
		return nil, err
	}
	off, err := f.GetBool(withoutDNSFlag)
	if err != nil {
		return nil, err
	}
	r := identity.NewRotation(cfg, !off, time.Now)
	if r.Force, err = f.GetBool(forceFlag); err != nil {
		return nil, err
	}
	if wait := f.Lookup(waitFlag); wait != nil {
		r.Wait = time.Duration(*wait.Value.(*life))
	}
	if f.Lookup(unpublishedFlag) == nil {
		return r, nil
	}
	names, err := f.GetStringArray(unpublishedFlag)
	for _, name := range names {
		d, err := address.ParseDomain(name)
		if err != nil {
			return nil, fmt.Errorf("%w (%w)", err, errUsage)
		}
		r.Unpublished = append(r.Unpublished, d)
	}
	return r, err
}

func rotateSpool(c *cobra.Command) error {
	cfg, err := load(c)
	if err != nil {
		return err
	}
	now, err := identity.RotateSpoolKey(cfg)
	if err != nil {
		return err
	}
	if asJSON(c) {
		return printJSON(c, now)
	}
	fmt.Fprintf(c.OutOrStdout(), "the spool's key is now %s\ncmtpd serve signs it into the spool at its next start\n", now.Fingerprint)
	return nil
}

// showStep prints where a rotation stands.
func showStep(c *cobra.Command, v identity.StepView) error {
	out := c.OutOrStdout()
	if asJSON(c) {
		v.Domains = append([]identity.DomainView{}, v.Domains...) // not null
		return printJSON(c, v)
	}
	fmt.Fprintf(out, "%s\n\n", v.Text)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, k := range []struct {
		what string
		key  *identity.KeyView
	}{{"the server's key is", &v.Key}, {"it was", v.Former}, {"the next one is", v.Next}, {"the successor is", v.Successor}} {
		if k.key != nil {
			fmt.Fprintf(w, "%s\t%s\t%s\n", k.what, k.key.Fingerprint, k.key.File)
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if len(v.Domains) > 0 {
		fmt.Fprintln(out, "\nWhat DNS should have:")
		showRecords(out, v.Domains)
	}
	if v.Due != "" {
		fmt.Fprintf(out, "\n%s\n", v.Due)
	}
	return nil
}

func keySuccessor() *cobra.Command {
	c := &cobra.Command{
		Use: "successor", Short: "Make the key that is to follow the server's, to be kept elsewhere", Args: args(cobra.NoArgs),
		Long: "Make a key pair whose secret half is kept far from this machine, for the day on which the server's key is lost or stolen, and say how to\n" +
			"announce it. Others then let this key follow at once, and no other: see docs/operations.md, Keys.",
		RunE: func(c *cobra.Command, _ []string) error {
			out, err := c.Flags().GetString("out")
			if err != nil {
				return err
			}
			r, err := rotation(c)
			if err != nil {
				return err
			}
			v, err := r.Successor(c.Context(), out)
			if err != nil {
				return err
			}
			return showStep(c, v)
		},
	}
	c.Flags().String("out", "successor.key", "the new `FILE` for the secret key, which must leave this machine")
	c.Flags().Bool(withoutDNSFlag, false, "do not ask DNS what is published")
	c.Flags().Bool(forceFlag, false, "announce another successor than before")
	c.Flags().Bool(jsonFlag, false, "print JSON")
	return c
}

func keyRecover() *cobra.Command {
	c := &cobra.Command{
		Use: "recover", Short: "Put the successor in the place of a key that is lost", Args: args(cobra.NoArgs),
		Long: "Put the successor's key, which was kept elsewhere, in the place of a server.key that is gone or damaged, and of which there is no backup.\n" +
			"A spool of the lost key's goes aside, and a new one begins; accounts stay. cmtpd must be stopped. See docs/operations.md, Keys.",
		RunE: func(c *cobra.Command, _ []string) error {
			from, err := c.Flags().GetString(fromFlag)
			if err != nil {
				return err
			}
			if from == "" {
				return fmt.Errorf("--%s FILE is missing (%w)", fromFlag, errUsage)
			}
			r, err := rotation(c)
			if err != nil {
				return err
			}
			v, err := r.Recover(c.Context(), from)
			if err != nil {
				return err
			}
			return showStep(c, v)
		},
	}
	c.Flags().String(fromFlag, "", "the `FILE` of the successor's secret key")
	c.Flags().Bool(withoutDNSFlag, false, "do not ask DNS what is published")
	c.Flags().Bool(jsonFlag, false, "print JSON")
	c.Flags().Bool(forceFlag, false, "also where server.key can be read and is not the spool's, or another successor is announced")
	return c
}
