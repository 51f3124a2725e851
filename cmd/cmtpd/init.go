package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"cmtpd/internal/address"
	"cmtpd/internal/config"
	"cmtpd/internal/datadir"
	"cmtpd/internal/setup"
)

// Flags of init. Those that answer a question stand with it, in ask.go.
const (
	dataDirFlag = "data-dir"
	userFlag    = "user"
	dryRunFlag  = "dry-run"
)

func initCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "init", Short: "Write a configuration and the server's key, and say how to go on", Args: args(cobra.NoArgs),
		Long: "Look at this machine, ask what cannot be found, and write the configuration, the data directory and the server's key. Then say how the mail server on\n" +
			"port 25 goes behind cmtpd, what DNS should have, and what to do next. Nothing of another program's is changed, and nothing that is there replaced: it can be run again.",
		RunE: initServer,
	}
	f := c.Flags()
	f.StringArray(domainFlag, nil, "serve the mail of `DOMAIN`; may be given again")
	f.String(hostnameFlag, "", "this machine's full `NAME` (default: its own)")
	f.String(backendFlag, "", "the mail server behind, as `HOST:PORT`, or none (default: where the one on port 25 could go)")
	f.String(proxyFlag, "", "the `VERSION` of the PROXY protocol that it is spoken to in: v1, v2 or none (default: v2)")
	f.String(postmasterFlag, "", "the `ADDRESS` that gets the mail to postmaster, or nobody (default: nobody)")
	f.String(metricsFlag, "", "serve the status page and metrics on `HOST:PORT`, a loopback address, or none (default: 127.0.0.1:9125, or none where another program has that)")
	f.String(dataDirFlag, config.Default().DataDir, "keep keys and mail in `DIR`")
	f.String(userFlag, "cmtpd", "the `USER` who serves, if root runs this")
	f.Bool(yesFlag, false, "do not ask: take what was found for what is not given")
	f.Bool(forceFlag, false, "replace a configuration that is there, and keep a copy of it")
	f.Bool(dryRunFlag, false, "write nothing: show what would be written")
	f.Bool(withoutDNSFlag, false, "do not ask DNS what is published")
	f.Bool(jsonFlag, false, "print JSON, and ask nothing")
	return c
}

// An initView is the form of init --json.
type initView struct {
	DryRun bool         `json:"dry_run"`
	Found  *setup.Facts `json:"found"`
	*setup.Work
	Text    string           `json:"text,omitempty"` // of the configuration, if it is a dry run that would write it
	Move    *setup.Move      `json:"move"`           // null: there is none to plan
	Publish *setup.Published `json:"publish"`
	Next    []string         `json:"next"` // shell commands
}

func initServer(c *cobra.Command, _ []string) error {
	ctx, stop := untilSignal(c) // not ended in the middle of writing
	defer stop()
	f := c.Flags()
	dry, _ := f.GetBool(dryRunFlag)
	v := initView{DryRun: dry, Found: setup.Look(ctx, setup.ThisMachine())}
	path, err := f.GetString("config")
	if err == nil {
		path, err = filepath.Abs(path)
	}
	if err != nil {
		return err
	}
	owner, err := servingUser(c)
	if err != nil {
		return err
	}
	answers, text, means, err := configuration(ctx, c, v.Found, path)
	if err != nil {
		return err
	}
	if v.Work, err = setup.Prepare(path, text, means, owner, time.Now()); err != nil {
		return err
	}
	if v.Move, err = answers.Move(setup.ThisMachine().Files, v.Found); err != nil {
		return fmt.Errorf("%w (%w)", err, errUsage)
	}
	if dry {
		v.Text = text
	} else if err := v.write(ctx, c); err != nil {
		return err
	}
	without, _ := f.GetBool(withoutDNSFlag)
	if v.Publish, err = setup.Publish(ctx, means, setup.PublicAddresses(), !without); err != nil {
		return err
	}
	v.Next = nextCommands(&v)
	if asJSON(c) {
		return printJSON(c, v)
	}
	return v.show(c.OutOrStdout())
}

