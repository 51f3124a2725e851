package cache

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"unicode"

	"golang.org/x/text/unicode/norm"

	"cmtpd/internal/nearest"
)

// QueryHelp describes the language of Search to a user.
const QueryHelp = `A search finds messages that have all of the given terms:

    word            anywhere: in the subject, the text, addresses, names of attachments
    "two words"     next to each other, in this order
    wor*            words that begin so
    from:term       in the sender's address or name
    to:term         in the addresses that it went to
    subject:term    in the subject
    text:term       in the text
    name:term       in the names of attachments
    tag:word        with this keyword
    has:attachment  with attachments
    is:seen, is:unseen, is:answered, is:flagged
    is:sent         a copy of what you have sent; is:received is the others
    -term           without it

A term may be in quotation marks, and must be where it holds a word and a colon that are none
of the above: "foo:bar". Capitals, accents and punctuation make no difference. Of a
text the first MiB is looked at, of a subject and the others the first 64 KiB.`

// Limits of a query.
const (
	maxQuery = 1024 // bytes
	maxTerms = 32
)

// A term of a query.
type term struct {
	not    bool
	field  string // before the colon; "" for none
	text   string
	quoted bool
	prefix bool
	// unknown is what stands in the place of a field, and is none.
	unknown string
}

// fields are those that look into columns of the index.
var fields = map[string]string{
	"": "", "subject": "subject", "text": "text", "name": "names", "from": "sender", "to": "receiver",
}

// fieldNames are what may stand before a colon.
var fieldNames = []string{"from", "to", "subject", "text", "name", "tag", "has", "is"}

// isUnknown reports whether somebody who writes word:value means a field: not with the place of a web page, or
// a time.
func isUnknown(word, value string) bool {
	return word != "" && strings.IndexFunc(word, func(r rune) bool { return !unicode.IsLetter(r) }) < 0 &&
		value != "" && value[0] != ' ' && !strings.HasPrefix(value, "//")
}

func unknownField(word string) error {
	meant := nearest.Word(word, fieldNames)
	if meant != "" {
		meant = " Did you mean " + meant + ":?"
	}
	return fmt.Errorf("%w: %s: is no field; there are %s:.%s To look for the words themselves, put quotation marks around them", ErrQuery, word,
		strings.Join(fieldNames, ":, "), meant)
}

// states are what may stand behind is:.
var states = map[string]string{
	"seen": "e.shown & 1", "unseen": "NOT e.shown & 1", "unread": "NOT e.shown & 1", "read": "e.shown & 1",
	"answered": "e.shown & 2", "flagged": "e.shown & 4", "sent": "c.sent", "received": "NOT c.sent",
}

// Search returns messages that match a query, the newest first: see QueryHelp. Filter narrows it. The
// error wraps ErrQuery.
func (c *Cache) Search(ctx context.Context, query string, f Filter) ([]Message, error) {
	terms, err := parseQuery(query)
	if err != nil {
		return nil, err
	}
	q := selection{args: f.args()}
	for _, t := range terms {
		if err := q.add(&t); err != nil {
			return nil, err
		}
	}
	return c.messages(ctx, "searching", q.sql(), q.args)
}

// A selection is a query on its way to SQL.
type selection struct {
	where   []string
	match   []string // what the index has to find
	without []string // and not to
	args    []any
}

// arg returns the place of another argument.
func (q *selection) arg(v any) string {
	q.args = append(q.args, v)
	return fmt.Sprintf("?%d", len(q.args))
}

func (q *selection) add(t *term) error {
	condition, tag, err := t.condition()
	if err != nil {
		return err
	}
	if tag != "" {
		condition = "instr(e.labels, " + q.arg(joinWords([]string{tag})) + ") > 0"
	}
	switch {
	case condition != "" && t.not:
		q.where = append(q.where, "NOT ("+condition+")")
	case condition != "":
		q.where = append(q.where, condition)
	case t.not:
		q.without = append(q.without, t.match())
	default:
		q.match = append(q.match, t.match())
	}
	return nil
}

// sql returns the query. Where the index is asked it comes first: it can be read backwards, so that the newest are found
// without looking at all.
func (q *selection) sql() string {
	from, order := "entry e INDEXED BY entry_content CROSS JOIN content c ON c.id = e.content", "e.content"
	where := append([]string{"NOT e.gone", "e.content < ?1", "e.shown & ?2 = ?3", "(?4 = '' OR instr(e.labels, ?4) > 0)", way}, q.where...)
	if len(q.match) > 0 {
		from, order = "texts t CROSS JOIN content c ON c.id = t.rowid CROSS JOIN entry e ON e.content = c.id", "t.rowid"
		match := "(" + strings.Join(q.match, " AND ") + ")"
		for _, t := range q.without {
			match += " NOT " + t
		}
		where = append(where, "texts MATCH "+q.arg(match), "t.rowid < ?1")
	} else if len(q.without) > 0 {
		where = append(where, "e.content NOT IN (SELECT rowid FROM texts WHERE texts MATCH "+q.arg(strings.Join(q.without, " OR "))+")")
	}
	return `SELECT ` + columns + ` FROM ` + from + ` WHERE ` + strings.Join(where, " AND ") + ` ORDER BY ` + order + ` DESC LIMIT ?5`
}

