package spool_test

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"cmtpd/internal/durable/durabletest"
	"cmtpd/internal/spool"
)

// model is what a spool ought to hold: a list.
type model struct {
	fs       *durabletest.FS
	options  spool.Options
	spool    *spool.Spool
	messages []modelMessage // by ascending number
	removed  []modelMessage // with the change numbers of their removals
	change   uint64         // the highest so far
	top      spool.ID
	heads    []spool.Head // of acknowledgements
	recycled *int         // files
	usage    map[spool.MailboxID]*spool.Usage
}

type modelMessage struct {
	id       spool.ID
	box      spool.MailboxID
	data     string
	flags    spool.Flags
	keywords string
	change   uint64
	arrived  uint64
}

// newer takes a change number, which must be higher than all before.
func (m *model) newer(t *rapid.T, change uint64) uint64 {
	if change <= m.change {
		t.Fatalf("change number %d after %d", change, m.change)
	}
	m.change = change
	return change
}

func (m *model) open(t *rapid.T) {
	m.options.FS = m.fs
	m.fs.Inject(m.watch)
	m.options.Changed = m.changed
	s, err := spool.Open("/spool", m.options)
	if err != nil {
		t.Fatal(err)
	}
	m.spool = s
	m.usage = make(map[spool.MailboxID]*spool.Usage)
	for _, b := range []spool.MailboxID{box(1), box(2), box(3)} {
		u, err := s.Usage(b)
		if err != nil || u.Commit != s.Head().Number {
			t.Fatalf("%+v, %v", u, err)
		}
		m.usage[b] = &u
	}
}

// changed keeps count of what Usage has told at the start.
func (m *model) changed(commit uint64, boxes []spool.BoxChange) {
	for _, c := range boxes {
		if u := m.usage[c.Mailbox]; u != nil && commit > u.Commit {
			u.Messages, u.Bytes, u.Commit = u.Messages+c.Messages, u.Bytes+c.Bytes, commit
		}
	}
}

// checkBox lists a mailbox backwards from each of its messages, and counts it.
func (m *model) checkBox(t *rapid.T, b spool.MailboxID) {
	var mine []modelMessage
	var size int64
	for _, x := range m.messages {
		if x.box == b {
			mine, size = append(mine, x), size+int64(len(x.data))
		}
	}
	before := spool.ID(1 << 63)
	for i := len(mine); i >= 0; i-- {
		want := slices.Clone(mine[:i])
		for info, err := range m.spool.ListStarts(b, before, true, 60) {
			k := len(want) - 1
			if err != nil || k < 0 || info.ID != want[k].id || string(info.Start) != want[k].data[:min(60, len(want[k].data))] {
				t.Fatalf("below %s: %+v, %v", before, info, err)
			}
			want = want[:k]
		}
		if len(want) > 0 {
			t.Fatalf("below %s: %d messages are missing", before, len(want))
		}
		if i > 0 {
			before = mine[i-1].id
		}
	}
	counted, err := m.spool.Usage(b)
	kept := m.usage[b]
	if err != nil || counted.Messages != len(mine) || counted.Bytes != size || kept.Messages != len(mine) || kept.Bytes != size {
		t.Fatalf("usage of %s: counted %+v, kept %+v, want %d messages of %d bytes, %v", b, counted, *kept, len(mine), size, err)
	}
}

// watch counts, and lets all go well.
func (m *model) watch(c durabletest.Call) durabletest.Fault {
	if recycles(c) {
		*m.recycled++
	}
	return durabletest.None
}

func (m *model) store(t *rapid.T) {
	n, size := rapid.IntRange(0, 40).Draw(t, "n"), rapid.SampledFrom([]int{0, 1, 50, 700, 2000}).Draw(t, "size")
	data := fmt.Sprintf("%d %s", n, text(n, size))
	m.put(t, box(byte(rapid.IntRange(1, 3).Draw(t, "box"))), data)
}

