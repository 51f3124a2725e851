package spool_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"cmtpd/internal/spool"
)

// A message's beginning comes with its entry, from the log and from a file of its own; of a
// damaged one nothing comes.
func TestSpool_GetStart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "spool")
	o := options(t)
	o.LargeThreshold = 1000
	s := open(t, dir, o)
	var ids []spool.ID
	for _, size := range []int{0, 5, 999, 1000, 3000} {
		data := text(size, size)
		st := mustStore(t, s, box(1), data)
		ids = append(ids, st.ID)
		info, err := s.GetStart(st.ID, 10)
		if err != nil || !bytes.Equal(info.Start, data[:min(10, size)]) || info.Size != int64(size) || info.Large != (size >= 1000) {
			t.Errorf("%d bytes: %+v, %v", size, info, err)
		}
	}
	if _, err := s.GetStart(ids[4]+1, 10); !errors.Is(err, spool.ErrNotFound) {
		t.Errorf("of none: %v", err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "large", "*"))
	if err != nil || len(files) != 2 {
		t.Fatal(files, err)
	}
	for _, f := range files {
		if err := os.Truncate(f, 5); err != nil {
			t.Fatal(err)
		}
	}
	for _, id := range ids[3:] {
		if info, err := s.GetStart(id, 10); !errors.Is(err, spool.ErrDamaged) || info.Start != nil || info.ID != id {
			t.Errorf("of a damaged one: %+v, %v", info, err)
		}
	}
	n := 0
	for info, err := range s.ListStarts(box(1), 0, false, 10) {
		if n++; (err != nil) != (n > 3) || info.ID != ids[n-1] {
			t.Errorf("%d: %+v, %v", n, info, err)
		}
	}
	if n != 5 {
		t.Errorf("%d messages are listed", n)
	}
}

// The hook is called before the message is acknowledged, once for each mailbox of a commit, and
// finds what has changed.
func TestSpool_Changed(t *testing.T) {
	var s *spool.Spool
	var got []spool.BoxChange
	o := options(t)
	o.Changed = func(commit uint64, boxes []spool.BoxChange) {
		if s == nil {
			return // the commit of the keys
		}
		if commit != s.Head().Number {
			t.Errorf("commit %d at head %v", commit, s.Head())
		}
		got = append(got, boxes...)
	}
	s = open(t, filepath.Join(t.TempDir(), "spool"), o)
	a, b := mustStore(t, s, box(1), text(1, 100)), mustStore(t, s, box(2), text(2, 50))
	if st := mustStore(t, s, box(1), text(1, 100)); !st.Duplicate {
		t.Error("no duplicate")
	}
	if _, err := s.Mark(ctx, a.ID, spool.Mark{Flags: 1}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Mark(ctx, a.ID, spool.Mark{Flags: 1}); err != nil { // changes nothing
		t.Fatal(err)
	}
	if n, err := s.RemoveAll(ctx, []spool.ID{b.ID}, "test"); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	want := []spool.BoxChange{{box(1), 1, 100}, {box(2), 1, 50}, {box(1), 0, 0}, {box(2), -1, -50}}
	if len(got) != len(want) {
		t.Fatalf("%+v", got)
	}
	for i := range got {
		if got[i] != want[i] {
			t.Errorf("%d: %+v, want %+v", i, got[i], want[i])
		}
	}
}
