package limit_test

import (
	"testing"
	"time"

	"cmtpd/internal/limit"
)

// Each holder has a burst, and then the rate; what was given back counts as never used.
func TestBudget(t *testing.T) {
	now := time.Unix(1e9, 0)
	b := limit.NewBudget[string](6, 3, time.Hour, func() time.Time { return now })
	take := func(who string, n, want int) {
		t.Helper()
		if got := b.Take(who, n); got != want {
			t.Errorf("%s got %d of %d, want %d", who, got, n, want)
		}
	}
	all := func(who string, n int, want time.Duration) {
		t.Helper()
		if got := b.TakeAll(who, n); got != want {
			t.Errorf("%s has to wait for %s with %d, want %s", who, got, n, want)
		}
	}
	take("a", 2, 2)
	take("a", 2, 1)
	take("a", 1, 0)
	all("b", 3, 0) // another one pays for nothing
	all("b", 1, 10*time.Minute)
	now = now.Add(10*time.Minute - 1)
	all("b", 1, 1)
	now = now.Add(1)
	all("b", 2, 10*time.Minute) // none was counted
	all("b", 1, 0)
	b.GiveBack("a", 2)
	b.GiveBack("nobody", 2)
	take("a", 9, 3)
	take("nobody", 9, 3)
	now = now.Add(time.Hour)
	all("a", 1<<62, 0) // more than a burst is one
	all("a", 1, 10*time.Minute)
	b.Set(60, 3)
	all("a", 3, 3*time.Minute) // what it owed at the old rate it owes no longer than the new one can
}

// Another rate counts for who owes for hours under the one before, and who was refused meanwhile waits no longer for it.
func TestBudget_Set(t *testing.T) {
	now := time.Unix(1e9, 0)
	b := limit.NewBudget[string](1, 1000, time.Hour, func() time.Time { return now })
	if wait := b.TakeAll("a", 1000); wait != 0 {
		t.Fatalf("a burst has to wait for %s", wait)
	}
	b.Set(60, 2)
	for _, step := range []time.Duration{0, 59 * time.Second, time.Second - 1} {
		now = now.Add(step)
		if b.TakeAll("a", 1) == 0 {
			t.Fatalf("after %s it owes nothing", step)
		}
	}
	now = now.Add(1)
	if wait := b.TakeAll("a", 1); wait != 0 {
		t.Errorf("after a minute it still has to wait for %s", wait)
	}
}

// Those that have paid are forgotten, however many there were.
func TestBudget_Forgets(t *testing.T) {
	now := time.Unix(1e9, 0)
	b := limit.NewBudget[int](60, 1, time.Minute, func() time.Time { return now })
	for i := range 100_000 {
		now = now.Add(time.Second) // so that the one before has paid
		if b.Take(i, 1) != 1 {
			t.Fatalf("%d got none", i)
		}
	}
	if n := b.Len(); n > 1024 {
		t.Errorf("%d are remembered", n)
	}
}
