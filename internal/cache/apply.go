package cache

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"

	"github.com/ncruces/go-sqlite3"

	"cmtpd/internal/cmtp"
)

// newest is above every number (section 26.1).
const newest = cmtp.MaxNumber

// minID is below every id.
const minID = math.MinInt64

// A position is how far the copy has come.
type position struct {
	epoch  []byte // empty before the first answer
	change uint64 // everything up to it is here
	below  uint64 // entries below it are not listed yet; 0 when all are
	box    *cmtp.MailboxState
}

func (p *position) begun() bool   { return len(p.epoch) > 0 }
func (p *position) listing() bool { return p.below > 0 }

// is reports whether the position is within the epoch.
func (p *position) is(e cmtp.Epoch) bool { return string(p.epoch) == string(e[:]) }

func (p *position) key() (e cmtp.Epoch) {
	copy(e[:], p.epoch)
	return e
}

// same reports whether q is where p is.
func (p *position) same(q *position) bool {
	return string(p.epoch) == string(q.epoch) && p.change == q.change && p.below == q.below
}

func (d *db) position() (*position, error) {
	var p position
	_, err := d.one(`SELECT epoch, change, below, box FROM mailbox`, nil, func(s *sqlite3.Stmt) error {
		p = position{epoch: s.ColumnBlob(0, nil), change: uint64(s.ColumnInt64(1)), below: uint64(s.ColumnInt64(2))}
		if b := s.ColumnRawBlob(3); len(b) > 0 {
			p.box = new(cmtp.MailboxState)
			return json.Unmarshal(b, p.box)
		}
		return nil
	})
	return &p, err
}

func (d *db) move(p *position) error {
	return d.exec(`UPDATE mailbox SET epoch = ?1, change = ?2, below = ?3`, p.epoch, p.change, p.below)
}

func (c *Cache) position(ctx context.Context) (p *position, err error) {
	err = c.read(ctx, "reading how far the copy is", func(d *db) (err error) {
		p, err = d.position()
		return err
	})
	return p, err
}

// errMoved: another process has applied an answer meanwhile, so this one is worth nothing.
var errMoved = errors.New("the copy was changed by another process meanwhile")

// forget makes the copy one of which nothing is known in the present epoch. Contents and intents
// stay: they are known by their SHA-256.
func (d *db) forget() error {
	if err := d.exec(`DELETE FROM entry`); err != nil {
		return err
	}
	return d.move(&position{})
}

// reset forgets all numbers, unless another process has moved on from the position at.
func (c *Cache) reset(ctx context.Context, at *position) error {
	return c.write(ctx, "forgetting the numbers of another epoch", func(d *db) error {
		now, err := d.position()
		if err != nil || !now.same(at) {
			return err
		}
		return d.forget()
	})
}

// A words function opens a message's keywords; false where they do not open.
type wordsFunc func(message Digest, keywords []byte) ([]string, bool)

// applyList applies an answer to a LIST downwards from at. It wraps errMoved.
func (c *Cache) applyList(ctx context.Context, at *position, page *cmtp.Page, words wordsFunc) error {
	return c.write(ctx, "keeping a part of the list", func(d *db) error {
		now, err := d.position()
		if err != nil {
			return err
		}
		if !now.same(at) {
			return errMoved // what was removed in between must not come back
		}
		to := position{epoch: page.Epoch[:], change: now.change, below: now.below}
		if !now.begun() {
			to.change, to.below = page.Next, newest
		}
		for i := range page.Entries {
			e := &page.Entries[i]
			if e.Removed || e.Number >= to.below {
				return fmt.Errorf("%w: a list that does not descend", errAnswer)
			}
			if err := d.apply(e, words); err != nil {
				return err
			}
			to.below = e.Number
		}
		if !page.More {
			to.below = 0
		} else if len(page.Entries) == 0 {
			return fmt.Errorf("%w: a list that has more and gives none", errAnswer)
		}
		if err := d.move(&to); err != nil {
			return err
		}
		if to.below == 0 {
			return d.dropOrphans()
		}
		return nil
	})
}

// applyChanges applies an answer to CHANGES or WAIT after at. It wraps errMoved.
func (c *Cache) applyChanges(ctx context.Context, at *position, page *cmtp.Page, words wordsFunc) error {
	return c.write(ctx, "keeping changes", func(d *db) error {
		now, err := d.position()
		if err != nil {
			return err
		}
		if !now.same(at) {
			return errMoved
		}
		last := at.change
		for i := range page.Entries {
			e := &page.Entries[i]
			if e.Change <= last || e.Change > page.Next {
				return fmt.Errorf("%w: changes that do not ascend", errAnswer)
			}
			last = e.Change
			if err := d.apply(e, words); err != nil {
				return err
			}
		}
		return d.move(&position{epoch: now.epoch, change: page.Next, below: now.below})
	})
}

// errAnswer: the server gave an answer that cannot be.
var errAnswer = errors.New("the server's answer cannot be right")

