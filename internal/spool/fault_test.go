package spool_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"cmtpd/internal/durable/durabletest"
	"cmtpd/internal/spool"
)

// trial runs a workload on a file system that fails, and remembers what it was told.
type trial struct {
	mu    sync.Mutex
	tried map[string]bool
	acked map[string]spool.ID
	taken map[string]bool        // whose removal was tried: they may be there or not
	gone  map[string]bool        // whose removal was acknowledged
	wants map[string]spool.Flags // that were tried last
	marks map[string]spool.Info  // as they were acknowledged last
	head  spool.Head
	short bool  // of memory
	bad   error // a promise that was broken
}

func newTrial() *trial {
	return &trial{tried: make(map[string]bool), acked: make(map[string]spool.ID),
		taken: make(map[string]bool), gone: make(map[string]bool),
		wants: make(map[string]spool.Flags), marks: make(map[string]spool.Info)}
}

func (tr *trial) store(s *spool.Spool, data []byte) {
	tr.mu.Lock()
	tr.tried[string(data)] = true
	tr.mu.Unlock()
	failed := s.Stats().Failed
	st, err := store(s, box(1), data)
	tr.mu.Lock()
	defer tr.mu.Unlock()
	if err != nil {
		return
	}
	if failed {
		tr.bad = errors.New("a message was acknowledged after a failure")
	}
	if id, ok := tr.acked[string(data)]; ok && id != st.ID {
		tr.bad = fmt.Errorf("message %s was stored again as %s", id, st.ID)
	}
	tr.acked[string(data)] = st.ID
	if st.Head.Number > tr.head.Number {
		tr.head = st.Head
	}
}

// remove removes a message that was stored, if it was.
func (tr *trial) remove(s *spool.Spool, data []byte) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	id, ok := tr.acked[string(data)]
	if !ok {
		return
	}
	delete(tr.acked, string(data))
	tr.taken[string(data)] = true
	failed := s.Stats().Failed
	if err := s.Remove(context.Background(), id, "admin"); err != nil {
		return
	}
	if failed {
		tr.bad = errors.New("a removal was acknowledged after a failure")
	}
	tr.gone[string(data)] = true
	if _, err := s.Get(id); !errors.Is(err, spool.ErrNotFound) {
		tr.bad = fmt.Errorf("removed message %s: %v", id, err)
	}
	tr.head = s.Head()
}

// mark marks a message that was stored, if it was.
func (tr *trial) mark(s *spool.Spool, data []byte, flags spool.Flags) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	id, ok := tr.acked[string(data)]
	if !ok {
		return
	}
	failed := s.Stats().Failed
	if !failed {
		tr.wants[string(data)] = flags
	}
	a, err := s.Mark(context.Background(), id, spool.Mark{Flags: flags, Keywords: []byte(flags.String())})
	if err != nil {
		return
	}
	if failed {
		tr.bad = errors.New("a mark was acknowledged after a failure")
	}
	info, err := s.Get(id)
	if err != nil || info.Mark.Flags != flags || info.Change != a.Change {
		tr.bad = fmt.Errorf("marked as %+v: %+v, %v", a, info, err)
	}
	tr.marks[string(data)] = info
	tr.head = s.Head()
}

// checkMark holds a message's mark to what was acknowledged, or tried since.
func (tr *trial) checkMark(s *spool.Spool, data string, info spool.Info) error {
	last := tr.marks[data]
	if info.Change == last.Change && info.Mark.Flags == last.Mark.Flags && bytes.Equal(info.Mark.Keywords, last.Mark.Keywords) {
		return nil
	}
	if info.Mark.Flags == 0 && last.Change == 0 {
		return nil
	}
	if info.Change <= last.Change || info.Mark.Flags != tr.wants[data] || string(info.Mark.Keywords) != info.Mark.Flags.String() {
		return fmt.Errorf("message %s has the mark %+v of %d, not %+v of %d", info.ID, info.Mark, info.Change, last.Mark, last.Change)
	}
	tr.marks[data] = info // what is shown now counts as acknowledged
	return nil
}

