package cache

import (
	"context"

	"github.com/ncruces/go-sqlite3"
)

// SetProof keeps what is said of a message's source from now on. The error wraps ErrNotFound where the message was
// not opened.
func (c *Cache) SetProof(ctx context.Context, id int64, proof string) error {
	return c.write(ctx, "keeping what a message proves", func(d *db) error {
		var o Opened
		found, err := d.one(`SELECT head FROM content WHERE id = ?1 AND length(head) > 0`, []any{id}, func(s *sqlite3.Stmt) error {
			return unpackJSON(s.ColumnRawBlob(0), &o)
		})
		if err == nil && !found {
			err = ErrNotFound
		}
		if err != nil || o.Proof == proof {
			return err
		}
		o.Proof = proof
		head, err := packJSON(&o)
		if err != nil {
			return err
		}
		return d.exec(`UPDATE content SET head = ?2 WHERE id = ?1`, id, head)
	})
}
