package shorebird

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"cmtpd/internal/version"
)

// manCommand writes the manual, for who builds packages of the program.
func (r *run) manCommand() *cobra.Command {
	return &cobra.Command{
		Use: "man DIR", Short: "Write the manual pages", Hidden: true, Args: cobra.ExactArgs(1),
		Long: "man writes a manual page for each command into DIR, which it makes. make man does so.",
		RunE: func(c *cobra.Command, args []string) error {
			r.started = true
			root := c.Root()
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return fmt.Errorf("making the directory for the manual: %w", err)
			}
			return writePages(root, args[0])
		},
	}
}

func writePages(c *cobra.Command, dir string) error {
	if err := os.WriteFile(filepath.Join(dir, pageName(c)+".1"), page(c), 0o644); err != nil {
		return fmt.Errorf("writing the manual: %w", err)
	}
	for _, child := range c.Commands() {
		if child.Hidden || child.Name() == "help" {
			continue
		}
		if err := writePages(child, dir); err != nil {
			return err
		}
	}
	return nil
}

func pageName(c *cobra.Command) string { return strings.ReplaceAll(c.CommandPath(), " ", "-") }

// page returns a command's manual page, in the macros of man(7). It holds no date, so that the same source
// makes the same pages.
func page(c *cobra.Command) []byte {
	var b bytes.Buffer
	c.InitDefaultHelpFlag()
	fmt.Fprintf(&b, ".TH %s 1 \"\" \"shorebird %s\"\n", quotedRoff(strings.ToUpper(pageName(c))), roff(version.Number))
	fmt.Fprintf(&b, ".SH NAME\n%s \\- %s\n", roff(pageName(c)), roff(c.Short))
	fmt.Fprintf(&b, ".SH SYNOPSIS\n.B %s\n", roff(c.UseLine()))
	b.WriteString(".SH DESCRIPTION\n")
	text := c.Long
	if text == "" {
		text = c.Short + "."
	}
	verbatim(&b, text)
	for _, set := range []struct{ title, usages string }{
		{"OPTIONS", c.NonInheritedFlags().FlagUsages()}, {"OPTIONS OF ALL COMMANDS", c.InheritedFlags().FlagUsages()},
	} {
		if set.usages != "" {
			fmt.Fprintf(&b, ".SH %s\n", set.title)
			verbatim(&b, set.usages)
		}
	}
	if !c.HasParent() {
		b.WriteString(".SH FILES\n")
		verbatim(&b, "$XDG_CONFIG_HOME/shorebird/config.toml   the configuration; ~/.config by default\n"+
			"$XDG_DATA_HOME/shorebird/                keys, what is remembered, and copies of mailboxes;\n"+
			"                                         ~/.local/share by default")
		b.WriteString(".SH EXIT STATUS\n")
		verbatim(&b, exitCodes)
	}
	also(&b, c)
	return b.Bytes()
}

// verbatim writes text with its lines as they are: it is set for terminals, and has tables in it.
func verbatim(b *bytes.Buffer, text string) {
	b.WriteString(".nf\n")
	for line := range strings.Lines(strings.TrimRight(text, "\n")) {
		b.WriteString(roff(strings.TrimRight(line, "\n")) + "\n")
	}
	b.WriteString(".fi\n")
}

// also names the pages around a command's.
func also(b *bytes.Buffer, c *cobra.Command) {
	var pages []string
	if c.HasParent() {
		pages = append(pages, pageName(c.Parent()))
	}
	for _, child := range c.Commands() {
		if !child.Hidden && child.Name() != "help" {
			pages = append(pages, pageName(child))
		}
	}
	b.WriteString(".SH SEE ALSO\n")
	for i, p := range pages {
		comma := ","
		if i == len(pages)-1 {
			comma = ""
		}
		fmt.Fprintf(b, ".BR %s (1)%s\n", roff(p), comma)
	}
}

// roff escapes a line that is to be shown as it is.
func roff(s string) string {
	s = strings.NewReplacer(`\`, `\e`, "-", `\-`, "'", `\(aq`, "`", `\(ga`, "^", `\(ha`, "~", `\(ti`).Replace(s)
	if strings.HasPrefix(s, ".") {
		s = `\&` + s
	}
	return s
}

// quotedRoff is roff for an argument.
func quotedRoff(s string) string { return `"` + strings.ReplaceAll(roff(s), `"`, `\(dq`) + `"` }
