package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"cmtpd/internal/manual"
	"cmtpd/internal/version"
)

const (
	manFiles = `/etc/cmtpd/cmtpd.toml   the configuration, see cmtpd.toml(5)
/var/lib/cmtpd/         keys, accounts and the spool, where data_dir says nothing else`

	manStatus = ` 0   it did what it was told; nothing is wrong
 1   it did not, or it found something wrong: standard error says what
 2   it was called in a wrong way
 3   cmtpd check found something to do something about
75   it is too early for this step of cmtpd key rotate: run it again later
78   the configuration is wrong or cannot be read, and a restart does not help; of all
     but check`
)

// manCommand writes the manual, for who builds packages of the program.
func manCommand() *cobra.Command {
	return &cobra.Command{
		Use: "man DIR SAMPLE", Short: "Write the manual pages", Hidden: true, Args: args(cobra.ExactArgs(2)),
		Long: "man writes a manual page for each command into man8 of DIR, which it makes, and from the documented configuration in\n" +
			"SAMPLE one of that, into man5. make man does so.\n\nThe pages have the date of SOURCE_DATE_EPOCH, if that is set.",
		RunE: func(c *cobra.Command, argv []string) error {
			sample, err := os.ReadFile(argv[1])
			if err != nil {
				return fmt.Errorf("reading the documented configuration: %w", err)
			}
			date, err := manual.Date(os.Getenv("SOURCE_DATE_EPOCH"))
			if err != nil {
				return err
			}
			name := filepath.Base(argv[1])
			p := manual.Program{
				Section: 8, Source: "cmtpd " + version.Number, Date: date, Files: manFiles, Status: manStatus, Also: []string{name + "(5)"},
			}
			if err := p.Write(c.Root(), argv[0]); err != nil {
				return err
			}
			return p.WriteSample(manual.Sample{
				Name: name, Path: "/etc/cmtpd/" + name, Short: "configuration of cmtpd",
				Text: string(sample), Also: []string{"cmtpd(8)", "cmtpd-check(8)", "cmtpd-serve(8)"},
			}, argv[0])
		},
	}
}
