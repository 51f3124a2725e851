package discovery

import (
	"container/list"
	"sync"
	"time"
)

// A question is a name, lower-case with a final dot, and a type of record.
type question struct {
	name  string
	qtype uint16
}

// A cache keeps answers until they expire, the latest used ones of them when
// there are more than it holds.
type cache struct {
	size int

	mu     sync.Mutex
	found  map[question]*list.Element // under mu: what stands in latest
	latest *list.List                 // under mu: of *cached, the latest used first
}

type cached struct {
	question
	*answer
}

func newCache(size int) *cache {
	return &cache{size: size, found: make(map[question]*list.Element), latest: list.New()}
}

// get returns what is known at a moment, or nil.
func (c *cache) get(q question, now time.Time) *answer {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.found[q]
	if !ok {
		return nil
	}
	known := e.Value.(*cached)
	if !now.Before(known.expires) {
		c.drop(e)
		return nil
	}
	c.latest.MoveToFront(e)
	return known.answer
}

// put keeps an answer, unless it has expired already. There is none for the
// question: whoever asked has looked, and nobody else asks the same meanwhile.
func (c *cache) put(q question, a *answer, now time.Time) {
	if !now.Before(a.expires) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.found[q] = c.latest.PushFront(&cached{q, a})
	if c.latest.Len() > c.size {
		c.drop(c.latest.Back())
	}
}

// drop is called under mu.
func (c *cache) drop(e *list.Element) {
	delete(c.found, c.latest.Remove(e).(*cached).question)
}
