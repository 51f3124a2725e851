package cache

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/ncruces/go-sqlite3"

	"cmtpd/internal/cmtp"
)

// A State says what this machine has of a message.
type State uint8

// The states of a message.
const (
	Wanted     State = iota // it was not fetched yet
	Kept                    // it was opened, and its bytes are kept
	Partial                 // its text was opened, or all of it; attachments are with the server
	Unopenable              // no key opens it: see Reason
	Unreadable              // the server cannot read it, or gave other bytes: see Reason
)

// A Message is what is known of a message. What a stranger chose is as it came: package
// letter makes it fit to show.
type Message struct {
	ID       int64 // of this copy alone, as long as the message is in it; later ones have higher IDs
	Number   uint64
	Change   uint64
	Came     time.Time
	Size     int64
	SHA256   Digest
	Standing cmtp.Standing
	Header   cmtp.Header

	Flags uint32   // with what the user changed and the server has not heard yet
	Words []string // keywords, likewise
	// Sealed says that there are keywords that do not open.
	SealedWords bool

	State  State
	Reason string
	Opened *Opened // nil unless Kept or Partial; without Text from List and Search
}

// Opened is what was inside of a message.
type Opened struct {
	Written     time.Time    `json:"written"` // as its writer says
	Subject     string       `json:"subject"`
	ReplyTo     string       `json:"reply_to"`
	CC          []string     `json:"cc"`
	Attachments []Attachment `json:"attachments"`
	// Missing is how many attachments are with the server and were not looked at.
	Missing int `json:"missing"`
	// Writer and Proof are the caller's: who wrote it, and what vouches for that.
	Writer string `json:"writer"`
	Proof  string `json:"proof"`
	// SentTo says to whom the user has sent the letter of which this is the copy; none of any other message.
	SentTo []string `json:"sent_to,omitempty"`
	// Core is the core digest (section 6.4), where all of it was read.
	Core Digest `json:"core"`
	Text string `json:"-"`
}

// An Attachment is what is known of one without its bytes.
type Attachment struct {
	Name string `json:"name"`
	Type string `json:"type"` // the caller's guess
	Size int64  `json:"size"`
}

// A Filter chooses messages. The zero Filter is all of them, the newest 50 first.
type Filter struct {
	Before int64 // an ID: only older ones
	Limit  int   // default 50
	// Mask and Flags choose those whose flags under Mask are Flags.
	Mask, Flags uint32
	Word        string // that the message has among its keywords
	Way         Way
}

// A Way is which way messages went.
type Way uint8

// The ways.
const (
	EitherWay Way = iota
	Came          // all but copies of what the user sent
	Went          // those copies
)

// way is a condition, in which ?6 is Filter.Way.
const way = `(?6 = 0 OR c.sent = ?6 - 1)`

// defaultLimit is how many messages a list has.
const defaultLimit = 50

// columns are those that scanMessage reads, of entry e and content c.
const columns = `c.id, e.number, e.change, e.came, c.size, c.sha, e.standing, c.header, e.shown, e.labels, e.words IS NULL, c.state, c.reason, c.head`

// List returns messages, the newest first.
func (c *Cache) List(ctx context.Context, f Filter) ([]Message, error) {
	sql := `SELECT ` + columns + ` FROM entry e INDEXED BY entry_content CROSS JOIN content c ON c.id = e.content
		WHERE NOT e.gone AND e.content < ?1 AND e.shown & ?2 = ?3 AND (?4 = '' OR instr(e.labels, ?4) > 0) AND ` + way + `
		ORDER BY e.content DESC LIMIT ?5`
	return c.messages(ctx, "listing messages", sql, f.args())
}

func (f *Filter) args() []any {
	return []any{f.before(), f.Mask, f.Flags & f.Mask, f.label(), f.limit(), uint8(f.Way)}
}

func (f *Filter) before() int64 {
	if f.Before == 0 {
		return 1<<63 - 1
	}
	return f.Before
}

func (f *Filter) limit() int {
	if f.Limit <= 0 {
		return defaultLimit
	}
	return f.Limit
}

func (f *Filter) label() string {
	if f.Word == "" {
		return ""
	}
	return joinWords([]string{f.Word})
}

func (c *Cache) messages(ctx context.Context, what, sql string, args []any) (all []Message, err error) {
	err = c.read(ctx, what, func(d *db) error {
		return d.once(sql, args, func(s *sqlite3.Stmt) error {
			m, err := scanMessage(s)
			all = append(all, m)
			return err
		})
	})
	return all, err
}

