package cache

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"

	"github.com/ncruces/go-sqlite3"

	"cmtpd/internal/cmtp"
)

// An intent is what the user changed and the server has not heard of (section 29.1).
type intent struct {
	content int64
	number  uint64 // in this epoch
	change  uint64 // of the entry that is here
	version int64
	mask    uint32
	flags   uint32
	plus    []string // keywords that were added
	minus   []string // and removed
	force   bool     // to replace keywords that do not open
	gone    bool     // the message is to be deleted
	words   []string // the server's
	sealed  bool     // the server's keywords do not open
	sha     Digest   // the message's, to seal its keywords
}

const intentColumns = `i.content, i.version, i.mask, i.flags, i.plus, i.minus, i.gone, i.force`

func scanIntent(s *sqlite3.Stmt) intent {
	return intent{
		content: s.ColumnInt64(0), version: s.ColumnInt64(1), mask: uint32(s.ColumnInt64(2)), flags: uint32(s.ColumnInt64(3)),
		plus: splitWords(s.ColumnText(4)), minus: splitWords(s.ColumnText(5)), gone: s.ColumnBool(6), force: s.ColumnBool(7),
	}
}

// A Note is a change of what is noted of a message.
type Note struct {
	Mask   uint32 // the flags that are set or cleared, of bits 0 to 15
	Flags  uint32 // their values
	Add    []string
	Remove []string
	// Force replaces keywords that do not open, which are lost by it.
	Force bool
}

// Change notes n of the messages ids, at once here, and with the next sync on the server. All of
// them are changed or none. The error wraps ErrNotFound or ErrWords.
func (c *Cache) Change(ctx context.Context, ids []int64, n Note) error {
	if n.Mask&^cmtp.UserFlags != 0 || n.Flags&^n.Mask != 0 {
		return fmt.Errorf("changing flags: mask %#x and values %#x are none of a client's", n.Mask, n.Flags)
	}
	for _, w := range slices.Concat(n.Add, n.Remove) {
		if err := checkWord(w); err != nil {
			return err
		}
	}
	return c.write(ctx, "changing what is noted of a message", func(d *db) error {
		for _, id := range ids {
			if err := d.change(id, &n); err != nil {
				return fmt.Errorf("message %d: %w", id, err)
			}
		}
		return nil
	})
}

func (d *db) change(id int64, n *Note) error {
	i, err := d.intended(id)
	if err != nil {
		return err
	}
	if len(n.Add)+len(n.Remove) > 0 && i.sealed && !n.Force {
		return fmt.Errorf("%w: another client has sealed them with a key that is not here", ErrWords)
	}
	i.force = i.force || n.Force && i.sealed
	i.mask |= n.Mask
	i.flags = i.flags&^n.Mask | n.Flags
	i.plus = union(without(i.plus, n.Remove), n.Add)
	i.minus = union(without(i.minus, n.Add), n.Remove)
	return d.intend(i)
}

// Delete removes the messages ids, at once here, and with the next sync on the server. The
// error wraps ErrNotFound.
func (c *Cache) Delete(ctx context.Context, ids []int64) error {
	return c.write(ctx, "deleting messages", func(d *db) error {
		for _, id := range ids {
			i, err := d.intended(id)
			if err != nil {
				return fmt.Errorf("message %d: %w", id, err)
			}
			i.gone = true
			if err := d.intend(i); err != nil {
				return err
			}
		}
		return nil
	})
}

