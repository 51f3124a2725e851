package spool_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cmtpd/internal/durable"
	"cmtpd/internal/durable/durabletest"
	"cmtpd/internal/spool"
)

// gate is a file system whose log is flushed only when the test lets it.
type gate struct {
	durable.FS
	entered chan struct{} // a flush of a segment has begun
	leave   chan struct{} // it may end
}

func newGate() *gate {
	return &gate{FS: durabletest.New(), entered: make(chan struct{}), leave: make(chan struct{})}
}

func (g *gate) OpenWrite(path string) (durable.File, error) {
	f, err := g.FS.OpenWrite(path)
	if err == nil && strings.HasSuffix(path, ".seg") {
		f = gatedFile{f, g}
	}
	return f, err
}

type gatedFile struct {
	durable.File
	g *gate
}

func (f gatedFile) Sync() error {
	f.g.entered <- struct{}{}
	<-f.g.leave
	return f.File.Sync()
}

func (g *gate) pass() {
	<-g.entered
	g.leave <- struct{}{}
}

func openGated(t *testing.T) (*gate, *spool.Spool) {
	t.Helper()
	g := newGate()
	o := options(t)
	o.FS = g
	go g.pass() // the commit that introduces the keys
	return g, open(t, "/spool", o)
}

type outcome struct {
	spool.Stored
	error
}

// Those who come while a flush is under way share the next, and none is told anything
// before its own flush has ended.
func TestWriter_SharedCommit(t *testing.T) {
	g, s := openGated(t)
	before := s.Head().Number
	results := make(chan outcome)
	send := func(n int) {
		go func() {
			st, err := store(s, box(1), text(n, 100))
			results <- outcome{st, err}
		}()
	}
	send(0)
	<-g.entered
	const crowd = 50
	for i := range crowd {
		send(1 + i)
	}
	for s.Waiting() < crowd {
		runtime.Gosched()
	}
	select {
	case r := <-results:
		t.Fatalf("acknowledged before the flush: %+v", r)
	default:
	}
	g.leave <- struct{}{}
	if r := <-results; r.error != nil || r.Head.Number != before+1 {
		t.Errorf("the first: %+v", r)
	}
	<-g.entered
	select {
	case r := <-results:
		t.Fatalf("acknowledged before the flush: %+v", r)
	default:
	}
	g.leave <- struct{}{}
	for range crowd {
		if r := <-results; r.error != nil || r.Head.Number != before+2 {
			t.Errorf("one of the crowd: %+v", r)
		}
	}
}

// A message that no batch has taken is withdrawn with its context; one that a batch has is
// answered truly.
func TestWriter_Commit_Context(t *testing.T) {
	g, s := openGated(t)
	results := make(chan outcome)
	taken, cancelTaken := context.WithCancel(ctx)
	queued, cancelQueued := context.WithCancel(ctx)
	send := func(ctx context.Context, n int) {
		w := s.NewWriter()
		w.Write(text(n, 100))
		st, err := w.Commit(ctx, entryOf(box(1), text(n, 100)))
		results <- outcome{st, err}
	}
	go send(taken, 1)
	<-g.entered
	go send(queued, 2)
	for s.Waiting() < 1 {
		runtime.Gosched()
	}
	cancelTaken()
	cancelQueued()
	if r := <-results; !errors.Is(r.error, context.Canceled) {
		t.Errorf("queued: %+v", r)
	}
	g.leave <- struct{}{}
	if r := <-results; r.error != nil || r.ID == 0 {
		t.Errorf("taken: %+v", r)
	}
	if st := s.Stats(); st.Messages != 1 || st.Memory != 0 {
		t.Errorf("%+v", st)
	}
	w := s.NewWriter()
	w.Write([]byte("x"))
	if _, err := w.Commit(queued, entryOf(box(1), []byte("x"))); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled from the beginning: %v", err)
	}
}