// scanMessage reads columns.
func scanMessage(s *sqlite3.Stmt) (m Message, err error) {
	m = Message{
		ID: s.ColumnInt64(0), Number: uint64(s.ColumnInt64(1)), Change: uint64(s.ColumnInt64(2)),
		Came: time.Unix(s.ColumnInt64(3), 0).UTC(), Size: s.ColumnInt64(4), Standing: cmtp.Standing(s.ColumnInt64(6)),
		Flags: uint32(s.ColumnInt64(8)), Words: splitWords(s.ColumnText(9)), SealedWords: s.ColumnBool(10),
		State: State(s.ColumnInt64(11)), Reason: s.ColumnText(12),
	}
	copy(m.SHA256[:], s.ColumnRawBlob(5))
	m.Header = parseHeader(s.ColumnRawBlob(7))
	if head := s.ColumnRawBlob(13); len(head) > 0 {
		m.Opened = new(Opened)
		err = unpackJSON(head, m.Opened)
	}
	return m, err
}

// Message returns a message with its text. The error wraps ErrNotFound.
func (c *Cache) Message(ctx context.Context, id int64) (*Message, error) {
	return c.message(ctx, "c.id = ?1", id)
}

// ByNumber returns a message by its number in the mailbox. The error wraps ErrNotFound.
func (c *Cache) ByNumber(ctx context.Context, number uint64) (*Message, error) {
	return c.message(ctx, "e.number = ?1", number)
}

// ByDigest returns a message by its SHA-256, which stays in all epochs. The error wraps
// ErrNotFound.
func (c *Cache) ByDigest(ctx context.Context, sha Digest) (*Message, error) {
	return c.message(ctx, "c.sha = ?1", sha[:])
}

func (c *Cache) message(ctx context.Context, where string, arg any) (*Message, error) {
	var m Message
	err := c.read(ctx, "reading a message", func(d *db) error {
		found, err := d.one(`SELECT `+columns+`, b.text FROM content c JOIN entry e ON e.content = c.id LEFT JOIN body b ON b.id = c.id
			WHERE NOT e.gone AND `+where+` ORDER BY e.number DESC`, []any{arg}, func(s *sqlite3.Stmt) (err error) {
			if m, err = scanMessage(s); err != nil || m.Opened == nil {
				return err
			}
			text, err := unpack(s.ColumnRawBlob(14))
			m.Opened.Text = string(text)
			return err
		})
		if err == nil && !found {
			err = ErrNotFound
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return &m, nil
}

// Counts are of the messages in the copy, as the user sees them.
type Counts struct {
	Messages int64
	Unseen   int64
	Wanted   int64              // not fetched yet
	Pending  int64              // have changes that the server has not heard of
	Unlisted bool               // whether the mailbox has more than was listed yet
	Box      *cmtp.MailboxState // as the server told last; nil if it never did
	Synced   time.Time          // when the copy was in step with the mailbox last; zero if it never was
}

// Counts returns them.
func (c *Cache) Counts(ctx context.Context) (*Counts, error) {
	var n Counts
	err := c.read(ctx, "counting messages", func(d *db) error {
		_, err := d.one(`SELECT count(*), coalesce(sum(e.shown & 1 = 0), 0), (SELECT count(*) FROM content WHERE state = 0),
			(SELECT count(*) FROM intent) FROM entry e WHERE NOT e.gone`, nil, func(s *sqlite3.Stmt) error {
			n.Messages, n.Unseen, n.Wanted, n.Pending = s.ColumnInt64(0), s.ColumnInt64(1), s.ColumnInt64(2), s.ColumnInt64(3)
			return nil
		})
		if err != nil {
			return err
		}
		at, err := d.position()
		if err != nil {
			return err
		}
		n.Unlisted, n.Box = at.listing() || !at.begun(), at.box
		synced, err := d.integer(`SELECT coalesce(synced, 0) FROM mailbox`)
		if synced != 0 {
			n.Synced = time.Unix(synced, 0).UTC()
		}
		return err
	})
	return &n, err
}

// parseHeader reads a message's header. That of a damaged message is empty.
func parseHeader(b []byte) cmtp.Header {
	h, _, err := cmtp.ParseHeader(b)
	if err != nil {
		return cmtp.Header{}
	}
	return h
}

// The words of a message stand in one column, each between NULs: so instr finds one.

func joinWords(words []string) string {
	if len(words) == 0 {
		return ""
	}
	return "\x00" + strings.Join(words, "\x00") + "\x00"
}

func splitWords(s string) []string {
	if len(s) < 2 {
		return nil
	}
	return strings.Split(s[1:len(s)-1], "\x00")
}

// checkWord refuses what is no keyword. It wraps ErrWords.
func checkWord(w string) error {
	if w == "" || strings.ContainsAny(w, "\x00\n") {
		return fmt.Errorf("%w: %q is none", ErrWords, w)
	}
	return nil
}
