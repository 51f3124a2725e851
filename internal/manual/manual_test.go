package manual_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"cmtpd/internal/manual"
)

// program is a program with everything that can be troublesome in a page.
func program() *cobra.Command {
	root := &cobra.Command{Use: "tool", Short: "Do it.", Run: func(*cobra.Command, []string) {}, Long: strings.Repeat("Words of a paragraph ", 4) + "\n" +
		".hidden at a line's start, with a back\\slash and 'quotes'\n\na list\nof short lines\n\n" + strings.Repeat("A column  and another ", 4) + "\nrow  two"}
	child := &cobra.Command{Use: "part [ONE]", Short: "A part of it", Run: root.Run}
	child.Flags().StringP("to", "t", "", "send `WHAT` to --somebody")
	root.PersistentFlags().Bool("all", false, "of all")
	root.AddCommand(child, &cobra.Command{Use: "secret", Hidden: true, Run: root.Run})
	return root
}

func page(t *testing.T, dir, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestProgram_Write(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	p := manual.Program{Section: 1, Source: "tool 1-2", Date: "2026-11-27", Files: "a  b", Status: "0  ok", Also: []string{"else(5)"}}
	if err := p.Write(program(), dir); err != nil {
		t.Fatal(err)
	}
	paragraph := strings.Repeat("Words of a paragraph ", 4) + "\n\\&.hidden at a line\\(aqs start, with a back\\eslash and \\(aqquotes\\(aq\n"
	columns := strings.Repeat("A column  and another ", 4) + "\nrow  two\n"
	want := ".TH \"TOOL\" 1 \"2026-11-27\" \"tool 1\\-2\"\n.SH NAME\ntool \\- Do it\n.SH SYNOPSIS\n.B tool [flags]\n.SH DESCRIPTION\n" +
		paragraph + ".PP\n.nf\na list\nof short lines\n.fi\n.PP\n.nf\n" + columns + ".fi\n" +
		".SH COMMANDS\n.TP\n.B tool completion\nGenerate the autocompletion script for the specified shell\n.TP\n.B tool part\nA part of it\n" +
		".SH OPTIONS\n.TP\n.B \\-\\-all\nof all\n.TP\n.B \\-h, \\-\\-help\nhelp for tool\n" +
		".SH FILES\n.nf\na  b\n.fi\n.SH EXIT STATUS\n.nf\n0  ok\n.fi\n" +
		".SH SEE ALSO\n.BR tool\\-completion (1),\n.BR tool\\-part (1),\n.BR else (5)\n"
	if got := page(t, dir, "man1/tool.1"); got != want {
		t.Errorf("the page is\n%s\nwant\n%s", got, want)
	}
	want = ".SH DESCRIPTION\nA part of it.\n.SH OPTIONS\n.TP\n.B \\-h, \\-\\-help\nhelp for part\n.TP\n.B \\-t, \\-\\-to WHAT\nsend WHAT to \\-\\-somebody\n" +
		".SH OPTIONS OF ALL COMMANDS\n.TP\n.B \\-\\-all\nof all\n"
	if got := page(t, dir, "man1/tool-part.1"); !strings.Contains(got, want) || !strings.HasSuffix(got, ".BR tool (1),\n.BR else (5)\n") {
		t.Errorf("the page is\n%s\nwant in it\n%s", got, want)
	}
	if found, _ := filepath.Glob(filepath.Join(dir, "*", "*secret*")); len(found) > 0 {
		t.Errorf("a hidden command has a page")
	}
}

func TestProgram_WriteSample(t *testing.T) {
	dir := t.TempDir()
	p := manual.Program{Source: "tool 1"}
	sample := "# Of all.\n#\n# More.\n\n# What a is.\n# And how.\na = 1\n\n# About the section.\n[part]\n\n# What b is.\n#b = \"x\"\n#\"c@d\" = 2\n"
	s := manual.Sample{Name: "t.toml", Path: "/etc/t.toml", Short: "settings", Text: sample, Also: []string{"tool(1)"}}
	if err := p.WriteSample(s, dir); err != nil {
		t.Fatal(err)
	}
	want := ".TH \"T.TOML\" 5 \"\" \"tool 1\"\n.SH NAME\nt.toml \\- settings\n.SH SYNOPSIS\n.B /etc/t.toml\n.SH DESCRIPTION\nOf all.\n.PP\nMore.\n" +
		".SH SETTINGS\n.TP\n.B a = 1\nWhat a is.\nAnd how.\n.SS [part]\nAbout the section.\n.TP\n.B #b = \\(dqx\\(dq\nWhat b is.\n" +
		".TP\n.B #\\(dqc@d\\(dq = 2\nAn example.\n.SH FILES\n.B /etc/t.toml\n.SH SEE ALSO\n.BR tool (1)\n"
	if got := page(t, dir, "man5/t.toml.5"); got != want {
		t.Errorf("the page is\n%s\nwant\n%s", got, want)
	}
	s.Text = "# ok\nwhat is this\n"
	if err := p.WriteSample(s, dir); err == nil || !strings.Contains(err.Error(), `line 2 of the sample of t.toml, "what is this"`) {
		t.Errorf("a line that is nothing: %v", err)
	}
}

func TestDate(t *testing.T) {
	for epoch, want := range map[string]string{"": "", "0": "1970-01-01", "1800000000": "2027-01-15"} {
		if got, err := manual.Date(epoch); got != want || err != nil {
			t.Errorf("Date(%q) = %q, %v", epoch, got, err)
		}
	}
	if _, err := manual.Date("today"); err == nil {
		t.Error("a word is a date")
	}
}
