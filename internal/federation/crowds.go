package federation

import (
	"context"
	"sync"

	"cmtpd/internal/address"
)

// crowds keeps one domain from taking all places.
type crowds struct {
	most int

	mu      sync.Mutex
	domains map[address.Domain]*crowd // under mu: those that somebody is in or waits for
}

type crowd struct {
	places chan struct{}
	users  int // under crowds.mu: who are in, and who wait
}

func newCrowds(most int) *crowds {
	return &crowds{most: most, domains: make(map[address.Domain]*crowd)}
}

// enter waits for a place.
func (c *crowds) enter(ctx context.Context, d address.Domain) (leave func(), err error) {
	c.mu.Lock()
	in := c.domains[d]
	if in == nil {
		in = &crowd{places: make(chan struct{}, c.most)}
		c.domains[d] = in
	}
	in.users++
	c.mu.Unlock()
	gone := func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if in.users--; in.users == 0 {
			delete(c.domains, d)
		}
	}
	select {
	case in.places <- struct{}{}:
		return func() { <-in.places; gone() }, nil
	case <-ctx.Done():
		gone()
		return nil, context.Cause(ctx)
	}
}
