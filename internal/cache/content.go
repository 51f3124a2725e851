package cache

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/ncruces/go-sqlite3"
)

// A catch is what came of fetching a message.
type catch struct {
	id     int64
	sha    Digest // for an id may be another message's by then
	state  State
	reason string
	opened *Opened
	header addresses
	sealed []byte // to be kept; nil where it is not
	broken bool   // the session broke off within it; nothing is known
}

// addresses are those of a message's header, for the index.
type addresses struct{ from, to string }

// maxTries is how often a session may break off within a message until it is left alone.
const maxTries = 5

// keep puts what was fetched into the database, the oldest first: the index of words is written out
// whenever an id follows a higher one.
func (c *Cache) keep(ctx context.Context, all []catch) error {
	slices.SortFunc(all, func(a, b catch) int { return cmp.Compare(a.id, b.id) })
	return c.write(ctx, "keeping fetched messages", func(d *db) error {
		for i := range all {
			if err := d.keep(&all[i]); err != nil {
				return err
			}
		}
		return nil
	})
}

func (d *db) keep(m *catch) error {
	known, err := d.integer(`SELECT count(*) FROM content WHERE id = ?1 AND sha = ?2`, m.id, m.sha[:])
	if err != nil || known == 0 {
		return err // deleted meanwhile
	}
	if m.broken {
		return d.exec(`UPDATE content SET tries = tries + 1, state = iif(tries + 1 < ?2, 0, ?3), reason = iif(tries + 1 < ?2, '', ?4) WHERE id = ?1`,
			m.id, maxTries, uint8(Unreadable), m.reason)
	}
	var head []byte
	text, sent := "", false
	if m.opened != nil {
		if head, err = packJSON(m.opened); err != nil {
			return err
		}
		text, sent = m.opened.Text, len(m.opened.SentTo) > 0
	}
	if err := d.exec(`UPDATE content SET state = ?2, reason = ?3, head = ?4, sent = ?5 WHERE id = ?1`, m.id, uint8(m.state), m.reason, head, sent); err != nil {
		return err
	}
	var sealed any
	if m.sealed != nil {
		sealed = m.sealed
	}
	if err := d.exec(`INSERT OR REPLACE INTO body (id, text, sealed) VALUES (?1, ?2, ?3)`, m.id, pack([]byte(text)), sealed); err != nil {
		return err
	}
	if err := d.index(m); err != nil || !sent {
		return err
	}
	return d.show(m.id)
}

// Limits of what is found of a message, in bytes of its text, and of each other part. All words of a message are in
// memory at once while they are put into the index, three times, and SQLite ends the program when its memory is used
// up.
const (
	maxIndexed = 1 << 20
	maxNames   = 64 << 10
)

// index makes the words of a message found.
func (d *db) index(m *catch) error {
	if err := d.exec(`DELETE FROM texts WHERE rowid = ?1`, m.id); err != nil || m.opened == nil {
		return err
	}
	o := m.opened
	var names []string
	for _, a := range o.Attachments {
		names = append(names, a.Name)
	}
	return d.exec(`INSERT INTO texts (rowid, subject, text, names, sender, receiver) VALUES (?1, ?2, ?3, ?4, ?5, ?6)`, m.id,
		fold(start(o.Subject, maxNames)), fold(start(o.Text, maxIndexed)), fold(start(strings.Join(names, "\n"), maxNames)),
		fold(m.header.from, start(o.Writer, maxNames), start(o.ReplyTo, maxNames)),
		fold(m.header.to, start(strings.Join(append(o.SentTo[:len(o.SentTo):len(o.SentTo)], o.CC...), "\n"), maxNames)))
}

