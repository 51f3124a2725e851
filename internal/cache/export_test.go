package cache

import "fmt"

// SetVersion makes the database one of another version.
func SetVersion(c *Cache, v int) error {
	return c.db.conn.Exec(fmt.Sprintf("PRAGMA user_version = %d", v))
}
