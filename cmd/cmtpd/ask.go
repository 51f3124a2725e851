package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"cmtpd/internal/address"
	"cmtpd/internal/config"
	"cmtpd/internal/setup"
	"cmtpd/internal/terminal"
)

// Flags that answer a question of init.
const (
	hostnameFlag   = "hostname"
	backendFlag    = "backend"
	proxyFlag      = "proxy"
	postmasterFlag = "postmaster"
	metricsFlag    = "metrics"

	none   = "none"
	nobody = "nobody"
)

// A question is asked at a terminal, unless a flag has the answer.
type question struct {
	flag     string
	text     string
	found    string // what is taken where nothing is said; "" asks until something is
	isNeeded func() bool
	take     func(string) error
}

// defaults are what is taken where nothing is said: what the former configuration says, or else what was found.
func defaults(found *setup.Facts, former *config.Config) map[string]string {
	d := map[string]string{domainFlag: found.Domain.String(), hostnameFlag: found.Hostname.String(), backendFlag: none,
		proxyFlag: string(config.ProxyV2), postmasterFlag: nobody, metricsFlag: cmp.Or(found.Metrics, none)}
	if l := found.Port25; l != nil && l.Kind != setup.Cmtpd && found.Backend != "" {
		d[backendFlag] = found.Backend
	}
	if former == nil {
		return d
	}
	was := setup.AnswersOf(former)
	names := make([]string, len(was.Domains))
	for i, domain := range was.Domains {
		names[i] = domain.String()
	}
	d[domainFlag], d[hostnameFlag] = strings.Join(names, " "), was.Hostname.String()
	if was.Backend != "" {
		d[backendFlag], d[proxyFlag] = was.Backend, string(was.Proxy)
	}
	if !was.Postmaster.IsZero() {
		d[postmasterFlag] = was.Postmaster.String()
	}
	if loopbackPort(was.Metrics) == nil { // cmtpd itself may have that port, so that it was not found free
		d[metricsFlag] = was.Metrics
	}
	return d
}

// questions fill in a.
func questions(found map[string]string, a *setup.Answers) []question {
	always := func() bool { return true }
	relays := func() bool { return a.Backend != "" }
	return []question{
		{domainFlag, "The domains of the mail, with spaces between", found[domainFlag], always, func(s string) (err error) {
			a.Domains, err = parseDomains(s)
			return err
		}},
		{hostnameFlag, "This machine's full name", found[hostnameFlag], always, func(s string) (err error) {
			a.Hostname, err = address.ParseDomain(s)
			return err
		}},
		{backendFlag, "The mail server behind cmtpd (host:port), or none", found[backendFlag], always, func(s string) error {
			if a.Backend = ""; s == none {
				return nil
			}
			a.Backend = s
			return localPort(s)
		}},
		{proxyFlag, "The PROXY protocol that it is spoken to in (v1, v2 or none)", found[proxyFlag], relays, func(s string) error {
			switch a.Proxy = config.ProxyProtocol(s); a.Proxy {
			case config.ProxyV1, config.ProxyV2, config.ProxyNone:
				return nil
			}
			return fmt.Errorf("%q is none of v1, v2, none", s)
		}},
		{postmasterFlag, "The address that gets the mail to postmaster, or nobody", found[postmasterFlag], always, func(s string) (err error) {
			if a.Postmaster = (address.Address{}); s != nobody {
				a.Postmaster, err = address.Parse(s)
			}
			return err
		}},
		{metricsFlag, "Where this machine alone sees its status page and metrics (host:port), or none", found[metricsFlag], always, func(s string) error {
			if a.Metrics = ""; s == none {
				return nil
			}
			a.Metrics = s
			return loopbackPort(s)
		}},
	}
}

// postmasterOf returns the postmaster that was found, where the domains that were answered have that address.
func postmasterOf(domains []address.Domain, found string) string {
	if a, err := address.Parse(found); err == nil && slices.Contains(domains, a.Domain) {
		return found
	}
	return nobody
}

