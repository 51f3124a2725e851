//go:build !linux

package relay

import (
	"context"

	"cmtpd/internal/netbuf"
)

type loops struct{}

// Files is how many files relayed sessions together may hold open beside the two
// connections of each.
func Files() int { return 0 }

// start connects to the backend and starts the stream between it and c.
func (r *Relay) start(ctx context.Context, c *netbuf.Conn) (stream, error) {
	return r.startPump(ctx, c)
}
