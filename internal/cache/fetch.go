package cache

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"cmtpd/internal/client"
	"cmtpd/internal/cmtp"
)

func digest(b []byte) Digest { return sha256.Sum256(b) }

func isNotKept(err error) bool { return errors.Is(err, ErrNotKept) }

// setBox keeps what the server says of the mailbox's size.
func (c *Cache) setBox(ctx context.Context, box *cmtp.MailboxState) error {
	b, err := json.Marshal(box)
	if err != nil {
		return err
	}
	return c.write(ctx, "keeping the mailbox's size", func(d *db) error {
		return d.exec(`UPDATE mailbox SET box = ?1`, b)
	})
}

// download writes all of a message. It asks for that at once: of ranges the server reads all of the message before the
// first one ends (docs/protocol.md section 27.3), of a whole one only before the last bytes leave.
func (c *Cache) download(ctx context.Context, srv Server, m *Message, w io.Writer) error {
	box, err := srv.Mailbox()
	if err != nil {
		return err
	}
	at, err := c.position(ctx)
	if err == nil && !at.is(box.Epoch) {
		err = errEpoch
	}
	if err != nil {
		return err
	}
	sum := sha256.New()
	whole := []cmtp.FetchQuery{{Number: m.Number, Length: uint64(m.Size)}}
	err = srv.FetchAll(slices.Values(whole), func(f client.Fetched) error {
		if f.Err != nil {
			return f.Err
		}
		if f.Size != f.Length {
			return fmt.Errorf("%w: %d bytes, where %d were asked for", errAnswer, f.Size, f.Length)
		}
		_, err := io.Copy(io.MultiWriter(w, sum), f.Body)
		return err
	})
	if err == nil && Digest(sum.Sum(nil)) != m.SHA256 {
		err = fmt.Errorf("%w: other bytes than it has listed", errAnswer)
	}
	return err
}

// errEpoch: the numbers that are known mean nothing to the server any more.
var errEpoch = errors.New("the mailbox has other numbers by now: sync first")