// start returns at most n bytes of s, and no half character.
func start(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// A want is a message that is to be fetched.
type want struct {
	id     int64
	number uint64
	size   int64
	sha    Digest
	header []byte
	entry  Message // for who opens it
}

// wants returns messages that were not fetched yet, the newest first: at most limit, and of at
// most so many bytes in all but the first.
func (c *Cache) wants(ctx context.Context, limit int) (all []want, err error) {
	err = c.read(ctx, "looking for what to fetch", func(d *db) error {
		return d.each(`SELECT `+columns+` FROM content c INDEXED BY content_wanted JOIN entry e ON e.content = c.id
			WHERE c.state = 0 AND NOT e.gone AND e.number = (SELECT max(number) FROM entry WHERE content = c.id) ORDER BY c.id DESC LIMIT ?1`, []any{limit}, func(s *sqlite3.Stmt) error {
			w, err := scanWant(s)
			all = append(all, w)
			return err
		})
	})
	return all, err
}

// wanted returns how many messages were not fetched yet.
func (c *Cache) wanted(ctx context.Context) (n int64, err error) {
	err = c.read(ctx, "counting what to fetch", func(d *db) error {
		n, err = d.integer(`SELECT count(*) FROM content WHERE state = 0`)
		return err
	})
	return n, err
}

func scanWant(s *sqlite3.Stmt) (want, error) {
	m, err := scanMessage(s)
	return want{id: m.ID, number: m.Number, size: m.Size, sha: m.SHA256, header: s.ColumnBlob(7, nil), entry: m}, err
}

// Refetch makes the next sync fetch a message again that did not open, or could not be read.
// The error wraps ErrNotFound.
func (c *Cache) Refetch(ctx context.Context, id int64) error {
	return c.write(ctx, "marking a message to be fetched", func(d *db) error {
		if err := d.exec(`UPDATE content SET state = 0, reason = '', tries = 0 WHERE id = ?1 AND state IN (?2, ?3)`, id, uint8(Unopenable), uint8(Unreadable)); err != nil {
			return err
		}
		n, err := d.integer(`SELECT count(*) FROM content WHERE id = ?1`, id)
		if err == nil && n == 0 {
			err = ErrNotFound
		}
		return err
	})
}

// RefetchAll is Refetch for all such messages: to be called when the keyring has another key, or
// somebody asks for it.
func (c *Cache) RefetchAll(ctx context.Context) error {
	return c.write(ctx, "marking messages to be fetched", func(d *db) error {
		return d.exec(`UPDATE content SET state = 0, reason = '', tries = 0 WHERE state IN (?1, ?2)`, uint8(Unopenable), uint8(Unreadable))
	})
}

// Sealed returns a message's bytes as they came, where they are kept. The error wraps
// ErrNotKept or ErrNotFound.
func (c *Cache) Sealed(ctx context.Context, id int64) (b []byte, err error) {
	err = c.read(ctx, "reading a message", func(d *db) error {
		found, err := d.one(`SELECT b.sealed, c.sha FROM content c LEFT JOIN body b ON b.id = c.id WHERE c.id = ?1`, []any{id}, func(s *sqlite3.Stmt) error {
			if s.ColumnType(0) == sqlite3.NULL {
				return ErrNotKept
			}
			b = s.ColumnBlob(0, nil)
			if sum := digest(b); string(sum[:]) != string(s.ColumnRawBlob(1)) {
				return fmt.Errorf("%w: a message was altered", ErrDamaged)
			}
			return nil
		})
		if err == nil && !found {
			err = ErrNotFound
		}
		return err
	})
	return b, err
}

// WriteMessage writes all of a message as it came, from here or else from the server, which may be nil: then the error
// wraps ErrNotKept. What was written is worth nothing before it has returned nil, for only
// then is the SHA-256 right.
func (c *Cache) WriteMessage(ctx context.Context, srv Server, id int64, w io.Writer) error {
	b, err := c.Sealed(ctx, id)
	if err == nil {
		_, err = w.Write(b)
		return err
	}
	if srv == nil || !isNotKept(err) {
		return err
	}
	m, err := c.Message(ctx, id)
	if err != nil {
		return err
	}
	if err := c.download(ctx, srv, m, w); err != nil {
		return fmt.Errorf("fetching message %d: %w", m.Number, err)
	}
	return nil
}
