package cache_test

import (
	"errors"
	"path/filepath"
	"slices"
	"testing"

	"cmtpd/internal/cache"
)

// What a person types stays: the newer message has the higher number, no number means another message later,
// and another epoch changes none.
func TestCache_Short(t *testing.T) {
	c, b := open(t, filepath.Join(t.TempDir(), "anna.mail"), newKey(t)), newBox()
	if n, err := c.Counts(t.Context()); err != nil || !n.Synced.IsZero() {
		t.Fatalf("in step since %v, %v", n.Synced, err)
	}
	for _, s := range []string{"one", "two", "three"} {
		b.arrive(text("ben@b.example", "anna@a.example", s))
	}
	run(t, c, b)
	if n, err := c.Counts(t.Context()); err != nil || n.Synced.IsZero() {
		t.Fatalf("never in step, %v", err)
	}
	ids := func() (ids []int64) {
		all, err := c.List(t.Context(), cache.Filter{})
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range all {
			ids = append(ids, m.ID)
		}
		return ids
	}
	short := func(ids []int64) (numbers []int64) {
		m, err := c.Short(t.Context(), ids)
		if err != nil {
			t.Fatal(err)
		}
		for _, id := range ids {
			numbers = append(numbers, m[id])
		}
		return numbers
	}
	before := ids()
	if got := short(before[:2]); !slices.Equal(got, []int64{2, 1}) {
		t.Fatalf("numbers %d", got)
	}
	if got := short(before); !slices.Equal(got, []int64{2, 1, 3}) {
		t.Fatalf("numbers %d", got)
	}
	if m, err := c.ByShort(t.Context(), 1); err != nil || m.ID != before[1] || m.Opened == nil || m.Opened.Text == "" {
		t.Errorf("number 1 is %+v, %v", m, err)
	}
	b.restore(b.backup())
	run(t, c, b)
	if got := short(ids()); !slices.Equal(got, []int64{2, 1, 3}) {
		t.Errorf("numbers of another epoch %d", got)
	}
	if err := c.Delete(t.Context(), before[2:]); err != nil {
		t.Fatal(err)
	}
	run(t, c, b)
	b.arrive(text("ben@b.example", "anna@a.example", "four"))
	run(t, c, b)
	if got := short(ids()); !slices.Equal(got, []int64{4, 2, 1}) {
		t.Errorf("numbers %d", got)
	}
	if _, err := c.ByShort(t.Context(), 3); !errors.Is(err, cache.ErrNotFound) {
		t.Errorf("the number of what was deleted: %v", err)
	}
	if _, err := c.Short(t.Context(), []int64{1}); !errors.Is(err, cache.ErrNotFound) {
		t.Errorf("of what is not there: %v", err)
	}
}
