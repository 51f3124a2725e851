package spool_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"cmtpd/internal/durable"
	"cmtpd/internal/spool"
)

func mustMark(tb testing.TB, s *spool.Spool, id spool.ID, flags spool.Flags, keywords string) spool.Marked {
	tb.Helper()
	a, err := s.Mark(ctx, id, spool.Mark{Flags: flags, Keywords: []byte(keywords)})
	if err != nil {
		tb.Fatal(err)
	}
	return a
}

func mustGet(tb testing.TB, s *spool.Spool, id spool.ID) spool.Info {
	tb.Helper()
	info, err := s.Get(id)
	if err != nil {
		tb.Fatal(err)
	}
	return info
}

// changes returns what has changed in a mailbox, a line each.
func changes(tb testing.TB, s *spool.Spool, m spool.MailboxID, after uint64) (lines []string) {
	tb.Helper()
	for c, err := range s.Changes(m, after) {
		if err != nil {
			tb.Fatal(err)
		}
		if c.Number <= after {
			tb.Fatalf("change %d after %d", c.Number, after)
		}
		after = c.Number
		lines = append(lines, fmt.Sprintf("%d: %d removed %v arrived %d flags %s %q", c.Number, c.ID, c.Removed, c.Arrived, c.Mark.Flags, c.Mark.Keywords))
	}
	return lines
}

// What is set stays set, through restarts, without an index, and through compaction.
func TestSpool_Mark(t *testing.T) {
	l := newLibrary(t, 100)
	s := open(t, "/spool", l.options)
	fresh := mustGet(t, s, 7)
	if fresh.Change == 0 || fresh.Mark.Flags != 0 || fresh.Mark.Keywords != nil {
		t.Errorf("a new message: %+v", fresh)
	}
	first := mustMark(t, s, 7, spool.FlagSeen, "")
	again := mustMark(t, s, 7, manyFlags, "secret")
	if !first.Changed || !again.Changed || first.Change <= mustGet(t, s, 100).Change || again.Change <= first.Change {
		t.Errorf("%+v, then %+v", first, again)
	}
	head := s.Head()
	if same := mustMark(t, s, 7, manyFlags, "secret"); same.Changed || same.Change != again.Change || s.Head() != head {
		t.Errorf("set again: %+v", same)
	}
	if none := mustMark(t, s, 8, 0, ""); none.Changed || none.Change != mustGet(t, s, 8).Change || s.Head() != head {
		t.Errorf("nothing set on nothing: %+v", none)
	}
	other := mustMark(t, s, 9, 0, strings.Repeat("k", 128))
	l.remove(t, s, 10, 11, 12, 13, 14, 15)
	l.check(t, s)
	check := func(s *spool.Spool) {
		t.Helper()
		checkMarked(t, s, again.Change, other.Change)
	}
	check(s)
	all := changes(t, s, box(2), 0)
	if err := s.Compact(ctx); err != nil {
		t.Fatal(err)
	}
	check(s)
	s.Close()
	for _, lose := range []bool{false, true, false} {
		for _, path := range l.indexFiles(t) {
			if lose {
				if err := l.fs.Remove(path); err != nil {
					t.Fatal(err)
				}
			}
		}
		s = open(t, "/spool", l.options)
		check(s)
		if got := changes(t, s, box(2), 0); !slices.Equal(got, all) {
			t.Errorf("the changes are\n%v, were\n%v", got, all)
		}
		s.Close()
	}
	ro, err := spool.OpenReadOnly("/spool", l.fs)
	if err != nil {
		t.Fatal(err)
	}
	check(ro)
	l.verify(t, 94, 6, head)
}

