package cache

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

func digest(b []byte) Digest { return sha256.Sum256(b) }

func isNotKept(err error) bool { return errors.Is(err, ErrNotKept) }

// setBox keeps what the server says of the mailbox's size.
func (c *Cache) setBox(ctx context.Context, box *Box) error {
	b, err := json.Marshal(box)
	if err != nil {
		return err
	}
	return c.write(ctx, "keeping the mailbox's size", func(d *db) error {
		return d.exec(`UPDATE mailbox SET box = ?1`, b)
	})
}

// download writes all of a message, a range at a time.
func (c *Cache) download(ctx context.Context, srv Server, m *Message, w io.Writer) error {
	box, err := srv.Mailbox(ctx)
	if err != nil {
		return err
	}
	at, err := c.position(ctx)
	if err == nil && !at.is(box.Epoch) {
		err = fmt.Errorf("%w: the mailbox has other numbers by now, sync first", ErrOutdated)
	}
	if err != nil {
		return err
	}
	sum := sha256.New()
	for at := int64(0); at < m.Size; {
		n := min(rangeSize, m.Size-at)
		err := srv.Fetch(ctx, []Range{{m.Number, uint64(at), uint64(n)}}, func(_ int, b []byte, err error) error {
			if err != nil {
				return err
			}
			if int64(len(b)) != n {
				return fmt.Errorf("%w: %d bytes, where %d were asked for", errAnswer, len(b), n)
			}
			sum.Write(b)
			_, err = w.Write(b)
			return err
		})
		if err != nil {
			return err
		}
		at += n
	}
	if Digest(sum.Sum(nil)) != m.SHA256 {
		return fmt.Errorf("%w: other bytes than it has listed", errAnswer)
	}
	return nil
}