// apply makes e what is known of its message, unless that is newer.
func (d *db) apply(e *cmtp.Entry, words wordsFunc) error {
	had, err := d.integer(`SELECT content FROM entry WHERE number = ?1`, e.Number)
	if err != nil {
		return err
	}
	if e.Removed {
		if err := d.exec(`DELETE FROM entry WHERE number = ?1`, e.Number); err != nil || had == 0 {
			return err
		}
		return d.dropContent(had)
	}
	id, err := d.contentOf(e)
	if err != nil {
		return err
	}
	var open any
	if w, ok := words(e.SHA256, e.Keywords); ok {
		open = joinWords(w)
	}
	err = d.exec(`INSERT INTO entry (number, change, came, standing, flags, keywords, words, content, attached, shown, labels, gone)
		VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?5, coalesce(?7, ''), 0)
		ON CONFLICT (number) DO UPDATE SET change = excluded.change, came = excluded.came, standing = excluded.standing,
			flags = excluded.flags, keywords = excluded.keywords, words = excluded.words, content = excluded.content, attached = excluded.attached
		WHERE excluded.change >= change`,
		e.Number, e.Change, int64(e.Arrived), uint8(e.Standing), e.Flags, e.Keywords, open, id, e.Header != nil && e.Header.Attachments > 0)
	if err != nil {
		return err
	}
	if had != 0 && had != id {
		if err := d.dropContent(had); err != nil {
			return err
		}
	}
	return d.show(id)
}

// contentOf returns the id of e's message, which it makes known where it is not.
func (d *db) contentOf(e *cmtp.Entry) (int64, error) {
	id, err := d.integer(`SELECT id FROM content WHERE sha = ?1`, e.SHA256[:])
	if id != 0 && err == nil && e.Header != nil { // it was damaged, and is not any more
		err = d.exec(`UPDATE content SET header = ?2, state = 0, reason = '' WHERE id = ?1 AND header = x''`, id, e.Header.Append(nil))
	}
	if id != 0 || err != nil {
		return id, err
	}
	if id, err = d.newID(e); err != nil {
		return 0, err
	}
	state, reason := Unreadable, "it is damaged on the server"
	var header []byte
	if e.Header != nil {
		state, reason, header = Wanted, "", e.Header.Append(nil)
	}
	err = d.exec(`INSERT INTO content (id, sha, size, header, state, reason) VALUES (?1, ?2, ?3, ?4, ?5, ?6)`,
		id, e.SHA256[:], e.Length, header, uint8(state), reason)
	return id, err
}

// A neighbour is the entry next to another one by number that came in the same second.
type neighbour struct {
	id     int64 // 0 where there is none
	number int64
}

func (d *db) neighbour(sql string, e *cmtp.Entry) (n neighbour, err error) {
	_, err = d.one(sql, []any{e.Number, e.Arrived}, func(s *sqlite3.Stmt) error {
		if s.ColumnBool(2) {
			n = neighbour{s.ColumnInt64(0), s.ColumnInt64(1)}
		}
		return nil
	})
	return n, err
}

// maxStep bounds how far apart ids are, so that those of a second have room in it.
const maxStep = 1 << 10

// newID returns an id that nobody has for e's message. It is as far from its neighbours as the numbers are, so that there
// is room for those in between, whichever of them comes into the copy first.
func (d *db) newID(e *cmtp.Entry) (int64, error) {
	below, err := d.neighbour(`SELECT content, number, came = ?2 FROM entry
		WHERE number < ?1 ORDER BY number DESC LIMIT 1`, e)
	if err != nil {
		return 0, err
	}
	above, err := d.neighbour(`SELECT content, number, came = ?2 FROM entry
		WHERE number > ?1 ORDER BY number LIMIT 1`, e)
	if err != nil {
		return 0, err
	}
	id := int64(e.Arrived)<<20 + 1<<19
	switch {
	case below.id != 0:
		id = below.id + min(int64(e.Number)-below.number, maxStep)
		if above.id > below.id && id >= above.id {
			id = (below.id + above.id) / 2
		}
	case above.id != 0:
		id = above.id - min(above.number-int64(e.Number), maxStep)
	}
	taken, err := d.integer(`SELECT count(*) FROM content WHERE id = ?1`, id)
	if err != nil || taken == 0 {
		return id, err
	}
	return d.integer(`SELECT max(id) + 1 FROM content WHERE id < ?1`, (int64(e.Arrived)+1)<<20) // by what has no entry now
}

// dropContent forgets what is in no mailbox any more.
func (d *db) dropContent(id int64) error {
	n, err := d.integer(`SELECT count(*) FROM entry WHERE content = ?1`, id)
	if err != nil || n > 0 {
		return err
	}
	for _, sql := range []string{
		`DELETE FROM short WHERE sha = (SELECT sha FROM content WHERE id = ?1)`, `DELETE FROM texts WHERE rowid = ?1`, `DELETE FROM body WHERE id = ?1`,
		`DELETE FROM intent WHERE content = ?1`, `DELETE FROM content WHERE id = ?1`,
	} {
		if err := d.exec(sql, id); err != nil {
			return err
		}
	}
	return nil
}

// dropOrphans forgets what the new epoch does not have, once all of it was listed.
func (d *db) dropOrphans() error {
	var gone []int64
	err := d.each(`SELECT id FROM content WHERE NOT EXISTS (SELECT 1 FROM entry WHERE content = content.id)`, nil, func(s *sqlite3.Stmt) error {
		gone = append(gone, s.ColumnInt64(0))
		return nil
	})
	if err != nil {
		return err
	}
	for _, id := range gone {
		if err := d.dropContent(id); err != nil {
			return err
		}
	}
	return nil
}
