package federation

import (
	"context"
	"time"
)

// Places are those of questions that are under way.
type Places struct{ p *places }

// NewPlaces makes so many quick and slow ones.
func NewPlaces(quick, slow int) Places { return Places{newPlaces(quick, slow)} }

// Enter waits for one.
func (p Places) Enter(ctx context.Context) (context.Context, func(), error) { return p.p.enter(ctx) }

// Taken counts those that are not free.
func (p Places) Taken() int { return len(p.p.quick) + len(p.p.slow) }

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
