//go:build !linux

package relay

import (
	"context"

	"cmtpd/internal/netbuf"
)

type loops struct{}

// start connects to the backend and starts the stream between it and c.
func (r *Relay) start(ctx context.Context, c *netbuf.Conn) (stream, error) {
	return r.startPump(ctx, c)
}
