package spool_test

import (
	"errors"
	"slices"
	"testing"

	"cmtpd/internal/spool"
)

// What was removed, when and by whom stays in the log, also after compaction.
func TestRemovals(t *testing.T) {
	l := newLibrary(t, 80)
	s := open(t, "/spool", l.options)
	first, err := s.Get(7)
	if err != nil {
		t.Fatal(err)
	}
	l.remove(t, s, 7, 30, 2)
	if err := s.Remove(ctx, 40, "somebody else"); err != nil {
		t.Fatal(err)
	}
	for _, step := range []func() error{func() error { return nil }, func() error { return s.Compact(ctx) }, s.Close} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
		list, damage, err := spool.Removals(ctx, l.fs, "/spool")
		if err != nil || damage != nil {
			t.Fatal(damage, err)
		}
		var ids []spool.ID
		for _, r := range list {
			ids = append(ids, r.ID)
		}
		if !slices.Equal(ids, []spool.ID{7, 30, 2, 40}) {
			t.Fatalf("removed: %v", ids)
		}
		if r := list[0]; r.Mailbox != first.Mailbox || r.Size != first.Size || r.By != "alice@cref.example" || r.Commit <= first.Commit || r.Time.Before(first.Received) {
			t.Errorf("the first: %+v of %+v", r, first)
		}
		if list[3].By != "somebody else" || list[3].Commit <= list[0].Commit {
			t.Errorf("the last: %+v", list[3])
		}
	}
	path := segments(t, l.fs, "/spool")[0]
	b := contents(t, l.fs, path)
	b[300] ^= 1
	replace(t, l.fs, path, b)
	if _, damage, err := spool.Removals(ctx, l.fs, "/spool"); err != nil || damage == nil {
		t.Errorf("damage is not told: %v", err)
	}
	if _, _, err := spool.Removals(ctx, l.fs, "/nowhere"); err == nil || errors.Is(err, spool.ErrDamaged) {
		t.Errorf("where no spool is: %v", err)
	}
}
