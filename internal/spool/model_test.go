package spool_test

import (
	"bytes"
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
	removed  int
	top      spool.ID
	heads    []spool.Head // of acknowledgements
}

type modelMessage struct {
	id   spool.ID
	box  spool.MailboxID
	data string
}

func (m *model) open(t *rapid.T) {
	m.options.FS = m.fs
	s, err := spool.Open("/spool", m.options)
	if err != nil {
		t.Fatal(err)
	}
	m.spool = s
}

func (m *model) store(t *rapid.T) {
	n, size := rapid.IntRange(0, 40).Draw(t, "n"), rapid.SampledFrom([]int{0, 1, 50, 700, 2000}).Draw(t, "size")
	data := fmt.Sprintf("%d %s", n, text(n, size))
	b := box(byte(rapid.IntRange(1, 3).Draw(t, "box")))
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
	m.messages = append(m.messages, modelMessage{st.ID, b, data})
}

func (m *model) remove(t *rapid.T) {
	id := spool.ID(rapid.Uint64Range(1, uint64(m.top)+2).Draw(t, "id"))
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
	m.messages = slices.Delete(m.messages, i, i+1)
	m.removed++
	m.heads = append(m.heads, m.spool.Head())
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
		got = append(got, modelMessage{info.ID, info.Mailbox, string(data)})
	}
	if !slices.Equal(got, m.messages) {
		t.Fatalf("the spool has %d messages, the model %d: %.60q, %.60q", len(got), len(m.messages), fmt.Sprint(got), fmt.Sprint(m.messages))
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
	if r.Removed != uint64(m.removed) {
		t.Fatalf("the chain has %d removals, the model %d", r.Removed, m.removed)
	}
}

// TestSpool_Model does at random what can be done to a spool, and holds it to a list.
func TestSpool_Model(t *testing.T) {
	o := options(t)
	o.SegmentSize, o.LargeThreshold, o.CompactRate = 4<<10, 1500, -1
	o.NoSpare = false
	rapid.Check(t, func(t *rapid.T) {
		m := &model{fs: durabletest.New(), options: o}
		m.open(t)
		defer func() { m.spool.Close() }()
		t.Repeat(map[string]func(*rapid.T){
			"": m.check, "store": m.store, "store again": m.store, "store more": m.store,
			"remove": m.remove, "remove again": m.remove, "compact": m.compact, "reopen": m.reopen, "crash": m.crash,
		})
	})
}

// FuzzIndex: whatever an index file holds, what is served is whole and true.
func FuzzIndex(f *testing.F) {
	seeds(f)
	l := newLibrary(f, 60)
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
		}
		mustStore(t, s, box(9), []byte("more"))
	})
}
