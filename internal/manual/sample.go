package manual

import (
	"bytes"
	"fmt"
	"regexp"
	"strings"
)

// setting matches a setting of a sample, in force or, behind a #, at its default.
var setting = regexp.MustCompile(`^#?(?:"[^"]+"|[a-z0-9_]+) = .*$`)

// A Sample is a documented configuration in TOML. Each setting stands under the lines "# ..." about it, without an empty
// line in between; so does a [section]. What no setting follows is about the file as a whole, or its section.
type Sample struct {
	Name  string // of the file, "cmtpd.toml"
	Path  string // where it lies
	Short string
	Text  string
	Also  []string
}

// WriteSample writes the page of a configuration file, into man5 of dir.
func (p *Program) WriteSample(s Sample, dir string) error {
	var b bytes.Buffer
	p.title(&b, s.Name, s.Short, 5)
	fmt.Fprintf(&b, ".SH SYNOPSIS\n.B %s\n.SH DESCRIPTION\n", roff(s.Path))
	w := sampleWriter{out: &b}
	for n, line := range strings.Split(s.Text, "\n") {
		if !w.line(line) {
			return fmt.Errorf("line %d of the sample of %s, %q, is neither text nor a setting", n+1, s.Name, line)
		}
	}
	fmt.Fprintf(&b, ".SH FILES\n.B %s\n", roff(s.Path))
	also(&b, s.Also)
	return save(dir, s.Name, 5, b.Bytes())
}

// A sampleWriter turns the lines of a sample into a page.
type sampleWriter struct {
	out    *bytes.Buffer
	about  []string // text that is about what comes next, in roff
	inList bool     // a list of settings has begun
	begun  bool     // the description has begun
}

// line reports whether it understood a line.
func (w *sampleWriter) line(line string) bool {
	switch {
	case setting.MatchString(line):
		if !w.inList {
			w.out.WriteString(".SH SETTINGS\n")
		}
		if len(w.about) == 0 {
			w.about = []string{"An example.\n"}
		}
		fmt.Fprintf(w.out, ".TP\n.B %s\n%s", roff(line), w.take())
		w.inList = true
	case strings.HasPrefix(line, "["):
		fmt.Fprintf(w.out, ".SS %s\n%s", roff(line), w.take())
		w.inList = true
	case line == "" || line == "#":
		w.paragraph()
	case strings.HasPrefix(line, "# "):
		w.about = append(w.about, roff(line[2:])+"\n")
	default:
		return false
	}
	return true
}

// paragraph writes text that is about no setting.
func (w *sampleWriter) paragraph() {
	if len(w.about) == 0 {
		return
	}
	if w.begun {
		w.out.WriteString(".PP\n")
	}
	w.begun = true
	w.out.WriteString(w.take())
}

func (w *sampleWriter) take() string {
	text := strings.Join(w.about, "")
	w.about = nil
	return text
}