// condition returns what a term asks of the entry, in SQL, or a tag; neither for what the index is
// asked for.
func (t *term) condition() (sql, tag string, err error) {
	value := strings.ToLower(t.text)
	switch t.field {
	case "tag":
		return "", t.text, checkQueried(t.text)
	case "has":
		if value != "attachment" && value != "attachments" {
			return "", "", fmt.Errorf("%w: has:%s; there is has:attachment", ErrQuery, t.text)
		}
		return "e.attached", "", nil
	case "is":
		if states[value] == "" {
			return "", "", fmt.Errorf("%w: is:%s; there are is:seen, is:unseen, is:answered, is:flagged, is:sent and is:received", ErrQuery, t.text)
		}
		return states[value], "", nil
	}
	return "", "", nil
}

func checkQueried(word string) error {
	if checkWord(word) != nil {
		return fmt.Errorf("%w: %q is no keyword", ErrQuery, word)
	}
	return nil
}

// match returns the term in the language of the index, in which nothing that the user wrote stands
// but as a string.
func (t *term) match() string {
	s := `"` + strings.ReplaceAll(fold(t.text), `"`, `""`) + `"`
	if t.prefix {
		s += "*"
	}
	if column := fields[t.field]; column != "" {
		s = "{" + column + "} : " + s
	}
	return "(" + s + ")"
}

// parseQuery reads a query. What has neither letter nor digit is passed over, as the index knows no such words.
func parseQuery(q string) (terms []term, err error) {
	if len(q) > maxQuery {
		return nil, fmt.Errorf("%w: it has %d bytes, at most %d are allowed", ErrQuery, len(q), maxQuery)
	}
	q = strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) || r == 0 || r == unicode.ReplacementChar {
			return ' '
		}
		return r
	}, q)
	for q = strings.TrimSpace(q); q != ""; q = strings.TrimSpace(q) {
		var t term
		if t, q = cutTerm(q); t.unknown != "" {
			return nil, unknownField(t.unknown)
		}
		switch {
		case strings.IndexFunc(fold(t.text), isWord) < 0 && t.field != "tag":
			continue
		case len(terms) == maxTerms:
			return nil, fmt.Errorf("%w: it has more than %d terms", ErrQuery, maxTerms)
		}
		terms = append(terms, t)
	}
	if len(terms) == 0 {
		return nil, fmt.Errorf("%w: it has no word", ErrQuery)
	}
	return terms, nil
}

// fold returns what the index is given of texts, and asked for: without the accents of Latin, Greek and Cyrillic
// letters, of which the index itself knows Latin ones alone. Marks that make another letter, as in Indic scripts,
// stay.
func fold(texts ...string) string {
	s := strings.Join(texts, "\n")
	if strings.IndexFunc(s, func(r rune) bool { return r >= 0x80 }) < 0 {
		return s
	}
	bare := strings.Map(func(r rune) rune {
		if r >= 0x300 && r <= 0x36f {
			return -1
		}
		return r
	}, norm.NFD.String(s))
	return norm.NFC.String(bare)
}

// isWord reports whether the index takes r for a part of a word.
func isWord(r rune) bool { return unicode.In(r, unicode.L, unicode.N, unicode.Co) }

// cutTerm returns the term that q begins with, and the rest.
func cutTerm(q string) (t term, rest string) {
	if t.not = strings.HasPrefix(q, "-"); t.not {
		q = q[1:]
	}
	if field, value, ok := strings.Cut(q, ":"); ok {
		field = strings.ToLower(field)
		switch {
		case slices.Contains(fieldNames, field):
			t.field, q = field, value
		case isUnknown(field, value):
			t.unknown = field
		}
	}
	if strings.HasPrefix(q, `"`) {
		t.quoted = true
		t.text, rest, _ = strings.Cut(q[1:], `"`)
	} else {
		t.text, rest, _ = strings.Cut(q, " ")
	}
	if t.quoted && strings.HasPrefix(rest, "*") {
		t.prefix, rest = true, rest[1:]
	} else if !t.quoted && strings.HasSuffix(t.text, "*") {
		t.prefix, t.text = true, strings.TrimRight(t.text, "*")
	}
	return t, rest
}
