package queue_test

import (
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"cmtpd/internal/queue"
	"cmtpd/internal/spool"
)

// TestDestination: whatever comes, waits, becomes due or is taken out, what is ready is taken in the order of
// arrival, and nothing is lost.
func TestDestination(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var d queue.Destination
		ready, later := map[spool.ID]bool{}, map[spool.ID]uint32{}
		id := rapid.Custom(func(t *rapid.T) spool.ID { return spool.ID(rapid.IntRange(1, 40).Draw(t, "id")) })
		there := func(id spool.ID) bool {
			_, waits := later[id]
			return waits || ready[id]
		}
		t.Repeat(map[string]func(*rapid.T){
			"insert": func(t *rapid.T) {
				if i := id.Draw(t, "new"); !there(i) {
					d.Insert(i)
					ready[i] = true
				}
			},
			"postpone": func(t *rapid.T) {
				if i, next := id.Draw(t, "new"), rapid.Uint32Range(1, 10).Draw(t, "next"); !there(i) {
					d.Postpone(i, next)
					later[i] = next
				}
			},
			"promote": func(t *rapid.T) {
				now := rapid.Uint32Range(0, 10).Draw(t, "now")
				d.Promote(now)
				for i, next := range later {
					if next <= now {
						ready[i] = true
						delete(later, i)
					}
				}
			},
			"take": func(t *rapid.T) {
				n := rapid.IntRange(0, 10).Draw(t, "n")
				want := slices.Sorted(maps.Keys(ready))
				want = want[:min(n, len(want))]
				if got := d.Take(n); !slices.Equal(got, want) {
					t.Fatalf("got %v, want %v", got, want)
				}
				for _, i := range want {
					delete(ready, i)
				}
			},
			"remove": func(t *rapid.T) {
				i := id.Draw(t, "old")
				if got := d.Remove(i); got != there(i) {
					t.Fatalf("%s is there: %v", i, got)
				}
				delete(ready, i)
				delete(later, i)
			},
			"": func(t *rapid.T) {
				for i := spool.ID(1); i <= 40; i++ {
					if d.Has(i) != there(i) {
						t.Fatalf("%s is there: %v", i, d.Has(i))
					}
				}
			},
		})
	})
}