// checkChanges holds the list of changes to what the messages say.
func (tr *trial) checkChanges(s *spool.Spool, found map[string]spool.ID) error {
	listed := 0
	for c, err := range s.Changes(box(1), 0) {
		if err != nil {
			return err
		}
		info, err := s.Get(c.ID)
		if c.Removed && errors.Is(err, spool.ErrNotFound) {
			continue
		}
		if listed++; c.Removed || err != nil || info.Change != c.Number || info.Mark.Flags != c.Mark.Flags || !bytes.Equal(info.Mark.Keywords, c.Mark.Keywords) {
			return fmt.Errorf("change %+v of message %+v, %v", c, info, err)
		}
	}
	if listed != len(found) {
		return fmt.Errorf("%d messages have changes, %d are there", listed, len(found))
	}
	return nil
}

// faultOptions make a small workload pass through every path: several segments, large files,
// and, where memory is short, messages that wait on disk.
func faultOptions(tb testing.TB, fsys *durabletest.FS, short bool) spool.Options {
	o := options(tb)
	o.FS, o.SegmentSize, o.LargeThreshold, o.MemoryBudget = fsys, 4<<10, 2000, 4<<10
	if !short {
		o.MemoryBudget = 1 << 20
	}
	o.NoSpare = false
	o.CompactRate = -1 // when the workload says
	return o
}

// rollOver stores until a segment has begun, unless that fails.
func (tr *trial) rollOver(s *spool.Spool, n int) {
	for i, before := n, s.Stats().Segments; i < n+10 && s.Stats().Segments == before; i++ {
		tr.store(s, text(i, 900))
	}
}

// workload opens a spool, stores, and closes it, and goes on after errors.
func (tr *trial) workload(tb testing.TB, fsys *durabletest.FS) {
	s, err := spool.Open("/spool", faultOptions(tb, fsys, tr.short))
	if err != nil {
		return
	}
	for i, size := range []int{10, 1500, 3000, 1000, 10, 0, 5000} {
		tr.store(s, text(i, size))
	}
	tr.store(s, text(1, 1500)) // duplicates
	tr.store(s, text(2, 3000))
	given := s.NewWriter()
	given.Write(text(7, 2500))
	given.Abort()
	var wg sync.WaitGroup
	for i := range 6 {
		wg.Go(func() { tr.store(s, text(10+i/2, 600+400*i)) })
	}
	wg.Wait()
	hold := s.NewWriter() // takes the whole budget, so that the next has to wait on disk
	hold.Write(text(8, 100))
	tr.store(s, text(9, 1200))
	hold.Abort()
	for i, size := range []int{10, 1500, 3000, 1000} {
		tr.mark(s, text(i, size), 1)
	}
	tr.mark(s, text(1, 1500), 3)
	for _, i := range []int{0, 2, 3, 5, 9} {
		size := map[int]int{0: 10, 2: 3000, 3: 1000, 5: 0, 9: 1200}[i]
		tr.remove(s, text(i, size))
	}
	tr.rollOver(s, 30)
	for i := range 4 {
		tr.remove(s, text(30+i, 900))
	}
	tr.rollOver(s, 40)
	s.DropSpare()
	s.Compact(context.Background())
	tr.rollOver(s, 50) // into what was recycled
	tr.store(s, text(20, 2500))
	tr.remove(s, text(1, 1500))
	tr.mark(s, text(1, 1500), 7)
	tr.mark(s, text(6, 5000), 2)
	tr.mark(s, text(4, 10), 1)
	tr.remove(s, text(6, 5000))
	s.Compact(context.Background())
	s.Close()
}

