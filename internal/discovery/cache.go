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
	forgot uint64                     // under mu: how often something was forgotten on request
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

// epoch is what put is told of the moment at which a question was asked.
func (c *cache) epoch() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.forgot
}

// put keeps an answer, unless it has expired already, or something was forgotten since it was asked
// for: it may be that.
func (c *cache) put(q question, a *answer, asked uint64, now time.Time) {
	if !now.Before(a.expires) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if asked != c.forgot {
		return
	}
	if e, ok := c.found[q]; ok {
		c.drop(e) // of who asks aside
	}
	c.found[q] = c.latest.PushFront(&cached{q, a})
	if c.latest.Len() > c.size {
		c.drop(c.latest.Back())
	}
}

// peek returns what is kept, expired or not, or nil.
func (c *cache) peek(q question) *answer {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.found[q]; ok {
		return e.Value.(*cached).answer
	}
	return nil
}

// forget drops what is kept, and what is on its way.
func (c *cache) forget(questions []question) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.forgot++
	for _, q := range questions {
		if e, ok := c.found[q]; ok {
			c.drop(e)
		}
	}
}

// drop is called under mu.
func (c *cache) drop(e *list.Element) {
	delete(c.found, c.latest.Remove(e).(*cached).question)
}