func (m *model) put(t *rapid.T, b spool.MailboxID, data string) {
	st, err := store(m.spool, b, []byte(data))
	if err != nil {
		t.Fatal(err)
	}
	m.heads = append(m.heads, st.Head)
	i := slices.IndexFunc(m.messages, func(x modelMessage) bool { return x.box == b && x.data == data })
	if (i >= 0) != st.Duplicate || (i >= 0 && m.messages[i].id != st.ID) {
		t.Fatalf("%+v, want it to be number %d", st, i)
	}
	if st.Duplicate {
		return
	}
	if st.ID <= m.top {
		t.Fatalf("number %s after %s", st.ID, m.top)
	}
	m.top = st.ID
	info, err := m.spool.Get(st.ID)
	if err != nil {
		t.Fatal(err)
	}
	m.newer(t, info.Change)
	m.messages = append(m.messages, modelMessage{id: st.ID, box: b, data: data, change: m.change, arrived: m.change})
}

func (m *model) mark(t *rapid.T) {
	q := spool.Marking{ID: spool.ID(rapid.Uint64Range(1, uint64(m.top)+2).Draw(t, "id"))}
	q.Mark.Flags = spool.Flags(rapid.Uint32Range(0, 3).Draw(t, "flags"))
	keywords := rapid.SampledFrom([]string{"", "a", string(text(1, 128))}).Draw(t, "keywords")
	q.Mark.Keywords = []byte(keywords)
	i := slices.IndexFunc(m.messages, func(x modelMessage) bool { return x.id == q.ID })
	expect := rapid.SampledFrom([]string{"anything", "what is", "what was"}).Draw(t, "expect")
	if i >= 0 && expect != "anything" {
		if q.Expect = m.messages[i].change; expect == "what was" {
			q.Expect--
		}
	}
	head := m.spool.Head()
	answers, err := m.spool.MarkAll(ctx, []spool.Marking{q})
	got := answers[0]
	if i < 0 {
		if !errors.Is(err, spool.ErrNotFound) {
			t.Fatalf("Mark of nothing: %+v, %v", got, err)
		}
		return
	}
	x := &m.messages[i]
	if expect == "what was" {
		if !errors.Is(err, spool.ErrChanged) || got.Change != x.change || m.spool.Head() != head {
			t.Fatalf("%+v, %v, but the change number is %d", got, err, x.change)
		}
		return
	}
	if err != nil || got.Changed != (x.flags != q.Mark.Flags || x.keywords != keywords) {
		t.Fatalf("%+v, %v, and it was %+v", got, err, *x)
	}
	if !got.Changed {
		if got.Change != x.change || m.spool.Head() != head {
			t.Fatalf("%+v wrote something", got)
		}
		return
	}
	x.flags, x.keywords, x.change = q.Mark.Flags, keywords, m.newer(t, got.Change)
	m.heads = append(m.heads, m.spool.Head())
}

// markMany marks all there is, in batches of as many as come together.
func (m *model) markMany(t *rapid.T) {
	flags := spool.Flags(rapid.Uint32Range(0, 3).Draw(t, "flags"))
	var all []spool.Marking
	for _, x := range m.messages {
		all = append(all, spool.Marking{ID: x.id, Mark: spool.Mark{Flags: flags, Keywords: []byte(x.keywords)}, Expect: x.change})
	}
	answers, err := m.spool.MarkAll(ctx, all)
	if err != nil {
		t.Fatal(err)
	}
	for i, a := range answers {
		x := &m.messages[i]
		if a.Changed != (x.flags != flags) {
			t.Fatalf("%+v, and it was %+v", a, *x)
		}
		if a.Changed {
			x.flags, x.change = flags, m.newer(t, a.Change)
		}
	}
	m.heads = append(m.heads, m.spool.Head())
}

func (m *model) remove(t *rapid.T) {
	m.takeAway(t, spool.ID(rapid.Uint64Range(1, uint64(m.top)+2).Draw(t, "id")))
}

