package federation

import "time"

// A Cache is the cache of this package, of numbers of bytes by a string.
type Cache struct{ c *cache[string, int] }

// NewCache makes one.
func NewCache(size, bytes int, now func() time.Time) Cache {
	return Cache{newCache[string, int](size, bytes, now)}
}

// Put keeps something of so many bytes.
func (c Cache) Put(key string, bytes int, life time.Duration) { c.c.put(key, bytes, bytes, life) }

// Get reports whether it is there.
func (c Cache) Get(key string) bool {
	_, ok := c.c.get(key)
	return ok
}
