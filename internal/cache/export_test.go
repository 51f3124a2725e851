package cache

import (
	"context"
	"fmt"
)

// SetVersion makes the database one of another version.
func SetVersion(c *Cache, v int) error {
	return c.db.conn.Exec(fmt.Sprintf("PRAGMA user_version = %d", v))
}

// RunUnlocked is Run where no process keeps another one out, as on a system without locks.
func RunUnlocked(ctx context.Context, s *Syncer, srv Server) error {
	return (&run{Syncer: s, srv: srv}).all(ctx)
}

// ErrMoved is what RunUnlocked gives up with when others are always faster.
var ErrMoved = errMoved

// Age makes the database one of before there were copies of what was sent.
func Age(c *Cache) error { return c.db.conn.Exec("ALTER TABLE content DROP COLUMN sent") }
