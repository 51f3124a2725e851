package cache

import (
	"context"
	"fmt"
	"time"

	"github.com/ncruces/go-sqlite3"
)

// A Draft is a letter that was not sent yet.
type Draft struct {
	ID         int64     `json:"-"` // 0 for one that was not saved yet
	Changed    time.Time `json:"-"`
	From       string    `json:"from"`
	Recipients []string  `json:"recipients"`
	CC         []string  `json:"cc"` // that the recipients are shown
	ReplyTo    string    `json:"reply_to"`
	Subject    string    `json:"subject"`
	Text       string    `json:"text"`
	Files      []File    `json:"files"`
	Direct     bool      `json:"direct,omitempty"`  // to be sent to the recipients' servers, not by the user's own
	NoCopy     bool      `json:"no_copy,omitempty"` // the sender keeps no copy of it
	// InReplyTo is the SHA-256 of the message here that it answers; zero for none.
	InReplyTo Digest `json:"in_reply_to"`
	Forwards  Digest `json:"forwards"` // likewise
}

// A File is an attachment of a draft. Its bytes stay where they are; who seals it finds by size
// and time whether it was changed since.
type File struct {
	Path     string    `json:"path"`
	Name     string    `json:"name"` // that the recipients are shown
	Size     int64     `json:"size"`
	Modified time.Time `json:"modified"`
}

// SaveDraft keeps d, and sets its ID and Changed. A draft that was removed or queued meanwhile is an
// ErrNotFound.
func (c *Cache) SaveDraft(ctx context.Context, d *Draft) error {
	b, err := packJSON(d)
	if err != nil {
		return fmt.Errorf("saving a draft: %w", err)
	}
	now := c.now()
	return c.write(ctx, "saving a draft", func(db *db) error {
		if d.ID == 0 {
			if err := db.exec(`INSERT INTO draft (changed, body) VALUES (?1, ?2)`, now.UnixNano(), b); err != nil {
				return err
			}
			d.ID = db.conn.LastInsertRowID()
		} else if err := db.exec(`UPDATE draft SET changed = ?2, body = ?3 WHERE id = ?1`, d.ID, now.UnixNano(), b); err != nil {
			return err
		} else if db.conn.Changes() == 0 {
			return ErrNotFound
		}
		d.Changed = now
		return nil
	})
}

// Drafts returns all drafts, the one that was changed last first.
func (c *Cache) Drafts(ctx context.Context) (all []Draft, err error) {
	err = c.read(ctx, "listing drafts", func(d *db) error {
		return d.each(`SELECT id, changed, body FROM draft ORDER BY changed DESC, id DESC`, nil, func(s *sqlite3.Stmt) error {
			one, err := scanDraft(s)
			all = append(all, one)
			return err
		})
	})
	return all, err
}

// Draft returns one. The error wraps ErrNotFound.
func (c *Cache) Draft(ctx context.Context, id int64) (*Draft, error) {
	var one Draft
	err := c.read(ctx, "reading a draft", func(d *db) (err error) {
		one, err = d.draft(id)
		return err
	})
	return &one, err
}

func (d *db) draft(id int64) (one Draft, err error) {
	found, err := d.one(`SELECT id, changed, body FROM draft WHERE id = ?1`, []any{id}, func(s *sqlite3.Stmt) (err error) {
		one, err = scanDraft(s)
		return err
	})
	if err == nil && !found {
		err = ErrNotFound
	}
	return one, err
}

func scanDraft(s *sqlite3.Stmt) (one Draft, err error) {
	err = unpackJSON(s.ColumnRawBlob(2), &one)
	one.ID, one.Changed = s.ColumnInt64(0), time.Unix(0, s.ColumnInt64(1)).UTC()
	return one, err
}

// RemoveDraft removes one. The error wraps ErrNotFound.
func (c *Cache) RemoveDraft(ctx context.Context, id int64) error {
	return c.write(ctx, "removing a draft", func(d *db) error {
		if err := d.exec(`DELETE FROM draft WHERE id = ?1`, id); err != nil {
			return err
		}
		if d.conn.Changes() == 0 {
			return ErrNotFound
		}
		return nil
	})
}
