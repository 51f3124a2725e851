package cmtptest

import (
	"runtime"
	"testing"
)

// Bounded fails the test when f allocates more than limit bytes. Nothing else may
// run at the same time.
func Bounded(t testing.TB, limit uint64, f func()) {
	t.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	if used := after.TotalAlloc - before.TotalAlloc; used > limit {
		t.Fatalf("%d bytes were allocated, the bound is %d", used, limit)
	}
}