// configuration returns the answers, and the text of a configuration with them: none where there is
// one that stays, which then has given the answers.
func configuration(ctx context.Context, c *cobra.Command, found *setup.Facts, path string) (a *setup.Answers, text string, means *config.Config, err error) {
	force, err := c.Flags().GetBool(forceFlag)
	if err != nil {
		return nil, "", nil, err
	}
	former, err := setup.Existing(path)
	switch {
	case force && err != nil:
		former = nil // a wrong one answers nothing
	case err != nil:
		return nil, "", nil, fmt.Errorf("%w\nthe configuration that is there is wrong; correct it, or replace it with --%s", err, forceFlag)
	case !force && former != nil:
		return setup.AnswersOf(former), "", former, nil
	}
	if a, err = askAll(ctx, c, found, former); err != nil {
		return nil, "", nil, err
	}
	text, means, err = a.Text(path)
	if errors.Is(err, setup.ErrAnswer) {
		err = fmt.Errorf("%w (%w)", err, errUsage)
	}
	return a, text, means, err
}

// write asks, and writes. A person is told what before.
func (v *initView) write(ctx context.Context, c *cobra.Command) error {
	if v.Config.State == setup.Kept && v.Key.State == setup.Kept {
		return nil
	}
	if yes, _ := c.Flags().GetBool(yesFlag); !yes && !asJSON(c) {
		if err := v.showFiles(c.ErrOrStderr(), "To be written"); err != nil {
			return err
		}
	}
	if err := agree(ctx, c, "Write", "write this"); err != nil {
		return err
	}
	return v.Do()
}

// servingUser returns who is to own the data: root gives it away, anybody else serves it.
func servingUser(c *cobra.Command) (setup.Owner, error) {
	if os.Geteuid() != 0 {
		name := "uid " + strconv.Itoa(os.Geteuid())
		if u, err := user.Current(); err == nil {
			name = u.Username
		}
		return setup.Owner{Name: name, UID: os.Geteuid(), GID: os.Getegid()}, nil
	}
	name, err := c.Flags().GetString(userFlag)
	if err != nil {
		return setup.Owner{}, err
	}
	u, err := user.Lookup(name)
	if err != nil {
		return setup.Owner{}, fmt.Errorf("there is no user %[1]s to serve the data: make one with: useradd --system "+
			"--home-dir /var/lib/cmtpd --no-create-home --shell /usr/sbin/nologin %[1]s; or name another with --%[2]s", name, userFlag)
	}
	uid, err := strconv.Atoi(u.Uid)
	gid, err2 := strconv.Atoi(u.Gid)
	return setup.Owner{Name: name, UID: uid, GID: gid}, errors.Join(err, err2)
}

// nextCommands are in the order in which mail is refused for a moment only: the mail server lets go of
// port 25, and cmtpd takes it.
func nextCommands(v *initView) (next []string) {
	cmtpd, as := "cmtpd", ""
	if os.Geteuid() == 0 && v.Owner.UID != 0 {
		as = datadir.As(setup.Word(v.Owner.Name))
	}
	more := ""
	if v.Config.Path != "/etc/cmtpd/cmtpd.toml" {
		more = " --config " + setup.Word(v.Config.Path)
	}
	start := as + cmtpd + " serve" + more
	if v.Found.Units && more == "" {
		start = "systemctl enable --now cmtpd.socket cmtpd"
	}
	if v.Move != nil {
		start = strings.Join(append(v.Move.Switch, start), " && ")
	}
	// Until the postmaster of the configuration has an account, mail to it is refused.
	first := "NAME@" + v.Means.Domains[0].String()
	if v.Means.Postmaster != (address.Address{}) {
		first = v.Means.Postmaster.String()
	}
	return []string{start, cmtpd + " check" + more, as + cmtpd + " user invite " + setup.Word(first) + more}
}