// checkMessages holds what is served to what was tried and acknowledged.
func (tr *trial) checkMessages(s *spool.Spool) (found map[string]spool.ID, large int, err error) {
	found = make(map[string]spool.ID)
	for info, err := range s.All(0) {
		if err != nil {
			return nil, 0, err
		}
		data, err := read(s, info.ID)
		if err != nil {
			return nil, 0, err
		}
		if !tr.tried[string(data)] {
			return nil, 0, fmt.Errorf("message %s was never sent: %.40q", info.ID, data)
		}
		if tr.gone[string(data)] {
			return nil, 0, fmt.Errorf("message %s was removed", info.ID)
		}
		if err := tr.checkMark(s, string(data), info); err != nil {
			return nil, 0, err
		}
		if _, ok := found[string(data)]; ok {
			return nil, 0, fmt.Errorf("message %s is there twice", info.ID)
		}
		if found[string(data)] = info.ID; info.Large {
			large++
		}
	}
	return found, large, nil
}

// check opens the spool after a fault and holds it to its promises.
func (tr *trial) check(tb testing.TB, fsys *durabletest.FS) error {
	if tr.bad != nil {
		return tr.bad
	}
	o := faultOptions(tb, fsys, tr.short)
	s, err := spool.Open("/spool", o)
	if err != nil {
		return err
	}
	defer s.Close()
	if d := s.Damage(); len(d) > 0 {
		return fmt.Errorf("damage: %v", d)
	}
	found, large, err := tr.checkMessages(s)
	if err != nil {
		return err
	}
	for data, id := range tr.acked {
		if got, ok := found[data]; !ok || got != id {
			return fmt.Errorf("acknowledged message %s is now %s, %v", id, got, ok)
		}
	}
	if err := tr.checkChanges(s, found); err != nil {
		return err
	}
	for dir, want := range map[string]int{"/spool/tmp": 0, "/spool/large": large} {
		if names, err := fsys.ReadDir(dir); err != nil || len(names) != want {
			return fmt.Errorf("%s holds %d files instead of %d: %v", dir, len(names), want, err)
		}
	}
	var want []spool.Head
	if tr.head.Number > 0 {
		want = append(want, tr.head)
	}
	report, err := spool.Verify(context.Background(), fsys, "/spool", o.Identity.Public(), nil, want...)
	if err := errors.Join(err, report.Err()); err != nil {
		return err
	}
	for data, id := range found { // what is shown now counts as acknowledged
		tr.acked[data] = id
	}
	tr.store(s, text(99, 50))
	if _, ok := tr.acked[string(text(99, 50))]; !ok {
		return errors.New("the spool takes no message after recovery")
	}
	return tr.bad
}

// TestSpool_Faults fails every durable call of the workload in turn, before and after it
// took effect and halfway, then ends the process or the machine, then both.
func TestSpool_Faults(t *testing.T) {
	total, recycled, seeds := 0, 0, uint64(4)
	if raceEnabled {
		seeds = 1
	}
	for _, fault := range []durabletest.Fault{durabletest.Before, durabletest.After, durabletest.Short} {
		for n := 1; ; n++ {
			reached := false
			for seed := range seeds {
				fsys := durabletest.New()
				again := false
				fsys.Inject(func(c durabletest.Call) durabletest.Fault {
					again = again || recycles(c)
					if c.N != n {
						return durabletest.None
					}
					reached = true
					return fault
				})
				tr := newTrial()
				tr.short = (n+int(seed))%2 == 0
				tr.workload(t, fsys)
				var r *rand.Rand
				if seed > 1 {
					r = rand.New(rand.NewPCG(seed, uint64(n)))
				}
				if seed == 0 {
					fsys = fsys.Kill()
				} else {
					fsys = fsys.Crash(r)
				}
				if again {
					recycled++
				}
				for i := range 2 {
					if err := tr.check(t, fsys); err != nil {
						t.Fatalf("call %d, fault %d, seed %d, start %d: %v", n, fault, seed, i+1, err)
					}
					fsys = fsys.Crash(r)
				}
			}
			if !reached {
				break
			}
			total++
		}
	}
	if total < 150 {
		t.Errorf("only %d faults: the workload has shrunk", total)
	}
	if recycled < total*int(seeds)/4 { // not always: it depends on how far the spare is
		t.Errorf("only %d workloads recycled a file", recycled)
	}
	t.Logf("%d faults, %d workloads recycled", total, recycled)
}