// Messages that are submitted share a flush with each other and are told nothing before it; they have
// their numbers in the order of submission, and equal ones are one.
func TestWriter_Submit(t *testing.T) {
	g, s := openGated(t)
	submit := func(n int) *spool.Pending {
		w := s.NewWriter()
		defer w.Abort() // does nothing any more
		w.Write(text(n, 5000))
		p := w.Submit(entryOf(box(1), text(n, 5000)))
		if _, err := w.Write([]byte("x")); !errors.Is(err, spool.ErrDone) {
			t.Errorf("Write after Submit: %v", err)
		}
		if _, err := w.Commit(ctx, entryOf(box(1), text(n, 5000))); !errors.Is(err, spool.ErrDone) {
			t.Errorf("Commit after Submit: %v", err)
		}
		return p
	}
	all := []*spool.Pending{submit(0)}
	<-g.entered
	for _, n := range []int{1, 2, 1, 3, 0} {
		all = append(all, submit(n))
	}
	for i, p := range all {
		if p.Ready() {
			t.Errorf("message %d is ready before its flush", i)
		}
	}
	before := s.Head().Number
	g.leave <- struct{}{}
	first, err := all[0].Wait()
	if err != nil || first.Head.Number != before+1 || all[1].Ready() {
		t.Errorf("the first: %+v, %v; ready behind it: %v", first, err, all[1].Ready())
	}
	g.pass()
	want := []spool.Stored{{ID: first.ID}, {ID: first.ID + 1}, {ID: first.ID + 2}, {ID: first.ID + 1, Duplicate: true}, {ID: first.ID + 3}, {ID: first.ID, Duplicate: true}}
	for i, p := range all {
		st, err := p.Wait()
		if !p.Ready() || err != nil || st.ID != want[i].ID || st.Duplicate != want[i].Duplicate || st.Head.Number > before+2 {
			t.Errorf("message %d: %+v, %v; want %+v", i, st, err, want[i])
		}
	}
	for i, n := range []int{0, 1, 2, 3} {
		if got, err := read(s, first.ID+spool.ID(i)); err != nil || !bytes.Equal(got, text(n, 5000)) {
			t.Errorf("message %d is read as %d bytes, %v", n, len(got), err)
		}
	}
	if st := s.Stats(); st.Messages != 4 || st.Memory != 0 {
		t.Errorf("%+v", st)
	}
}

