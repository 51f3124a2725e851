package limit_test

import (
	"net/netip"
	"testing"
	"time"

	"cmtpd/internal/limit"
)

// TestRate_Set: another rate counts at once, and what was used stays used.
func TestRate_Set(t *testing.T) {
	now := time.Now()
	r := limit.NewRate(60, 2, func() time.Time { return now })
	a := netip.MustParseAddr("192.0.2.1")
	allow := func(want bool) {
		t.Helper()
		if got := r.Allow(a); got != want {
			t.Errorf("allowed: %v, want %v", got, want)
		}
	}
	allow(true)
	allow(true)
	allow(false)
	r.Set(60, 3)
	allow(true)
	allow(false)
	r.Set(60, 1)
	now = now.Add(2 * time.Second)
	allow(false)
	now = now.Add(time.Second)
	allow(true)
	allow(false)
	// Under a rate that owes for hours, nothing is owed for longer than under the one that follows.
	r.Set(1, 1000)
	now = now.Add(time.Minute)
	for range 1000 {
		allow(true)
	}
	r.Set(60, 2)
	allow(false)
	now = now.Add(time.Second)
	allow(true)
	allow(false)
}
