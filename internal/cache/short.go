package cache

import (
	"context"
	"slices"

	"github.com/ncruces/go-sqlite3"
)

// Short returns a number for each of the messages ids that a person can type. A message
// keeps it as long as it is in the copy, and no other one ever gets it. It is given when it is asked for
// first, so that it is as short as the list that a person has looked at; of several at once the newer message has the higher one.
// The error wraps ErrNotFound.
func (c *Cache) Short(ctx context.Context, ids []int64) (map[int64]int64, error) {
	short := make(map[int64]int64, len(ids))
	missing := false
	err := c.read(ctx, "numbering messages", func(d *db) error {
		for _, id := range ids {
			n, err := d.short(id)
			if err != nil {
				return err
			}
			short[id], missing = n, missing || n == 0
		}
		return nil
	})
	if err != nil || !missing {
		return short, err
	}
	return short, c.write(ctx, "numbering messages", func(d *db) error {
		for _, id := range slices.Sorted(slices.Values(ids)) {
			n, err := d.number(id)
			if err != nil {
				return err
			}
			short[id] = n
		}
		return nil
	})
}

// number is short, but gives a number where there is none.
func (d *db) number(id int64) (int64, error) {
	if n, err := d.short(id); n != 0 || err != nil {
		return n, err
	}
	if err := d.exec(`INSERT INTO short (sha) SELECT sha FROM content WHERE id = ?1`, id); err != nil {
		return 0, err
	}
	n, err := d.short(id)
	if err == nil && n == 0 {
		err = ErrNotFound
	}
	return n, err
}

// short returns the number of a message, 0 where it has none.
func (d *db) short(id int64) (int64, error) {
	return d.integer(`SELECT s.n FROM content c JOIN short s ON s.sha = c.sha WHERE c.id = ?1`, id)
}

// ByShort returns the message with a number of Short's, with its text. The error wraps ErrNotFound.
func (c *Cache) ByShort(ctx context.Context, n int64) (*Message, error) {
	var sha Digest
	err := c.read(ctx, "reading a message", func(d *db) error {
		found, err := d.one(`SELECT sha FROM short WHERE n = ?1`, []any{n}, func(s *sqlite3.Stmt) error {
			copy(sha[:], s.ColumnRawBlob(0))
			return nil
		})
		if err == nil && !found {
			err = ErrNotFound
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return c.ByDigest(ctx, sha)
}

// inStep notes that the copy has all that the mailbox has.
func (c *Cache) inStep(ctx context.Context) error {
	return c.write(ctx, "noting the time", func(d *db) error {
		return d.exec(`UPDATE mailbox SET synced = ?1`, c.now().Unix())
	})
}