// checkMarked holds messages 7, 8 and 9 to what TestSpool_Mark sets.
func checkMarked(t *testing.T, s *spool.Spool, seven, nine uint64) {
	t.Helper()
	info := mustGet(t, s, 7)
	if info.Mark.Flags != manyFlags || string(info.Mark.Keywords) != "secret" || info.Change != seven {
		t.Errorf("message 7: %+v", info)
	}
	if info := mustGet(t, s, 8); info.Mark.Flags != 0 || info.Change == 0 {
		t.Errorf("message 8: %+v", info)
	}
	for info, err := range s.All(8) {
		if err != nil || info.ID != 9 || len(info.Mark.Keywords) != 128 || info.Change != nine {
			t.Errorf("listed: %+v, %v", info, err)
		}
		break
	}
	r, err := s.Open(7)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if info := r.Info(); string(info.Mark.Keywords) != "secret" || info.Change != seven {
		t.Errorf("opened: %+v", info)
	}
}

const manyFlags = spool.FlagSeen | spool.FlagFlagged | 1<<31

func TestSpool_Mark_Refuses(t *testing.T) {
	l := newLibrary(t, 3)
	s := open(t, "/spool", l.options)
	if _, err := s.Mark(ctx, 99, spool.Mark{Flags: 1}); !errors.Is(err, spool.ErrNotFound) {
		t.Errorf("what is not there: %v", err)
	}
	if _, err := s.Mark(ctx, 1, spool.Mark{Keywords: make([]byte, 129)}); !errors.Is(err, spool.ErrEntry) {
		t.Errorf("too many keywords: %v", err)
	}
	if _, err := s.Mark(ctx, 1, spool.Mark{Keywords: make([]byte, 128)}); err != nil {
		t.Errorf("the most keywords: %v", err)
	}
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := s.Mark(cancelled, 1, spool.Mark{Flags: 1}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	mustMark(t, s, 2, 1, "x")
	l.remove(t, s, 2)
	if _, err := s.Mark(ctx, 2, spool.Mark{Flags: 2}); !errors.Is(err, spool.ErrNotFound) {
		t.Errorf("removed: %v", err)
	}
	answers, err := s.MarkAll(ctx, []spool.Marking{{ID: 3, Mark: spool.Mark{Flags: 1}}, {ID: 2}, {ID: 1, Expect: 5}})
	if !errors.Is(err, spool.ErrNotFound) || answers[0].Err != nil || !answers[0].Changed ||
		!errors.Is(answers[1].Err, spool.ErrNotFound) || !errors.Is(answers[2].Err, spool.ErrChanged) {
		t.Errorf("several: %+v, %v", answers, err)
	}
	s.Close()
	if _, err := s.Mark(ctx, 1, spool.Mark{}); !errors.Is(err, spool.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	ro, err := spool.OpenReadOnly("/spool", l.fs)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ro.Mark(ctx, 1, spool.Mark{}); !errors.Is(err, spool.ErrReadOnly) {
		t.Errorf("read-only: %v", err)
	}
}

// Who marks what they have seen is told when it is another by now.
func TestSpool_MarkIf(t *testing.T) {
	l := newLibrary(t, 3)
	s := open(t, "/spool", l.options)
	seen := mustGet(t, s, 1).Change
	a, err := s.MarkIf(ctx, 1, seen, spool.Mark{Flags: 1})
	if err != nil || !a.Changed {
		t.Fatalf("%+v, %v", a, err)
	}
	for _, expect := range []uint64{seen, a.Change + 1, 0} {
		b, err := s.MarkIf(ctx, 1, expect, spool.Mark{Flags: 2})
		if !errors.Is(err, spool.ErrChanged) || b.Changed || (expect != 0 && b.Change != a.Change) {
			t.Errorf("expecting %d: %+v, %v", expect, b, err)
		}
	}
	if info := mustGet(t, s, 1); info.Mark.Flags != 1 || info.Change != a.Change {
		t.Errorf("%+v", info)
	}

	// Many clients, each of which sets a flag of its own: none is lost.
	var wg sync.WaitGroup
	for bit := range 16 {
		wg.Go(func() {
			for {
				info, err := s.Get(2)
				if err != nil {
					t.Error(err)
					return
				}
				m := spool.Mark{Flags: info.Mark.Flags | 1<<bit, Keywords: append(info.Mark.Keywords, byte(bit))}
				if _, err = s.MarkIf(ctx, 2, info.Change, m); err == nil {
					return
				}
				if !errors.Is(err, spool.ErrChanged) {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if m := mustGet(t, s, 2).Mark; m.Flags != 1<<16-1 || len(m.Keywords) != 16 {
		t.Errorf("marks were lost: %+v", m)
	}
}

// Marks, messages and removals that come during a flush share the next, and each is judged
// by what comes before it there.
func TestSpool_Mark_SharedCommit(t *testing.T) {
	g, s := openGated(t)
	go func() { g.pass(); g.pass() }()
	one, two := mustStore(t, s, box(1), text(1, 100)), mustStore(t, s, box(1), text(2, 100))
	arrived := mustGet(t, s, one.ID).Change
	go s.Mark(ctx, one.ID, spool.Mark{Flags: 64}) // holds the committer
	<-g.entered
	results := make(chan string)
	after := 0
	ask := func(what string, do func() (spool.Marked, error)) {
		go func() {
			m, err := do()
			results <- fmt.Sprintf("%s: %v %v %v", what, m.Changed, errors.Is(err, spool.ErrChanged), errors.Is(err, spool.ErrNotFound))
		}()
		for after++; s.Waiting() < after; {
			runtime.Gosched()
		}
	}
	mark := func(id spool.ID, expect uint64, flags spool.Flags) func() (spool.Marked, error) {
		return func() (spool.Marked, error) {
			a, err := s.MarkAll(ctx, []spool.Marking{{id, spool.Mark{Flags: flags}, expect}})
			return a[0], err
		}
	}
	ask("stale", mark(one.ID, arrived, 4))
	ask("first", mark(one.ID, 0, 1))
	ask("same", mark(one.ID, 0, 1))
	ask("late", mark(one.ID, arrived, 2))
	ask("before removal", mark(two.ID, 0, 1))
	ask("removal", func() (spool.Marked, error) { return spool.Marked{}, s.Remove(ctx, two.ID, "x") })
	ask("after removal", mark(two.ID, 0, 2))
	ask("message", func() (spool.Marked, error) {
		_, err := store(s, box(1), text(3, 100))
		return spool.Marked{Changed: true}, err
	})
	g.leave <- struct{}{}
	<-g.entered
	before := s.Head().Number
	g.leave <- struct{}{}
	var got []string
	for range after {
		got = append(got, <-results)
	}
	slices.Sort(got)
	want := []string{"after removal: false false true", "before removal: true false false", "first: true false false",
		"late: false true false", "message: true false false", "removal: false false false", "same: false false false", "stale: false true false"}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s", strings.Join(got, "\n"))
	}
	if s.Head().Number != before+1 {
		t.Errorf("%d commits", s.Head().Number-before)
	}
	if m := mustGet(t, s, one.ID); m.Mark.Flags != 1 || m.Change>>16 != before+1 {
		t.Errorf("%+v", m)
	}
}

// Whoever stops anywhere and goes on misses nothing; what is newer is all they are told.
func TestSpool_Changes(t *testing.T) {
	l := newLibrary(t, 120)
	var log bytes.Buffer // of tables that were made again
	l.options.Log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn}))
	s := open(t, "/spool", l.options)
	for id := range spool.ID(120) {
		if id%3 == 0 && id > 0 {
			mustMark(t, s, id, spool.Flags(id), strings.Repeat("k", int(id%5)))
		}
	}
	var gone []spool.ID
	for id := spool.ID(7); id < 120; id += 7 {
		gone = append(gone, id)
	}
	l.remove(t, s, gone...)
	for id := spool.ID(6); id < 120; id += 12 {
		if id%7 != 0 {
			mustMark(t, s, id, spool.Flags(id+1), "")
		}
	}
	for range 2 {
		for n := range byte(5) {
			all := changes(t, s, box(1+n), 0)
			if len(all) != 24 {
				t.Errorf("mailbox %d has %d changes:\n%s", n, len(all), strings.Join(all, "\n"))
			}
			after := uint64(0)
			for i := range all {
				if got := changes(t, s, box(1+n), after); !slices.Equal(got, all[i:]) {
					t.Fatalf("after %d: %v, want %v", after, got, all[i:])
				}
				fmt.Sscan(all[i], &after)
			}
			if got := changes(t, s, box(1+n), s.Head().LastChange()); got != nil {
				t.Errorf("after all: %v", got)
			}
		}
		if got := changes(t, s, box(77), 0); got != nil {
			t.Errorf("a mailbox without messages: %v", got)
		}
		if err := s.Compact(ctx); err != nil {
			t.Fatal(err)
		}
	}
	now := s.Head().LastChange()
	st := mustStore(t, s, box(1), []byte("new"))
	mustMark(t, s, st.ID, 3, "w")
	if got := changes(t, s, box(1), now); len(got) != 1 || !strings.Contains(got[0], `flags 3 (seen, answered) "w"`) {
		t.Errorf("%v", got)
	}
	s.Close()
	for _, err := range s.Changes(box(1), 0) {
		if !errors.Is(err, spool.ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
	}
	if log.Len() > 0 {
		t.Errorf("log: %s", &log)
	}
}

// opens counts which index files are opened.
type opens struct {
	durable.FS
	n atomic.Int64
}

func (o *opens) Open(path string) (durable.File, error) {
	if strings.HasSuffix(path, ".idx") {
		o.n.Add(1)
	}
	return o.FS.Open(path)
}

// Looking a mark up, or what is new, does not read the index of every segment.
func TestSpool_Marks_Cheap(t *testing.T) {
	l := newLibrary(t, 400)
	counted := &opens{FS: l.fs}
	l.options.FS = counted
	s := open(t, "/spool", l.options)
	for id := spool.ID(1); id <= 400; id += 2 {
		mustMark(t, s, id, 1, strings.Repeat("k", 128))
	}
	now := s.Head().LastChange()
	mustMark(t, s, 2, 1, "")
	mustStore(t, s, box(2), []byte("last"))
	s.Close()
	s = open(t, "/spool", l.options)
	n := s.Stats().Segments
	if n < 40 {
		t.Fatalf("only %d segments", n)
	}
	counted.n.Store(0)
	for id := spool.ID(1); id <= 200; id++ {
		mustGet(t, s, id)
	}
	// A file for the message, for every other one for the mark, and again for its keywords.
	if got := counted.n.Load(); got > 420 {
		t.Errorf("%d index files were opened for 200 messages", got)
	}
	counted.n.Store(0)
	if got := changes(t, s, box(2), now); len(got) != 2 {
		t.Errorf("%v", got)
	}
	if got := counted.n.Load(); got > 4 {
		t.Errorf("%d index files of %d were opened for what is new", got, n)
	}
}

// An index file of the form before is made again, and nobody has to be told.
func TestIndex_Older(t *testing.T) {
	l := newLibrary(t, 60)
	paths := l.indexFiles(t)
	for _, path := range paths {
		b := contents(t, l.fs, path)
		b[7] = '1'
		spool.RefitIndex(b)
		replace(t, l.fs, path, b)
	}
	var log bytes.Buffer
	l.options.Log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn}))
	s := open(t, "/spool", l.options)
	l.check(t, s)
	s.Close()
	for _, path := range paths {
		if b := contents(t, l.fs, path); string(b[:8]) != "CMTPIDX2" {
			t.Errorf("%s begins with %q", path, b[:8])
		}
	}
	if log.Len() > 0 {
		t.Errorf("log: %s", &log)
	}
}

// Keywords that were damaged are reported and cost no more than themselves; who sets new ones is
// rid of them. The next start goes back to the mark before.
func TestSpool_Mark_Damage(t *testing.T) {
	for _, again := range []bool{false, true} {
		l := newLibrary(t, 60)
		s := open(t, "/spool", l.options)
		mustMark(t, s, 5, 1, "")
		mustMark(t, s, 5, 2, "these are damaged")
		for id := spool.ID(20); id < 60; id++ {
			mustMark(t, s, id, 1, strings.Repeat("k", 128))
		}
		s.Close()
		var path string
		for _, path = range segments(t, l.fs, "/spool") {
			if b := contents(t, l.fs, path); bytes.Contains(b, []byte("these are damaged")) {
				replace(t, l.fs, path, bytes.Replace(b, []byte("these are"), []byte("those are"), 1))
				break
			}
		}
		s = open(t, "/spool", l.options)
		if len(s.Damage()) > 0 {
			t.Fatalf("a start walked an indexed segment: %v", s.Damage())
		}
		info, err := s.Get(5)
		if !errors.Is(err, spool.ErrDamaged) || info.ID != 5 || info.Mark.Flags != 2 || info.Change == 0 {
			t.Errorf("%+v, %v", info, err)
		}
		if data, err := read(s, 5); err != nil || !bytes.Equal(data, l.data[5]) {
			t.Errorf("the message: %v", err)
		}
		seen, damaged := 0, 0
		for c, err := range s.Changes(info.Mailbox, 0) {
			if seen++; err != nil {
				if damaged++; !errors.Is(err, spool.ErrDamaged) || c.ID != 5 {
					t.Errorf("%+v, %v", c, err)
				}
			}
		}
		if seen != 12 || damaged != 1 {
			t.Errorf("%d changes, %d damaged", seen, damaged)
		}
		if d := s.Damage(); len(d) != 1 {
			t.Errorf("damage: %v", d)
		}
		want := spool.Flags(1)
		if again {
			mustMark(t, s, 5, 2, "")
			want = 2
		}
		s.Close()
		s = open(t, "/spool", l.options)
		if info := mustGet(t, s, 5); info.Mark.Flags != want || info.Mark.Keywords != nil {
			t.Errorf("after the next start: %+v", info)
		}
		if d := s.Damage(); len(d) != 1 {
			t.Errorf("damage: %v", d)
		}
		s.Close()
	}
}

// What is lost of a batch does not move the change numbers of the rest.
func TestSpool_Mark_DamagedBatch(t *testing.T) {
	l := newLibrary(t, 60)
	l.options.SegmentSize = 1 << 20
	s := open(t, "/spool", l.options)
	var all []spool.Marking
	for id := spool.ID(1); id <= 20; id++ {
		all = append(all, spool.Marking{ID: id, Mark: spool.Mark{Keywords: fmt.Appendf(nil, "keywords of %d;", id)}})
	}
	answers, err := s.MarkAll(ctx, all)
	if err != nil {
		t.Fatal(err)
	}
	mustMark(t, s, 50, 1, "") // so that the damage is no torn tail
	s.Close()
	lost := 0
	for lost < 18 && answers[lost].Change>>16 != answers[lost+1].Change>>16 {
		lost++
	}
	if answers[lost].Change>>16 != answers[lost+1].Change>>16 {
		t.Fatal("no two marks shared a batch")
	}
	path, words := newest(t, l.fs), all[lost].Mark.Keywords
	replace(t, l.fs, path, bytes.Replace(contents(t, l.fs, path), words, bytes.ToUpper(words), 1))
	s = open(t, "/spool", l.options)
	if d := s.Damage(); len(d) != 1 {
		t.Errorf("damage: %v", d)
	}
	for i, a := range answers {
		if info := mustGet(t, s, all[i].ID); (info.Change == a.Change) != (i != lost) {
			t.Errorf("message %d of %d has change number %d, had %d", i, lost, info.Change, a.Change)
		}
	}
}

func TestFlags_String(t *testing.T) {
	for f, want := range map[spool.Flags]string{0: "0", 1: "1 (seen)", 6: "6 (answered, flagged)", 1 << 31: "2147483648 (bit 31)"} {
		if got := f.String(); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}
