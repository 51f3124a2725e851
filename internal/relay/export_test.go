package relay

import "time"

var ParseReply = parseReply

// SetLinger sets how long a client may stay that was put off.
func (r *Relay) SetLinger(d time.Duration) { r.linger = d }