// intended returns what is intended with a message so far.
func (d *db) intended(id int64) (*intent, error) {
	i := intent{content: id}
	found, err := d.one(`SELECT words IS NULL FROM entry WHERE content = ?1 AND NOT gone`, []any{id}, func(s *sqlite3.Stmt) error {
		i.sealed = s.ColumnBool(0)
		return nil
	})
	if err == nil && !found {
		err = ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	sealed := i.sealed
	_, err = d.one(`SELECT `+intentColumns+` FROM intent i WHERE content = ?1`, []any{id}, func(s *sqlite3.Stmt) error {
		i = scanIntent(s)
		i.sealed = sealed
		return nil
	})
	return &i, err
}

// intend keeps i, and shows it.
func (d *db) intend(i *intent) error {
	err := d.exec(`INSERT OR REPLACE INTO intent (content, version, mask, flags, plus, minus, gone, force)
		VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)`,
		i.content, rand.Int64(), i.mask, i.flags, joinWords(i.plus), joinWords(i.minus), i.gone, i.force)
	if err != nil {
		return err
	}
	return d.show(i.content)
}

// show makes what the user sees of a message: what the server says, with the intent upon it. A content's sent is 1
// for a copy of what was sent, which is the flag of what was seen.
func (d *db) show(id int64) error {
	var i intent
	found, err := d.one(`SELECT `+intentColumns+` FROM intent i WHERE content = ?1`, []any{id}, func(s *sqlite3.Stmt) error {
		i = scanIntent(s)
		return nil
	})
	if err != nil {
		return err
	}
	if !found || len(i.plus)+len(i.minus) == 0 {
		return d.exec(`UPDATE entry SET shown = flags & ~?2 | ?3 | (SELECT sent FROM content WHERE id = ?1), labels = coalesce(words, ''), gone = ?4 WHERE content = ?1`, id, i.mask, i.flags, i.gone)
	}
	type row struct {
		number int64
		words  []string
	}
	var rows []row
	err = d.each(`SELECT number, words FROM entry WHERE content = ?1`, []any{id}, func(s *sqlite3.Stmt) error {
		rows = append(rows, row{s.ColumnInt64(0), splitWords(s.ColumnText(1))})
		return nil
	})
	for _, r := range rows {
		if err == nil {
			err = d.exec(`UPDATE entry SET shown = flags & ~?2 | ?3 | (SELECT sent FROM content WHERE id = entry.content), labels = ?4, gone = ?5 WHERE number = ?1`,
				r.number, i.mask, i.flags, joinWords(i.upon(r.words)), i.gone)
		}
	}
	return err
}

// upon returns the keywords that the intent makes of words.
func (i *intent) upon(words []string) []string { return union(without(words, i.minus), i.plus) }

func without(words, less []string) (rest []string) {
	for _, w := range words {
		if !slices.Contains(less, w) {
			rest = append(rest, w)
		}
	}
	return rest
}

func union(words, more []string) []string {
	for _, w := range more {
		if !slices.Contains(words, w) {
			words = append(words[:len(words):len(words)], w)
		}
	}
	return words
}

// intents returns at most limit intents behind the message after whose numbers are known.
func (c *Cache) intents(ctx context.Context, after int64, limit int) (all []intent, err error) {
	err = c.read(ctx, "reading what was changed here", func(d *db) error {
		return d.each(`SELECT `+intentColumns+`, e.number, e.change, e.words IS NULL, e.words, c.sha
			FROM intent i JOIN entry e ON e.content = i.content JOIN content c ON c.id = i.content
			WHERE i.content > ?1 AND e.number = (SELECT max(number) FROM entry WHERE content = i.content) ORDER BY i.content LIMIT ?2`, []any{after, limit}, func(s *sqlite3.Stmt) error {
			i := scanIntent(s)
			i.number, i.change = uint64(s.ColumnInt64(8)), uint64(s.ColumnInt64(9))
			i.sealed, i.words = s.ColumnBool(10), splitWords(s.ColumnText(11))
			copy(i.sha[:], s.ColumnRawBlob(12))
			all = append(all, i)
			return nil
		})
	})
	return all, err
}

// An outcome is what the server did with a part of an intent.
type outcome struct {
	intent
	flagsDone bool // or given up
	wordsDone bool
	keywords  []byte // that the server has now, with wordsDone
	labels    []string
	now       uint64 // the message's change number then
	over      bool   // the message is not there any more
}

// settle takes back what the server has done, unless the user has changed it again meanwhile, and
// shows it as the server's until that says so itself.
func (c *Cache) settle(ctx context.Context, done []outcome) error {
	return c.write(ctx, "keeping what the server has heard", func(d *db) error {
		for i := range done {
			if err := d.settle(&done[i]); err != nil {
				return err
			}
		}
		return nil
	})
}

func (d *db) settle(o *outcome) error {
	if o.over {
		return d.settleOver(o)
	}
	if o.flagsDone { // unless what the copy has of it is newer
		if err := d.exec(`UPDATE entry SET flags = flags & ~?3 | ?4 WHERE number = ?1 AND content = ?2 AND change < ?5`,
			o.number, o.content, o.mask, o.flags, o.now); err != nil {
			return err
		}
	}
	if o.keywords != nil {
		if err := d.exec(`UPDATE entry SET keywords = ?3, words = ?4 WHERE number = ?1 AND content = ?2 AND change < ?5`,
			o.number, o.content, o.keywords, joinWords(o.labels), o.now); err != nil {
			return err
		}
	}
	rest := o.intent
	if o.flagsDone {
		rest.mask, rest.flags = 0, 0
	}
	if o.wordsDone {
		rest.plus, rest.minus = nil, nil
	}
	var err error
	if !rest.gone && rest.mask == 0 && len(rest.plus)+len(rest.minus) == 0 {
		err = d.exec(`DELETE FROM intent WHERE content = ?1 AND version = ?2`, o.content, o.version)
	} else {
		err = d.exec(`UPDATE intent SET mask = ?3, flags = ?4, plus = ?5, minus = ?6 WHERE content = ?1 AND version = ?2`,
			o.content, o.version, rest.mask, rest.flags, joinWords(rest.plus), joinWords(rest.minus))
	}
	if err != nil {
		return err
	}
	return d.show(o.content)
}

// settleOver forgets a message that the server does not have any more.
func (d *db) settleOver(o *outcome) error {
	if err := d.exec(`DELETE FROM entry WHERE number = ?1 AND content = ?2`, o.number, o.content); err != nil {
		return err
	}
	return d.dropContent(o.content)
}
