package relay

import (
	"context"
	"log/slog"
	"time"

	"cmtpd/internal/netbuf"
)

// An Outcome is how a session ended.
type Outcome string

// The ends of a session.
const (
	Passed      Outcome = "passed"      // to the backend, until one of the two was done
	Refused     Outcome = "refused"     // by the backend's greeting, or as all are (Refuse)
	Unavailable Outcome = "unavailable" // the backend is down, too slow, no SMTP server, or must not be fronted
	Idle        Outcome = "idle"        // cut: nothing moved for too long
	Long        Outcome = "long"        // cut: it lasted too long
	Stopped     Outcome = "stopped"     // cut by the end of the server
)

// Outcomes are all of them.
var Outcomes = []Outcome{Passed, Refused, Unavailable, Idle, Long, Stopped}

// An End is what is known of a session that is over.
type End struct {
	Outcome  Outcome
	Up, Down uint64 // bytes to and from the backend
	Took     time.Duration

	began time.Time
}

// end tells the log and Ended that a session is over. Nothing in between is read, so the line tells no more
// of the mail: the backend's log does, which has the same client's address and port.
func (c *Config) end(conn *netbuf.Conn, e *End) {
	e.Took = time.Since(e.began)
	c.Ended(*e)
	if !c.Log.Enabled(context.Background(), slog.LevelInfo) {
		return // making the line is not free
	}
	c.Log.Info("session ended", "conn", conn.ID, "client", conn.Client, "protocol", "smtp", "why", string(e.Outcome),
		"up", e.Up, "down", e.Down, "took", e.Took.Round(time.Millisecond))
}
