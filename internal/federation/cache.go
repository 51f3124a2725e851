package federation

import (
	"container/list"
	"sync"
	"time"
)

// A cache keeps what was found until it expires, the latest used of it when there is more
// than it holds: of things, or of bytes.
type cache[K comparable, V any] struct {
	size, bytes int
	now         func() time.Time

	mu     sync.Mutex
	found  map[K]*list.Element // under mu: what stands in latest
	latest *list.List          // under mu: of *kept[K, V], the latest used first
	held   int                 // under mu: bytes
}

type kept[K comparable, V any] struct {
	key     K
	value   V
	bytes   int
	expires time.Time
}

func newCache[K comparable, V any](size, bytes int, now func() time.Time) *cache[K, V] {
	return &cache[K, V]{size: size, bytes: bytes, now: now, found: make(map[K]*list.Element), latest: list.New()}
}

func (c *cache[K, V]) get(key K) (value V, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.found[key]
	if !ok {
		return value, false
	}
	k := e.Value.(*kept[K, V])
	if !c.now().Before(k.expires) {
		c.drop(e)
		return value, false
	}
	c.latest.MoveToFront(e)
	return k.value, true
}

// put keeps a value that has so many bytes.
func (c *cache[K, V]) put(key K, value V, bytes int, life time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.found[key]; ok {
		c.drop(e)
	}
	c.found[key] = c.latest.PushFront(&kept[K, V]{key, value, bytes, c.now().Add(life)})
	c.held += bytes
	for c.latest.Len() > c.size || c.held > c.bytes {
		c.drop(c.latest.Back())
	}
}

// forget drops what is kept.
func (c *cache[K, V]) forget(key K) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.found[key]; ok {
		c.drop(e)
	}
}

// drop is called under mu.
func (c *cache[K, V]) drop(e *list.Element) {
	k := c.latest.Remove(e).(*kept[K, V])
	delete(c.found, k.key)
	c.held -= k.bytes
}