func parseDomains(s string) (all []address.Domain, err error) {
	for _, word := range strings.Fields(strings.ReplaceAll(s, ",", " ")) {
		d, err := address.ParseDomain(word)
		if err != nil {
			return nil, err
		}
		all = append(all, d)
	}
	if all == nil {
		err = errors.New("there is no domain")
	}
	return all, err
}

// askAll returns the answers: from flags, from the person at the terminal, or what was found.
func askAll(ctx context.Context, c *cobra.Command, found *setup.Facts, former *config.Config) (*setup.Answers, error) {
	f := c.Flags()
	dir, err := f.GetString(dataDirFlag)
	if err != nil {
		return nil, err
	}
	if former != nil && !f.Changed(dataDirFlag) {
		dir = former.DataDir
	}
	a := new(setup.Answers)
	if a.DataDir, err = setup.AbsDataDir(dir); err != nil {
		return nil, err
	}
	yes, _ := f.GetBool(yesFlag)
	person := !yes && !asJSON(c) && terminal.Is(os.Stdin)
	in := bufio.NewReader(c.InOrStdin())
	if l := found.Port25; l != nil && person {
		fmt.Fprintf(c.ErrOrStderr(), "On port 25 there is %s.\n", l)
	}
	for _, q := range questions(defaults(found, former), a) {
		given, err := answerOf(c, q.flag)
		if q.flag == postmasterFlag {
			q.found = postmasterOf(a.Domains, q.found)
		}
		switch {
		case err != nil:
			return nil, err
		case given != "" && !q.isNeeded():
			return nil, fmt.Errorf("--%s means nothing without a mail server behind; name one with --%s (%w)", q.flag, backendFlag, errUsage)
		case given != "":
			if err := q.take(given); err != nil {
				return nil, fmt.Errorf("--%s: %w (%w)", q.flag, err, errUsage)
			}
		case !q.isNeeded():
		case person:
			if err := q.ask(ctx, c.ErrOrStderr(), in); err != nil {
				return nil, err
			}
		case q.found == "":
			return nil, fmt.Errorf("--%s is missing, and was not found out (%w)", q.flag, errUsage)
		default:
			if err := q.take(q.found); err != nil {
				return nil, err
			}
		}
	}
	return a, nil
}

// answerOf returns what a flag says, "" if it was not given.
func answerOf(c *cobra.Command, flag string) (string, error) {
	f := c.Flags()
	if !f.Changed(flag) {
		return "", nil
	}
	given, err := "", error(nil)
	if flag == domainFlag {
		var all []string
		all, err = f.GetStringArray(flag)
		given = strings.Join(all, " ")
	} else {
		given, err = f.GetString(flag)
	}
	if err == nil && given == "" {
		err = fmt.Errorf("--%s is empty (%w)", flag, errUsage)
	}
	return given, err
}

// ask asks until an answer can be taken, or the person has left.
func (q *question) ask(ctx context.Context, out io.Writer, in *bufio.Reader) error {
	for {
		fmt.Fprint(out, q.text)
		if q.found != "" {
			fmt.Fprintf(out, " [%s]", q.found)
		}
		fmt.Fprint(out, ": ")
		line, err := readLine(ctx, in)
		if err != nil {
			return err
		}
		if line == "" {
			line = q.found
		}
		if err := q.take(line); err != nil {
			fmt.Fprintln(out, err)
			continue
		}
		return nil
	}
}

func readLine(ctx context.Context, in *bufio.Reader) (string, error) {
	line, err := terminal.Interruptible(ctx, func() (string, error) { return in.ReadString('\n') })
	switch {
	case err != nil && ctx.Err() != nil:
		return "", fmt.Errorf("interrupted; %w", errRefused)
	case err != nil:
		return "", fmt.Errorf("no answer; %w", errRefused)
	}
	return strings.TrimSpace(line), nil
}
