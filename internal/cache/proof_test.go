package cache_test

import (
	"errors"
	"testing"

	"cmtpd/internal/cache"
)

// What is said of a source is what was said last.
func TestCache_SetProof(t *testing.T) {
	c, b := newCache(t), newBox()
	b.arrive(text("ben@b.example", "anna@a.example", "one\nits text"))
	b.arrive(text("ben@b.example", "anna@a.example", "!sealed"))
	run(t, c, b)
	all := list(t, c, cache.Filter{})
	if err := c.SetProof(t.Context(), all[1].ID, "proven by the key"); err != nil {
		t.Fatal(err)
	}
	if m, err := c.Message(t.Context(), all[1].ID); err != nil || m.Opened.Proof != "proven by the key" || m.Opened.Text != "one\nits text" || m.Opened.Subject != "one" {
		t.Errorf("it is %+v, %v", m, err)
	}
	if err := c.SetProof(t.Context(), all[0].ID, "x"); !errors.Is(err, cache.ErrNotFound) {
		t.Errorf("of what does not open: %v", err)
	}
}
