package relay

import (
	"context"
	"fmt"

	"cmtpd/internal/netbuf"
)

// Refuse answers the first command of an SMTP session with 521 (RFC 7504) and
// ends it: for a host that takes no SMTP mail. It implements front.Handler.
type Refuse struct{ Hostname string }

// Serve says no.
func (r Refuse) Serve(_ context.Context, c *netbuf.Conn) {
	c.Farewell(fmt.Appendf(nil, "521 5.3.2 %s does not accept mail by SMTP\r\n", r.Hostname))
}
