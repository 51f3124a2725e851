package relay

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"cmtpd/internal/netbuf"
)

// Refuse answers the first command of an SMTP session with 521 (RFC 7504) and
// ends it: for a host that takes no SMTP mail. It implements front.Handler.
type Refuse struct {
	Hostname string
	Log      *slog.Logger // may be nil for silence
	Ended    func(End)    // as in Config
}

// Serve says no.
func (r Refuse) Serve(_ context.Context, c *netbuf.Conn) {
	e := End{began: time.Now(), Outcome: Refused}
	c.Farewell(fmt.Appendf(nil, "521 5.3.2 %s does not accept mail by SMTP\r\n", r.Hostname))
	cfg := Config{Log: r.Log, Ended: r.Ended}.withDefaults()
	cfg.end(c, &e)
}
