package daemon

import (
	"fmt"
	"syscall"

	"cmtpd/internal/config"
	"cmtpd/internal/relay"
)

// filesBeside is how many files the daemon opens besides client connections and
// their backends: listeners, logs, spool segments, large messages on their way, refused connections.
const filesBeside = 768

// checkFiles refuses to start when the open-file limit is too low for the
// connections that the configuration promises: running out of files in the
// middle of the day hits the spool as well as strangers.
func checkFiles(c *config.Config) error {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("asking for the open-file limit: %w", err)
	}
	need := uint64(c.Limits.MaxConnections) + filesBeside
	if c.SMTP.Mode == config.Relay { // each connection may have another behind it
		need += uint64(c.Limits.MaxConnections + relay.Files())
	}
	if limit.Cur >= need {
		return nil
	}
	return fmt.Errorf("limits.max_connections = %d needs an open-file limit of %d, and it is %d: raise it (LimitNOFILE= in the service's unit, or ulimit -n) or lower max_connections",
		c.Limits.MaxConnections, need, limit.Cur)
}