// TestSpool_FaultsAtOpen fails every durable call of a recovery.
func TestSpool_FaultsAtOpen(t *testing.T) {
	for _, fault := range []durabletest.Fault{durabletest.Before, durabletest.After} {
		for n := 1; ; n++ {
			fsys := durabletest.New()
			tr := newTrial()
			tr.workload(t, fsys)
			// A torn tail and leftovers make recovery do all that it can.
			fsys = fsys.Kill()
			leave(t, fsys, "/spool/tmp/rest", "/spool/large/00000000000000000000000000000000")
			appendTo(t, fsys, newest(t, fsys), []byte("torn"))
			fsys = fsys.Kill()
			first, reached := fsys.Calls(), false
			fsys.Inject(func(c durabletest.Call) durabletest.Fault {
				if c.N != first+n {
					return durabletest.None
				}
				reached = true
				return fault
			})
			if s, err := spool.Open("/spool", faultOptions(t, fsys, true)); err == nil {
				s.Close()
			}
			after := fsys.Crash(rand.New(rand.NewPCG(uint64(n), 0)))
			if err := tr.check(t, after); err != nil {
				t.Fatalf("call %d, fault %d: %v", n, fault, err)
			}
			if !reached {
				break
			}
		}
	}
}

// TestSpool_PowerCuts has many write at once, cuts the power at a random call, and goes on with
// what is left, again and again.
func TestSpool_PowerCuts(t *testing.T) {
	for seed := range uint64(8) {
		r := rand.New(rand.NewPCG(seed, 7))
		fsys := durabletest.New()
		tr := newTrial()
		for round := range 12 {
			at := fsys.Calls() + 1 + r.IntN(60)
			fsys.Inject(func(c durabletest.Call) durabletest.Fault {
				if c.N < at {
					return durabletest.None
				}
				return durabletest.Before // and so does every call that follows
			})
			if s, err := spool.Open("/spool", faultOptions(t, fsys, true)); err == nil {
				var wg sync.WaitGroup
				for range 8 {
					n, m := r.IntN(200), r.IntN(200)
					wg.Go(func() {
						tr.store(s, text(n, 10+n*17))
						tr.store(s, text(m, 10+m*17))
						tr.mark(s, text(n, 10+n*17), spool.Flags(m))
					})
				}
				wg.Wait()
				s.Close()
			}
			fsys = fsys.Crash(r)
			if err := tr.check(t, fsys); err != nil {
				t.Fatalf("seed %d, round %d: %v", seed, round, err)
			}
			fsys = fsys.Kill()
		}
	}
}

// TestSpool_TornTail cuts the last batch at every length, as a crash may.
func TestSpool_TornTail(t *testing.T) {
	fsys := durabletest.New()
	o := faultOptions(t, fsys, true)
	o.SegmentSize = 1 << 20
	s := open(t, "/spool", o)
	first := mustStore(t, s, box(1), text(1, 300))
	path := newest(t, fsys)
	before := size(t, fsys, path)
	mustStore(t, s, box(1), text(2, 300))
	s.Close()
	whole := contents(t, fsys, path)
	for n := before; n < int64(len(whole)); n++ {
		for _, tail := range [][]byte{nil, bytes.Repeat([]byte{0}, 100)} {
			replace(t, fsys, path, append(whole[:n:n], tail...))
			s, err := spool.Open("/spool", o)
			if err != nil {
				t.Fatal(err)
			}
			if got := s.Stats(); got.Messages != 1 || got.Damage != 0 || got.Head != first.Head {
				t.Fatalf("cut at %d: %+v, %v", n, got, s.Damage())
			}
			s.Close()
			// What does not mention the segment may as well have been written ahead.
			if got := size(t, fsys, path); got != before && mentions(t, fsys, path, before) {
				t.Fatalf("cut at %d: %d bytes are left, not %d", n, got, before)
			}
		}
	}
}
