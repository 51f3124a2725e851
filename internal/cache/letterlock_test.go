package cache_test

import (
	"errors"
	"testing"

	"cmtpd/internal/cache"
	"cmtpd/internal/durable"
)

// A letter is sent by one at a time, others beside it; and one that is removed leaves no lock.
func TestCache_LockLetter(t *testing.T) {
	dir, key := t.TempDir(), newKey(t)
	c := open(t, dir, key)
	other := open(t, dir, key)
	var ids []int64
	for range 2 {
		d := cache.Draft{Recipients: []string{"bob@example.org"}}
		if err := c.SaveDraft(t.Context(), &d); err != nil {
			t.Fatal(err)
		}
		id, err := c.Queue(t.Context(), d.ID)
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	lock, err := c.LockLetter(ids[0])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.LockLetter(ids[0]); !errors.Is(err, durable.ErrLocked) {
		t.Errorf("two send one letter: %v", err)
	}
	second, err := other.LockLetter(ids[1])
	if err != nil {
		t.Fatalf("another letter waits: %v", err)
	}
	second.Close()
	if err := c.RemoveLetter(t.Context(), ids[0]); err != nil {
		t.Fatal(err)
	}
	lock.Close()
	again, err := other.LockLetter(ids[0])
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
	if err := c.RemoveLetter(t.Context(), ids[0]); !errors.Is(err, cache.ErrNotFound) {
		t.Errorf("got %v", err)
	}
}