func (m *model) takeAway(t *rapid.T, id spool.ID) {
	err := m.spool.Remove(ctx, id, "model")
	i := slices.IndexFunc(m.messages, func(x modelMessage) bool { return x.id == id })
	if i < 0 {
		if !errors.Is(err, spool.ErrNotFound) {
			t.Fatalf("Remove of nothing: %v", err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	x := m.messages[i]
	m.messages = slices.Delete(m.messages, i, i+1)
	for c, err := range m.spool.Changes(x.box, m.change) {
		if err != nil || c.ID != id || !c.Removed {
			t.Fatalf("after the removal: %+v, %v", c, err)
		}
		m.removed = append(m.removed, modelMessage{id: id, box: x.box, change: m.newer(t, c.Number)})
	}
	m.heads = append(m.heads, m.spool.Head())
}

// expire removes the oldest messages, begins a segment, and compacts.
func (m *model) expire(t *rapid.T) {
	for range rapid.IntRange(0, len(m.messages)).Draw(t, "messages") {
		m.takeAway(t, m.messages[0].id)
	}
	for before := m.spool.Stats().Segments; m.spool.Stats().Segments == before; { // its spare is short
		m.put(t, box(1), fmt.Sprintf("expire %d %s", m.top, text(1, 700)))
	}
	m.compact(t)
}

func (m *model) compact(t *rapid.T) {
	if err := m.spool.Compact(ctx); err != nil {
		t.Fatal(err)
	}
}

func (m *model) reopen(t *rapid.T) {
	if err := m.spool.Close(); err != nil {
		t.Fatal(err)
	}
	if rapid.Bool().Draw(t, "without an index") {
		names, err := m.fs.ReadDir("/spool/index")
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			if rapid.Bool().Draw(t, name) {
				if err := m.fs.Remove("/spool/index/" + name); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	m.open(t)
}

// crash ends the process or the machine, perhaps in the middle of a compaction.
func (m *model) crash(t *rapid.T) {
	if n := rapid.IntRange(0, 30).Draw(t, "calls before"); n > 0 {
		first := m.fs.Calls()
		m.fs.Inject(func(c durabletest.Call) durabletest.Fault {
			if c.N < first+n {
				return durabletest.None
			}
			return durabletest.Before
		})
		m.spool.Compact(ctx) // it may fail, and must not harm
	}
	after := m.fs.Kill
	if rapid.Bool().Draw(t, "power") {
		var r *rand.Rand
		if seed := rapid.Uint64().Draw(t, "seed"); seed > 0 {
			r = rand.New(rand.NewPCG(seed, 1))
		}
		after = func() *durabletest.FS { return m.fs.Crash(r) }
	}
	old := m.spool
	m.fs = after()
	old.Close()
	m.open(t)
}

func (m *model) check(t *rapid.T) {
	var got []modelMessage
	for info, err := range m.spool.All(0) {
		if err != nil {
			t.Fatal(err)
		}
		data, err := read(m.spool, info.ID)
		if err != nil {
			t.Fatal(err)
		}
		x := modelMessage{id: info.ID, box: info.Mailbox, data: string(data),
			flags: info.Mark.Flags, keywords: string(info.Mark.Keywords), change: info.Change}
		if i := len(got); i < len(m.messages) {
			x.arrived = m.messages[i].arrived // told by changes alone
		}
		got = append(got, x)
	}
	if !slices.Equal(got, m.messages) {
		t.Fatalf("the spool has %d messages, the model %d: %.200q, %.200q", len(got), len(m.messages), fmt.Sprint(got), fmt.Sprint(m.messages))
	}
	for _, b := range []spool.MailboxID{box(1), box(2), box(3)} {
		m.checkChanges(t, b)
		m.checkBox(t, b)
	}
	for _, b := range []spool.MailboxID{box(1), box(2), box(3)} {
		i := 0
		for info, err := range m.spool.List(b, 0) {
			for i < len(got) && got[i].box != b {
				i++
			}
			if err != nil || i == len(got) || info.ID != got[i].id {
				t.Fatalf("list of %s: %v, %v", b, info, err)
			}
			i++
		}
	}
	if st := m.spool.Stats(); st.Messages != len(got) || st.Damage != 0 {
		t.Fatalf("%+v, %v", st, m.spool.Damage())
	}
	r, err := spool.Verify(ctx, m.fs, "/spool", m.options.Identity.Public(), nil, m.heads...)
	if err := errors.Join(err, r.Err()); err != nil {
		t.Fatal(err)
	}
	if r.Removed != uint64(len(m.removed)) {
		t.Fatalf("the chain has %d removals, the model %d", r.Removed, len(m.removed))
	}
}

// checkChanges asks for a mailbox's changes after each change number.
func (m *model) checkChanges(t *rapid.T, b spool.MailboxID) {
	var want []spool.Change
	for _, x := range m.messages {
		if x.box == b {
			want = append(want, spool.Change{Number: x.change, ID: x.id, Arrived: x.arrived, Mark: spool.Mark{Flags: x.flags, Keywords: []byte(x.keywords)}})
		}
	}
	for _, x := range m.removed {
		if x.box == b {
			want = append(want, spool.Change{Number: x.change, ID: x.id, Removed: true})
		}
	}
	slices.SortFunc(want, func(a, b spool.Change) int { return cmp.Compare(a.Number, b.Number) })
	for i, after := 0, uint64(0); i <= len(want); i++ {
		var got []spool.Change
		for c, err := range m.spool.Changes(b, after) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, c)
		}
		if fmt.Sprint(got) != fmt.Sprint(want[i:]) {
			t.Fatalf("changes of %s after %d: %.200v, want %.200v", b, after, got, want[i:])
		}
		if i < len(want) {
			after = want[i].Number
		}
	}
}

// TestSpool_Model does at random what can be done to a spool, and holds it to a list.
func TestSpool_Model(t *testing.T) {
	o := options(t)
	o.SegmentSize, o.LargeThreshold, o.CompactRate = 4<<10, 1500, -1
	o.NoSpare = false
	recycled := 0
	defer func() {
		if recycled == 0 && !t.Failed() {
			t.Error("no file was recycled")
		}
		t.Logf("%d files were recycled", recycled)
	}()
	rapid.Check(t, func(t *rapid.T) {
		m := &model{fs: durabletest.New(), options: o, recycled: &recycled}
		m.open(t)
		defer func() { m.spool.Close() }()
		t.Repeat(map[string]func(*rapid.T){
			"": m.check, "store": m.store, "store again": m.store, "store more": m.store,
			"remove": m.remove, "remove again": m.remove, "mark": m.mark, "mark again": m.mark, "mark more": m.mark, "mark many": m.markMany, "compact": m.compact, "expire": m.expire, "reopen": m.reopen, "crash": m.crash,
		})
	})
}

// FuzzIndex: whatever an index file holds, what is served is whole and true.
func FuzzIndex(f *testing.F) {
	seeds(f)
	l := newMarkedLibrary(f, 60)
	path := l.indexFiles(f)[0]
	whole := contents(f, l.fs, path)
	f.Fuzz(func(t *testing.T, at uint16, change []byte, refit bool) {
		b := bytes.Clone(whole)
		copy(b[int(at)%len(b):], change)
		if refit {
			spool.RefitIndex(b)
		}
		fsys := durabletest.New()
		o := l.options
		o.FS = fsys
		copyTree(l.fs, fsys, "/", "")
		replace(t, fsys, path, b)
		s, err := spool.Open("/spool", o)
		if err != nil {
			return
		}
		defer s.Close()
		for info, err := range s.All(0) {
			if err != nil {
				continue
			}
			if got, err := read(s, info.ID); err == nil && !bytes.Equal(got, l.data[info.ID]) {
				t.Errorf("message %s is %.30q", info.ID, got)
			}
			if len(info.Mark.Keywords) > 128 {
				t.Errorf("message %s has the mark %v", info.ID, info.Mark)
			}
		}
		for n := range byte(5) {
			before := spool.ID(1 << 63)
			for info, err := range s.ListStarts(box(1+n), before, true, 100) {
				if err == nil && (info.ID >= before || !bytes.HasPrefix(l.data[info.ID], info.Start)) {
					t.Errorf("message %s below %s begins with %.30q", info.ID, before, info.Start)
				}
				before = info.ID
			}
			if u, err := s.Usage(box(1 + n)); err == nil && (u.Messages < 0 || u.Bytes < 0) {
				t.Errorf("%+v", u)
			}
			after := uint64(0)
			for c, err := range s.Changes(box(1+n), after) {
				if err == nil && c.Number <= after {
					t.Errorf("change %d after %d", c.Number, after)
				}
				after = c.Number
			}
		}
		mustStore(t, s, box(9), []byte("more"))
	})
}