func (v *initView) show(out io.Writer) error {
	fmt.Fprintln(out, "Found")
	if l := v.Found.Port25; l != nil {
		fmt.Fprintf(out, "  %s on port 25 (%s)\n", l, strings.Join(l.Addresses, ", "))
	} else {
		fmt.Fprintln(out, "  nobody on port 25")
	}
	for _, k := range v.Found.Installed {
		fmt.Fprintf(out, "  a configuration of %s\n", k)
	}
	if err := v.showFiles(out, map[bool]string{true: "Would be written", false: "Written"}[v.DryRun]); err != nil {
		return err
	}
	if v.Config.State == setup.Kept {
		fmt.Fprintf(out, "\nThe configuration was there, and stays as it is. --%s replaces it, and keeps a copy.\n", forceFlag)
	}
	if v.Text != "" {
		fmt.Fprintf(out, "\n%s\n\n%s", v.Config.Path, v.Text)
	}
	fmt.Fprintln(out, "\nWhat DNS should have")
	for _, line := range v.Publish.Notes {
		fmt.Fprintln(out, ";", line)
	}
	for _, line := range v.Publish.Zone {
		fmt.Fprintln(out, line)
	}
	v.showMove(out)
	fmt.Fprintf(out, "\nNext\n  %s\n", strings.Join(v.Next, "\n  "))
	if at := v.Means.Metrics.Listen; at != "" {
		fmt.Fprintf(out, "\nOnce it serves, http://%s/ shows how it is, and http://%s/metrics is for Prometheus.\n", at, at)
	}
	return nil
}

func (v *initView) showFiles(out io.Writer, title string) error {
	fmt.Fprintf(out, "\n%s\n", title)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, f := range []setup.File{v.Config, v.DataDir, v.Key} {
		fmt.Fprintf(w, "  %s\t%s", f.Path, f.State)
		if f.Copy != "" {
			fmt.Fprintf(w, "; the former one is %s", f.Copy)
		}
		fmt.Fprintln(w)
	}
	return w.Flush()
}

func (v *initView) showMove(out io.Writer) {
	m := v.Move
	if m == nil {
		if v.Means.SMTP.Mode == config.Refuse {
			fmt.Fprint(out, "\nNo mail server is behind\n  Once cmtpd serves, whoever brings mail by SMTP is told that this host takes none, and it goes back to its sender.\n"+
				"  Where a mail server is to get it, name that first, by --"+backendFlag+" (with --"+forceFlag+" over a configuration that is there).\n")
		} else {
			fmt.Fprintf(out, "\nBefore cmtpd starts\n  The mail server behind has to listen on %s, %s.\n", v.Means.SMTP.Backend,
				whoComes(v.Means.SMTP.ProxyProtocol))
		}
		return
	}
	fmt.Fprintf(out, "\n%s goes behind cmtpd. As root; it keeps port 25 until the first line of Next:\n", m.Server)
	for i, s := range m.Steps {
		fmt.Fprintf(out, "  %d. %s\n", i+1, s.Text)
		for _, line := range s.Commands {
			fmt.Fprintf(out, "       %s\n", line)
		}
	}
	for _, note := range m.Notes {
		fmt.Fprintf(out, "  %s\n", note)
	}
}

// whoComes says what else is asked of a mail server behind.
func whoComes(proxy config.ProxyProtocol) string {
	if proxy == config.ProxyNone {
		return "and nobody else may come there"
	}
	return "and to expect PROXY headers there (" + string(proxy) + ")"
}

// localPort reports whether a backend can be one at all: the configuration says it better, this
// says it while the person is still there.
func localPort(s string) error {
	if _, port, err := net.SplitHostPort(s); err != nil || port == "" {
		return fmt.Errorf(`expected host:port, such as "127.0.0.1:10025", or none; found %q`, s)
	}
	return nil
}

// loopbackPort reports whether the status page can be there without a word in the configuration that says it may.
func loopbackPort(s string) error {
	host, port, err := net.SplitHostPort(s)
	if ip, _ := netip.ParseAddr(host); err != nil || port == "" || host != "localhost" && !ip.IsLoopback() {
		return fmt.Errorf(`expected host:port of a loopback address, since nobody is asked for a password there, such as "127.0.0.1:9125", or none; found %q`, s)
	}
	return nil
}
