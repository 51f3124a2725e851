package cache

import (
	"context"
	"fmt"
	"io"

	"cmtpd/internal/client"
	"cmtpd/internal/cmtp"
)

// Ready returns a Sealed copy for a client.Channel to send. It is read from the database while it
// is sent, and the same bytes each time, so that the server stores it once.
func (c *Cache) Ready(ctx context.Context, one *Copy) (*client.Outgoing, error) {
	r := c.Bytes(ctx, one)
	l, err := cmtp.ParseLayout(r, one.Size)
	if err != nil {
		return nil, fmt.Errorf("reading the sealed letter to %s: %w", one.Recipient, err)
	}
	o := &client.Outgoing{Header: l.Header, Log: l.Log, Body: part{l.Body.Section(r)}}
	for _, a := range l.Attachments {
		o.Attachments = append(o.Attachments, part{a.Section(r)})
	}
	return o, nil
}

// A part is a body or an attachment that is kept.
type part struct{ *io.SectionReader }

func (p part) WriteTo(w io.Writer) (int64, error) {
	return io.Copy(w, io.NewSectionReader(p.SectionReader, 0, p.Size()))
}
