package shorebird

import (
	"github.com/spf13/cobra"

	"cmtpd/internal/manual"
	"cmtpd/internal/version"
)

const manFiles = `$XDG_CONFIG_HOME/shorebird/config.toml   the configuration; ~/.config by default
$XDG_DATA_HOME/shorebird/                keys, what is remembered, and copies of mailboxes;
                                         ~/.local/share by default`

// manCommand writes the manual, for who builds packages of the program.
func (r *run) manCommand() *cobra.Command {
	return &cobra.Command{
		Use: "man DIR", Short: "Write the manual pages", Hidden: true, Args: cobra.ExactArgs(1),
		Long: "man writes a manual page for each command into man1 of DIR, which it makes. make man does so.\n\n" +
			"The pages have the date of SOURCE_DATE_EPOCH, if that is set.",
		RunE: func(c *cobra.Command, args []string) error {
			r.started = true
			date, err := manual.Date(r.Getenv("SOURCE_DATE_EPOCH"))
			if err != nil {
				return err
			}
			p := manual.Program{Section: 1, Source: "shorebird " + version.Number, Date: date, Files: manFiles, Status: exitCodes}
			return p.Write(c.Root(), args[0])
		},
	}
}
