package shorebird

import (
	"bytes"
	"fmt"
	"path/filepath"
	"strings"
	"unicode/utf8"

	"cmtpd/internal/address"
	"cmtpd/internal/cache"
	"cmtpd/internal/letter"
)

// A letter that is composed is a file for an editor: header lines, of which those that begin with # are left
// out, up to the first empty line; behind it the text.

const composeHelp = `# The header ends at the first empty line; the letter's text stands behind it.
# To and Copies take addresses, with commas or on several lines; who is under
# Copies is named to the others, and is sent nothing. Attach takes one file on
# each line. Lines with # are left out.
`

// headerNames are those of the header's lines, as they are written.
const (
	headFrom    = "From"
	headTo      = "To"
	headSubject = "Subject"
	headReplyTo = "Reply-To"
	headCopies  = "Copies"
	headAttach  = "Attach"
	// headForward names an attachment of the message that is forwarded.
	headForward = "Forward"
)

// notSent begins a line that says what is wrong.
const notSent = "# NOT SENT: "

// marked returns what an editor has left with what is wrong with it above it.
func marked(b []byte, wrong []string) []byte {
	for bytes.HasPrefix(b, []byte(notSent)) {
		_, b, _ = bytes.Cut(b, []byte("\n"))
	}
	var head []byte
	for _, w := range wrong {
		head = fmt.Appendf(head, "%s%s\n", notSent, letter.Line(w))
	}
	return append(head, b...)
}

// formatDraft writes a letter for an editor.
func formatDraft(d *cache.Draft) []byte {
	var b strings.Builder
	b.WriteString(composeHelp)
	line := func(name, value string) { fmt.Fprintf(&b, "%s: %s\n", name, letter.Line(value)) }
	line(headFrom, d.From)
	line(headTo, strings.Join(d.Recipients, ", "))
	line(headSubject, d.Subject)
	if d.ReplyTo != "" {
		line(headReplyTo, d.ReplyTo)
	}
	if len(d.CC) > 0 {
		line(headCopies, strings.Join(d.CC, ", "))
	}
	for _, f := range d.Files {
		if f.Path == "" {
			line(headForward, f.Name)
		} else {
			fmt.Fprintf(&b, "%s: %s\n", headAttach, f.Path)
		}
	}
	fmt.Fprintf(&b, "\n%s", d.Text)
	return []byte(b.String())
}

// parseDraft reads what an editor has left of the letter was. What is wrong is told in lines, and the rest is in the
// letter all the same. What stands in lines that mean nothing goes in front of its text.
func parseDraft(b []byte, was *cache.Draft, homeDir string) (*cache.Draft, []string) {
	d := &cache.Draft{ID: was.ID, InReplyTo: was.InReplyTo, Forwards: was.Forwards, Direct: was.Direct, NoCopy: was.NoCopy}
	p := draftParser{draft: d, home: homeDir}
	for _, f := range was.Files {
		if f.Path == "" {
			p.forwarded = append(p.forwarded, f)
		}
	}
	if !utf8.Valid(b) {
		p.refuse("it is not UTF-8")
	}
	rest := strings.ReplaceAll(strings.ToValidUTF8(string(b), "\uFFFD"), "\r\n", "\n")
	lost := ""
	for n := 1; rest != ""; n++ {
		var line string
		line, rest, _ = strings.Cut(rest, "\n")
		if strings.TrimSpace(line) == "" {
			break
		}
		if !strings.HasPrefix(line, "#") && !p.header(line) {
			p.refuse("line %d: %q is no line of a header; an empty line ends it", n, line)
			lost += line + "\n"
		}
	}
	d.Text = lost + rest
	if len(d.Text) > maxText {
		p.refuse("the text may have %d bytes; attach what is longer", maxText)
	}
	if len(d.Recipients) == 0 {
		p.refuse("there is nobody whom it is to: fill in To")
	}
	if d.From == "" {
		p.refuse("it is from nobody: fill in From")
	}
	return d, p.wrong
}

type draftParser struct {
	draft     *cache.Draft
	home      string
	forwarded []cache.File // that may be named
	wrong     []string
}

func (p *draftParser) refuse(format string, args ...any) {
	p.wrong = append(p.wrong, fmt.Sprintf(format, args...))
}

// header takes a line of the header, unless it is none.
func (p *draftParser) header(line string) bool {
	name, value, ok := strings.Cut(line, ":")
	value = strings.TrimSpace(value)
	if !ok {
		return false
	}
	d := p.draft
	switch name = strings.ToLower(strings.TrimSpace(name)); {
	case value == "":
		return isHeader(name)
	case name == strings.ToLower(headFrom):
		d.From = p.address(headFrom, value)
	case name == strings.ToLower(headTo):
		d.Recipients = append(d.Recipients, p.addresses(headTo, value)...)
	case name == strings.ToLower(headSubject):
		d.Subject = value
		if letter.Line(value) != value {
			p.refuse("%s: it holds a character that cannot be seen", headSubject)
		}
	case name == strings.ToLower(headReplyTo):
		d.ReplyTo = p.address(headReplyTo, value)
	case name == strings.ToLower(headCopies):
		d.CC = append(d.CC, p.addresses(headCopies, value)...)
	case name == strings.ToLower(headAttach):
		p.attach(value)
	case name == strings.ToLower(headForward):
		p.forward(value)
	default:
		return false
	}
	return true
}

func isHeader(name string) bool {
	for _, h := range []string{headFrom, headTo, headSubject, headReplyTo, headCopies, headAttach, headForward} {
		if strings.EqualFold(h, name) {
			return true
		}
	}
	return false
}

func (p *draftParser) address(name, value string) string {
	if _, err := address.Parse(value); err != nil {
		p.refuse("%s: %v", name, err)
	}
	return value
}

func (p *draftParser) addresses(name, value string) (all []string) {
	for _, a := range strings.FieldsFunc(value, func(r rune) bool { return r == ',' || r == ' ' || r == '\t' }) {
		all = append(all, p.address(name, a))
	}
	return all
}

// attach attaches a file. One that cannot be stays named.
func (p *draftParser) attach(path string) {
	if rest, ok := strings.CutPrefix(path, "~/"); ok {
		path = filepath.Join(p.home, rest)
	}
	files, err := attach([]string{path})
	if err != nil {
		p.refuse("%s: %v", headAttach, err)
		files = []cache.File{{Path: path, Name: filepath.Base(path)}}
	}
	p.draft.Files = append(p.draft.Files, files...)
}

// forward attaches one of the attachments of the message that is forwarded, each once.
func (p *draftParser) forward(name string) {
	for i, f := range p.forwarded {
		if letter.Line(f.Name) == name {
			p.draft.Files = append(p.draft.Files, f)
			p.forwarded = append(p.forwarded[:i:i], p.forwarded[i+1:]...)
			return
		}
	}
	p.refuse("%s: the message has no such attachment, or has it here twice: %q", headForward, name)
}
