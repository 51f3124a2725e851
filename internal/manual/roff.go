package manual

import (
	"bytes"
	"fmt"
	"strings"
)

// text writes paragraphs, which are filled; what looks set for a terminal keeps its lines.
func text(b *bytes.Buffer, s string) {
	for i, block := range strings.Split(strings.Trim(s, "\n"), "\n\n") {
		if i > 0 {
			b.WriteString(".PP\n")
		}
		if isProse(block) {
			b.WriteString(lines(block))
			continue
		}
		b.WriteString(".nf\n" + lines(block) + ".fi\n")
	}
}

// isProse tells a paragraph from a table, a list or a script: its lines start at the margin, have no gaps, and all
// but the last are about as long as a terminal is wide.
func isProse(block string) bool {
	all := strings.Split(strings.Trim(block, "\n"), "\n")
	for i, line := range all {
		if line == "" || line[0] == ' ' || line[0] == '\t' || strings.Contains(line, "  ") || i < len(all)-1 && len(line) < 60 {
			return false
		}
	}
	return true
}

func lines(block string) string {
	var b strings.Builder
	for line := range strings.SplitSeq(strings.Trim(block, "\n"), "\n") {
		b.WriteString(roff(strings.ReplaceAll(line, "\t", "    ")) + "\n")
	}
	return b.String()
}

// options writes a section of flags, from the table of them that a command's help shows: a flag, at least two spaces,
// and what it does.
func options(b *bytes.Buffer, title, usages string) {
	if usages == "" {
		return
	}
	fmt.Fprintf(b, ".SH %s\n", title)
	for line := range strings.SplitSeq(strings.TrimRight(usages, "\n"), "\n") {
		flag, does, _ := strings.Cut(strings.TrimSpace(line), "  ")
		if !strings.HasPrefix(flag, "-") {
			b.WriteString(roff(strings.TrimSpace(line)) + "\n") // more of the flag before
			continue
		}
		fmt.Fprintf(b, ".TP\n.B %s\n%s\n", roff(flag), roff(strings.TrimSpace(does)))
	}
}

// also writes references to pages, given as "name(section)".
func also(b *bytes.Buffer, pages []string) {
	if len(pages) == 0 {
		return
	}
	b.WriteString(".SH SEE ALSO\n")
	for i, p := range pages {
		comma := ","
		if i == len(pages)-1 {
			comma = ""
		}
		name, section, _ := strings.Cut(p, "(")
		fmt.Fprintf(b, ".BR %s (%s%s\n", roff(name), section, comma)
	}
}

// roff escapes a line that is to be shown as it is.
func roff(s string) string {
	s = strings.NewReplacer(`\`, `\e`, "-", `\-`, "'", `\(aq`, "`", `\(ga`, "^", `\(ha`, "~", `\(ti`, `"`, `\(dq`).Replace(s)
	if strings.HasPrefix(s, ".") {
		s = `\&` + s
	}
	return s
}

// quoted is roff for an argument that may hold spaces.
func quoted(s string) string { return `"` + roff(s) + `"` }