// What is in a file is stored when Submit returns, and what cannot be stored is refused there.
func TestWriter_Submit_AtOnce(t *testing.T) {
	fsys := durabletest.New()
	o := options(t)
	o.FS, o.MemoryBudget, o.LargeThreshold = fsys, 8<<10, 64<<10
	s := open(t, "/spool", o)
	submit := func(n, size int, e spool.Entry) *spool.Pending {
		w := s.NewWriter()
		w.Write(text(n, size))
		return w.Submit(e)
	}
	for i, size := range []int{20_000, 100_000} { // memory is short; long
		p := submit(i, size, entryOf(box(1), text(i, size)))
		if !p.Ready() || s.Stats().Messages != i+1 {
			t.Errorf("%d bytes are not stored yet", size)
		}
		if st, err := p.Wait(); err != nil || st.ID == 0 {
			t.Errorf("%d bytes: %+v, %v", size, st, err)
		}
	}
	if p := submit(2, 100, spool.Entry{}); !p.Ready() {
		t.Error("without a mailbox it is not refused at once")
	} else if _, err := p.Wait(); !errors.Is(err, spool.ErrEntry) {
		t.Errorf("without a mailbox: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := submit(3, 100, entryOf(box(1), text(3, 100))).Wait(); !errors.Is(err, spool.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	if names, _ := fsys.ReadDir("/spool/tmp"); len(names) != 0 || s.Stats().Memory != 0 {
		t.Errorf("left behind: %v, %d bytes of memory", names, s.Stats().Memory)
	}
}

// Close lets those who wait be stored first.
func TestSpool_Close_Waits(t *testing.T) {
	g, s := openGated(t)
	results := make(chan outcome, 2)
	for i := range 2 {
		go func() {
			st, err := store(s, box(1), text(i, 100))
			results <- outcome{st, err}
		}()
		if i == 0 {
			<-g.entered
		}
	}
	for s.Waiting() < 1 {
		runtime.Gosched()
	}
	closed := make(chan error)
	go func() { closed <- s.Close() }()
	g.leave <- struct{}{}
	g.pass()
	for range 2 {
		if r := <-results; r.error != nil {
			t.Error(r.error)
		}
	}
	if err := <-closed; err != nil {
		t.Error(err)
	}
}

// However many write, memory stays in its budget, and all is stored nonetheless.
func TestWriter_Budget(t *testing.T) {
	fsys := durabletest.New()
	o := options(t)
	o.FS, o.MemoryBudget = fsys, 64<<10
	s := open(t, "/spool", o)
	const writers = 40
	r := rand.New(rand.NewPCG(1, 2))
	want := make([][]byte, writers)
	ws := make([]*spool.Writer, writers)
	for i := range ws {
		want[i] = text(i, r.IntN(300<<10))
		ws[i] = s.NewWriter()
	}
	for step := range 60 { // all of them a little at a time
		for i, w := range ws {
			from := min(step*5003, len(want[i]))
			to := min(from+5003, len(want[i]))
			if _, err := w.Write(want[i][from:to]); err != nil {
				t.Fatal(err)
			}
		}
		if got := s.Stats().Memory; got > o.MemoryBudget {
			t.Fatalf("%d bytes of %d are taken", got, o.MemoryBudget)
		}
	}
	for i, w := range ws {
		st, err := w.Commit(ctx, entryOf(box(1), want[i]))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := read(s, st.ID); err != nil || !bytes.Equal(got, want[i]) {
			t.Fatalf("message %d: %d bytes, %v", i, len(got), err)
		}
	}
	if got := s.Stats().Memory; got != 0 {
		t.Errorf("%d bytes were not given back", got)
	}
	if names, err := fsys.ReadDir("/spool/tmp"); err != nil || len(names) != 0 {
		t.Errorf("left behind: %v, %v", names, err)
	}
}

// A long message takes no more memory than one chunk.
func TestWriter_ConstantMemory(t *testing.T) {
	s := open(t, t.TempDir(), options(t))
	w := s.NewWriter()
	piece := bytes.Repeat([]byte("0123456789abcdef"), 1<<12)
	sum := 0
	for range 64 << 20 / len(piece) {
		n, err := w.Write(piece)
		if err != nil {
			t.Fatal(err)
		}
		if sum += n; sum >= 1<<20 && s.Stats().Memory > 64<<10 {
			t.Fatalf("%d bytes in memory", s.Stats().Memory)
		}
	}
	st, err := w.Commit(ctx, entryOf(box(1), []byte("long")))
	if err != nil {
		t.Fatal(err)
	}
	r, err := s.Open(st.ID)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	n, err := io.Copy(io.Discard, r)
	if n != 64<<20 || n != r.Size() || err != nil {
		t.Errorf("%d bytes, %v", n, err)
	}
	part := make([]byte, 20)
	if _, err := r.ReadAt(part, 32<<20); err != nil || !bytes.Equal(part, piece[:20]) {
		t.Errorf("ReadAt: %q, %v", part, err)
	}
}

func TestWriter_Finished(t *testing.T) {
	s := open(t, t.TempDir(), options(t))
	w := s.NewWriter()
	w.Write([]byte("x"))
	if _, err := w.Commit(ctx, entryOf(box(1), []byte("x"))); err != nil {
		t.Fatal(err)
	}
	w.Abort()
	if _, err := w.Write([]byte("y")); !errors.Is(err, spool.ErrDone) {
		t.Errorf("Write after Commit: %v", err)
	}
	if _, err := w.Commit(ctx, entryOf(box(1), []byte("x"))); !errors.Is(err, spool.ErrDone) {
		t.Errorf("Commit twice: %v", err)
	}
	if got := s.Stats().Messages; got != 1 {
		t.Errorf("%d messages", got)
	}
}

func TestWriter_Entry(t *testing.T) {
	now := time.Unix(1700000000, 5).UTC()
	o := options(t)
	o.Now = func() time.Time { return now }
	s := open(t, t.TempDir(), o)
	tests := []struct {
		name  string
		entry spool.Entry
		want  error
	}{
		{"no mailbox", spool.Entry{}, spool.ErrEntry},
		{"longest From", spool.Entry{Mailbox: box(1), From: strings.Repeat("x", 255)}, nil},
		{"too long From", spool.Entry{Mailbox: box(2), From: strings.Repeat("x", 256)}, spool.ErrEntry},
	}
	for _, tt := range tests {
		w := s.NewWriter()
		st, err := w.Commit(ctx, tt.entry)
		if !errors.Is(err, tt.want) {
			t.Errorf("%s: %v", tt.name, err)
		}
		if err != nil {
			continue
		}
		info, err := s.Get(st.ID)
		if err != nil || info.From != tt.entry.From || !info.Received.Equal(now) {
			t.Errorf("%s: %+v, %v", tt.name, info, err)
		}
	}
}

// A disk that is full while a message arrives costs that message and no other.
func TestWriter_DiskFull(t *testing.T) {
	fsys := durabletest.New()
	o := options(t)
	o.FS = fsys
	s := open(t, "/spool", o)
	fsys.Inject(func(c durabletest.Call) durabletest.Fault {
		if c.Op == "write" && strings.Contains(c.Path, "/tmp/") {
			return durabletest.Short
		}
		return durabletest.None
	})
	if _, err := store(s, box(1), text(1, 1<<20)); err == nil {
		t.Error("stored on a full disk")
	}
	mustStore(t, s, box(1), text(2, 100))
	fsys.Inject(nil)
	mustStore(t, s, box(1), text(1, 1<<20))
	if st := s.Stats(); st.Messages != 2 || st.Failed || st.Memory != 0 {
		t.Errorf("%+v", st)
	}
	if names, _ := fsys.ReadDir("/spool/tmp"); len(names) != 0 {
		t.Errorf("left behind: %v", names)
	}
}

// Many write, read and list at once, beside a reader of the same files.
func TestSpool_Beside(t *testing.T) {
	dir := t.TempDir()
	o := options(t)
	o.SegmentSize, o.LargeThreshold = 32<<10, 5000
	s := open(t, dir, o)
	var wg sync.WaitGroup
	defer wg.Wait()
	var acked atomic.Int64
	for i := range 8 {
		wg.Go(func() {
			for j := range 30 {
				if _, err := store(s, box(byte(1+i)), text(i*1000+j, 100+(i*j*37)%6000)); err != nil {
					t.Error(err)
				}
				acked.Add(1)
			}
		})
	}
	for n := 0; n < 8*30; {
		before := int(acked.Load())
		ro, err := spool.OpenReadOnly(dir, durable.OS)
		if err != nil || len(ro.Damage()) > 0 {
			t.Fatal(err, ro.Damage())
		}
		n = 0
		for i := range 8 {
			for info, err := range ro.List(box(byte(1+i)), 0) {
				if err != nil || info.Mailbox != box(byte(1+i)) {
					t.Fatal(info, err)
				}
				n++
			}
		}
		if n < before {
			t.Fatalf("%d messages are shown, %d were acknowledged before", n, before)
		}
	}
}

// Flushed tells of every commit once, whoever waits for it, and of none whose flush has failed.
func TestSpool_Flushed(t *testing.T) {
	fsys := durabletest.New()
	o := faultOptions(t, fsys, true)
	var commits, records atomic.Int64
	o.Flushed = func(n int, took time.Duration) {
		commits.Add(1)
		records.Add(int64(n))
		if took < 0 {
			t.Errorf("it took %v", took)
		}
	}
	s := open(t, "/spool", o)
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() { mustStore(t, s, box(1), text(i, 100)) })
	}
	wg.Wait()
	if n := s.Head().Number; commits.Load() != int64(n) || records.Load() != 21 { // the keys are a record, too
		t.Errorf("%d commits and %d records were told of %d", commits.Load(), records.Load(), n)
	}
	fsys.Inject(func(c durabletest.Call) durabletest.Fault {
		if c.Op == "sync" {
			return durabletest.Before
		}
		return durabletest.None
	})
	if _, err := store(s, box(1), text(99, 100)); !errors.Is(err, spool.ErrFailed) || commits.Load() != int64(s.Head().Number) {
		t.Errorf("after a failed flush: %v, %d commits", err, commits.Load())
	}
}
