// Package manual writes manual pages in the macros of man(7): one for each command of a program, from the text of
// its help, and one for a configuration file, from its documented sample. The same source makes the same pages.
package manual

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// A Program is what the pages of a program say that its commands' help does not.
type Program struct {
	Section int      // of the manual
	Source  string   // name and version, for the foot of a page
	Date    string   // of the release, as 2006-01-02, or empty
	Files   string   // a table: names, at least two spaces, and what they are
	Status  string   // the exit statuses, likewise, with text around them
	Also    []string // pages that stand beside the program's, as "cmtpd.toml(5)"
}

// Date returns the day of SOURCE_DATE_EPOCH, which is in seconds since 1970. Where it is not set there is none.
func Date(epoch string) (string, error) {
	if epoch == "" {
		return "", nil
	}
	seconds, err := strconv.ParseInt(epoch, 10, 64)
	if err != nil {
		return "", fmt.Errorf("SOURCE_DATE_EPOCH is not a number of seconds: %w", err)
	}
	return time.Unix(seconds, 0).UTC().Format(time.DateOnly), nil
}

// Write writes a page for root and for each command below it that is shown, into man8, say, of dir, which it makes.
func (p *Program) Write(root *cobra.Command, dir string) error {
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	return p.write(root, dir)
}

func (p *Program) write(c *cobra.Command, dir string) error {
	if err := save(dir, pageName(c), p.Section, p.page(c)); err != nil {
		return err
	}
	for _, child := range c.Commands() {
		if !shown(child) {
			continue
		}
		if err := p.write(child, dir); err != nil {
			return err
		}
	}
	return nil
}

func save(dir, name string, section int, page []byte) error {
	dir = filepath.Join(dir, fmt.Sprintf("man%d", section))
	err := os.MkdirAll(dir, 0o755)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, fmt.Sprintf("%s.%d", name, section)), page, 0o644)
	}
	if err != nil {
		return fmt.Errorf("writing the manual: %w", err)
	}
	return nil
}

func shown(c *cobra.Command) bool { return !c.Hidden && c.Name() != "help" }

func pageName(c *cobra.Command) string { return strings.ReplaceAll(c.CommandPath(), " ", "-") }

func (p *Program) page(c *cobra.Command) []byte {
	var b bytes.Buffer
	c.InitDefaultHelpFlag()
	p.title(&b, pageName(c), c.Short, p.Section)
	fmt.Fprintf(&b, ".SH SYNOPSIS\n.B %s\n", roff(c.UseLine()))
	b.WriteString(".SH DESCRIPTION\n")
	about := c.Long
	if about == "" {
		about = strings.TrimSuffix(c.Short, ".") + "."
	}
	text(&b, about)
	commands(&b, c)
	options(&b, "OPTIONS", c.NonInheritedFlags().FlagUsages())
	options(&b, "OPTIONS OF ALL COMMANDS", c.InheritedFlags().FlagUsages())
	if p.Files != "" {
		b.WriteString(".SH FILES\n")
		text(&b, p.Files)
	}
	if p.Status != "" {
		b.WriteString(".SH EXIT STATUS\n")
		text(&b, p.Status)
	}
	also(&b, p.around(c))
	return b.Bytes()
}

// commands lists what stands below c, with what each does: who reads of a program looks for the command first.
func commands(b *bytes.Buffer, c *cobra.Command) {
	title := ".SH COMMANDS\n"
	for _, child := range c.Commands() {
		if shown(child) {
			fmt.Fprintf(b, "%s.TP\n.B %s\n%s\n", title, roff(child.CommandPath()), roff(strings.TrimSuffix(child.Short, ".")))
			title = ""
		}
	}
}

func (p *Program) title(b *bytes.Buffer, name, short string, section int) {
	fmt.Fprintf(b, ".TH %s %d %q \"%s\"\n", quoted(strings.ToUpper(name)), section, p.Date, roff(p.Source))
	fmt.Fprintf(b, ".SH NAME\n%s \\- %s\n", roff(name), roff(strings.TrimSuffix(short, ".")))
}

// around names the pages around a command's.
func (p *Program) around(c *cobra.Command) (pages []string) {
	add := func(c *cobra.Command) { pages = append(pages, fmt.Sprintf("%s(%d)", pageName(c), p.Section)) }
	if c.HasParent() {
		add(c.Parent())
	}
	for _, child := range c.Commands() {
		if shown(child) {
			add(child)
		}
	}
	return append(pages, p.Also...)
}
