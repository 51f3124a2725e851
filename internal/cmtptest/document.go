package cmtptest

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// Documents are those that tell people what to type and to write into files, from the module's root.
var Documents = []string{"README.md", "docs/operations.md", "docs/HACKING.md", "docs/threat-model.md"}

// A Document is one of them, taken apart.
type Document struct {
	Path     string
	Headings []string
	Blocks   []Block
	Spans    []Span
	Prose    []string // its lines, those of blocks empty
}

// A Block stands between fences. What a comment <!-- name: value --> in the line before says of it is in
// Marks; readers do not see that.
type Block struct {
	Line     int // of its first line
	Language string
	Marks    map[string]string
	Lines    []string
}

// A Span stands between backquotes in a line of prose.
type Span struct {
	Line  int
	Text  string
	First bool // in the first cell of a table's row
}

// Root is the module's, as seen from the package that is tested.
func Root(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	check(t, err)
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		if dir == filepath.Dir(dir) {
			t.Fatal("the test is not in the module")
		}
		dir = filepath.Dir(dir)
	}
}

// ReadDocuments returns all Documents.
func ReadDocuments(t testing.TB) (all []*Document) {
	t.Helper()
	for _, path := range Documents {
		text, err := os.ReadFile(filepath.Join(Root(t), path))
		check(t, err)
		d, err := ParseDocument(path, string(text))
		check(t, err)
		all = append(all, d)
	}
	return all
}

var (
	markPattern = regexp.MustCompile(`<!-- (.*) -->$`)
	spanPattern = regexp.MustCompile("`([^`]+)`")
)

// ParseDocument takes a text in Markdown apart. A fence that is not closed is an error, as is a mark without a block.
func ParseDocument(path, text string) (*Document, error) {
	d := &Document{Path: path}
	var open *Block
	var marks map[string]string
	for i, line := range strings.Split(text, "\n") {
		fence, isFence := strings.CutPrefix(line, "```")
		prose := ""
		switch {
		case isFence && open == nil:
			open, marks = &Block{Line: i + 2, Language: fence, Marks: marks}, nil
		case isFence:
			d.Blocks = append(d.Blocks, *open)
			open = nil
		case open != nil:
			open.Lines = append(open.Lines, line)
		case marks != nil:
			return nil, fmt.Errorf("%s:%d: a mark stands right before a block", path, i)
		case markPattern.MatchString(line):
			marks = parseMarks(markPattern.FindStringSubmatch(line)[1])
		default:
			prose = line
			d.addProse(i+1, line)
		}
		d.Prose = append(d.Prose, prose)
	}
	if open != nil {
		return nil, fmt.Errorf("%s:%d: the block is not closed", path, open.Line)
	}
	return d, nil
}

// parseMarks reads "name: value; name: value".
func parseMarks(text string) map[string]string {
	marks := make(map[string]string)
	for part := range strings.SplitSeq(text, ";") {
		name, value, _ := strings.Cut(part, ":")
		marks[strings.TrimSpace(name)] = strings.TrimSpace(value)
	}
	return marks
}

func (d *Document) addProse(number int, line string) {
	if level, title, ok := strings.Cut(line, " "); ok && level != "" && strings.Trim(level, "#") == "" {
		d.Headings = append(d.Headings, title)
	}
	cell := -1
	if strings.HasPrefix(line, "| ") {
		cell = strings.Index(line[2:], " | ") + 2
	}
	for _, at := range spanPattern.FindAllStringSubmatchIndex(line, -1) {
		d.Spans = append(d.Spans, Span{number, line[at[2]:at[3]], at[1] <= cell})
	}
}

// A Line is one of a block of commands.
type Line struct {
	Words   []string // without quotes, sudo, and redirections
	User    string   // of sudo -u
	Comment string
	In, Out string // files of redirections
}

// ParseLine reads a line as a shell does, of what a document needs: words, quotes, <, > and a comment. A | or [ is for
// Variants.
func ParseLine(text string) (l Line, err error) {
	for rest := strings.TrimSpace(text); rest != ""; rest = strings.TrimLeft(rest, " \t") {
		if strings.HasPrefix(rest, "#") {
			l.Comment = strings.TrimSpace(rest[1:])
			break
		}
		var word string
		if word, rest, err = nextWord(rest); err != nil {
			return Line{}, fmt.Errorf("%w in %q", err, text)
		}
		l.Words = append(l.Words, word)
	}
	for sign, file := range map[string]*string{"<": &l.In, ">": &l.Out} {
		if i := slices.Index(l.Words, sign); i >= 0 && i+1 < len(l.Words) {
			*file = l.Words[i+1]
			l.Words = slices.Delete(l.Words, i, i+2)
		}
	}
	if len(l.Words) > 3 && l.Words[0] == "sudo" && l.Words[1] == "-u" {
		l.User, l.Words = l.Words[2], l.Words[3:]
	}
	return l, nil
}

func nextWord(text string) (word, rest string, err error) {
	var quote rune
	var b strings.Builder
	for i, r := range text {
		switch {
		case quote != 0 && r == quote:
			quote = 0
		case quote == 0 && (r == '\'' || r == '"'):
			quote = r
		case quote == 0 && (r == ' ' || r == '\t'):
			return b.String(), text[i:], nil
		default:
			b.WriteRune(r)
		}
	}
	if quote != 0 {
		return "", "", fmt.Errorf("a quote is not closed")
	}
	return b.String(), "", nil
}
