// Command cmtpd is the server: it shares port 25 with a mail server, serves the
// Cipher Mail Transport Protocol there, and keeps its mail in a signed spool.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"cmtpd/internal/config"
	"cmtpd/internal/identity"
	"cmtpd/internal/keyfile"
	"cmtpd/internal/service"
	"cmtpd/internal/version"
)

// Exit statuses. They are stable.
const (
	exitFailure  = 1
	exitUsage    = 2
	exitFindings = 3  // of check
	exitEarly    = 75 // EX_TEMPFAIL: a step of key rotate, whose time comes
	exitConfig   = 78 // EX_CONFIG of sysexits.h: no restart helps
)

// errUsage marks an error in how a command was called.
var errUsage = errors.New("usage")

func main() {
	if err := keyfile.ForbidCoreDumps(); err != nil {
		fmt.Fprintln(os.Stderr, "cmtpd: warning:", err)
	}
	os.Exit(run(command(), os.Stdout, os.Stderr))
}

// run runs a command, and returns the exit status. With --json an error is a value on standard output, too, unless the
// command has said something there: it stays one value.
func run(root *cobra.Command, stdout, stderr io.Writer) int {
	out := &noted{Writer: stdout}
	root.SetOut(out)
	root.SetErr(stderr)
	c, err := root.ExecuteContextC(context.Background())
	if err == nil {
		return 0
	}
	code := status(err)
	if asJSON(c) && !out.written {
		err = errors.Join(err, printJSON(c, failure{err.Error(), code}))
	}
	fmt.Fprintln(stderr, "cmtpd:", err)
	return code
}

// A failure is the form of an error with --json.
type failure struct {
	Text string `json:"error"`
	Code int    `json:"code"` // the exit status
}

// noted notes whether anything was written.
type noted struct {
	io.Writer
	written bool
}

func (n *noted) Write(b []byte) (int, error) {
	n.written = true
	return n.Writer.Write(b)
}

func status(err error) int {
	var problems *config.Error
	switch {
	case errors.As(err, &problems), errors.Is(err, config.ErrRead), errors.Is(err, service.ErrSockets):
		return exitConfig
	case errors.Is(err, errUsage):
		return exitUsage
	case errors.Is(err, errFindings):
		return exitFindings
	case errors.Is(err, identity.ErrEarly):
		return exitEarly
	}
	return exitFailure
}

func command() *cobra.Command {
	root := group(&cobra.Command{
		Use:           "cmtpd",
		Short:         "CMTP beside SMTP on one port",
		Long:          "cmtpd shares port 25 with a mail server: SMTP passes through to it byte for byte,\nCMTP is served here, and its mail is kept encrypted in a signed spool.",
		Version:       version.Number,
		SilenceErrors: true,
		SilenceUsage:  true,
	}, initCommand(), serveCommand(), checkCommand(), userCommand(), spoolCommand(), queueCommand(), trustCommand(),
		keyCommand(), backupCommand(), restoreCommand(), manCommand())
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return fmt.Errorf("%w; see %s --help (%w)", err, c.CommandPath(), errUsage)
	})
	root.PersistentFlags().String("config", "/etc/cmtpd/cmtpd.toml", "the configuration `FILE`")
	return root
}

// group makes a command of others. It answers a word that none of them has with a
// usage error: a script that slips must not be told that all is well.
func group(c *cobra.Command, commands ...*cobra.Command) *cobra.Command {
	c.Args = cobra.ArbitraryArgs
	c.RunE = func(c *cobra.Command, argv []string) error {
		if len(argv) == 0 {
			return c.Help()
		}
		return fmt.Errorf("unknown command %q; see %s --help (%w)", argv[0], c.CommandPath(), errUsage)
	}
	c.AddCommand(commands...)
	return c
}

// untilSignal returns a context that ends when the process is told to stop. A
// command without one is ended by the signal itself.
func untilSignal(c *cobra.Command) (context.Context, context.CancelFunc) {
	return signal.NotifyContext(c.Context(), os.Interrupt, syscall.SIGTERM)
}

// load reads the configuration that --config names.
func load(c *cobra.Command) (*config.Config, error) {
	path, err := c.Flags().GetString("config")
	if err != nil {
		return nil, err
	}
	return config.Load(path)
}

// args makes what cobra says of a wrong number of arguments a usage error.
func args(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(c *cobra.Command, a []string) error {
		if err := check(c, a); err != nil {
			return fmt.Errorf("%w; usage: %s (%w)", err, c.UseLine(), errUsage)
		}
		return nil
	}
}
