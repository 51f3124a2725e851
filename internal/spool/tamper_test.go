package spool_test

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cmtpd/internal/crypt"
	"cmtpd/internal/durable"
	"cmtpd/internal/durable/durabletest"
	"cmtpd/internal/spool"
)

// specimen is a spool whose every message is a commit of its own, so that tests know
// where each begins.
type specimen struct {
	fs      *durabletest.FS
	options spool.Options
	data    map[spool.ID][]byte
	head    spool.Head
	bounds  map[string][]int64 // of each segment: where its commits end
}

const specimenMessages = 8

func newSpecimen(tb testing.TB) *specimen {
	tb.Helper()
	sp := &specimen{fs: durabletest.New(), data: make(map[spool.ID][]byte), bounds: make(map[string][]int64)}
	sp.options = options(tb)
	sp.options.FS, sp.options.SegmentSize, sp.options.LargeThreshold = sp.fs, 4<<10, 1000
	s := open(tb, "/spool", sp.options)
	for i := range specimenMessages {
		data := text(i, 300+i*120)
		st := mustStore(tb, s, box(1), data)
		sp.data[st.ID], sp.head = data, st.Head
		path := newest(tb, sp.fs)
		sp.bounds[path] = append(sp.bounds[path], size(tb, sp.fs, path))
	}
	if err := s.Close(); err != nil {
		tb.Fatal(err)
	}
	if len(sp.bounds) < 2 {
		tb.Fatalf("the specimen has %d segments", len(sp.bounds))
	}
	return sp
}

func (sp *specimen) verify(tb testing.TB, want ...spool.Head) spool.Report {
	tb.Helper()
	r, err := spool.Verify(ctx, sp.fs, "/spool", sp.options.Identity.Public(), nil, want...)
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

// served opens the spool as it is, checks that all it serves is true, that it goes on
// working, and returns the numbers of the messages that it serves.
func (sp *specimen) served(tb testing.TB) (ids []spool.ID, damage []spool.Damage) {
	tb.Helper()
	// Work on a copy: opening repairs.
	s, err := spool.Open("/spool", sp.copy(sp.fs.Kill()))
	if err != nil {
		tb.Fatal(err)
	}
	defer s.Close()
	for info, err := range s.All(0) {
		if errors.Is(err, spool.ErrDamaged) {
			continue
		}
		if err != nil {
			tb.Fatal(err)
		}
		got, err := read(s, info.ID)
		if errors.Is(err, spool.ErrDamaged) {
			continue
		}
		if want := sp.data[info.ID]; err != nil || !bytes.Equal(got, want) {
			tb.Fatalf("message %s: %.30q, %v; want %.30q", info.ID, got, err, want)
		}
		ids = append(ids, info.ID)
	}
	damage = s.Damage()
	st := mustStore(tb, s, box(2), text(1000, 20))
	if st.Duplicate || (len(ids) > 0 && st.ID <= ids[len(ids)-1]) {
		tb.Fatalf("a new message became %+v", st)
	}
	if _, err := read(s, st.ID); err != nil {
		tb.Fatal(err)
	}
	return ids, damage
}

// copy makes options for a file system of its own with the same files but the index, so that
// opening walks them all.
func (sp *specimen) copy(from *durabletest.FS) spool.Options {
	o := sp.options
	to := durabletest.New()
	copyTree(from, to, "/", "/spool/index")
	o.FS, sp.fs = to, from
	return o
}

// copyTree copies a directory, without one in it.
func copyTree(from, to *durabletest.FS, dir, without string) {
	names, _ := from.ReadDir(dir)
	for _, name := range names {
		path := filepath.Join(dir, name)
		if path == without {
			continue
		}
		if b, err := durable.ReadFile(from, path, 1<<20); err == nil {
			durable.WriteFile(to, path, b, 0o600)
			continue
		}
		durable.MkdirAll(to, path, 0o700)
		copyTree(from, to, path, without)
	}
}

func TestVerify_Whole(t *testing.T) {
	sp := newSpecimen(t)
	r := sp.verify(t, sp.head)
	if err := r.Err(); err != nil {
		t.Fatal(err)
	}
	if r.Commits != specimenMessages+1 || r.Messages != specimenMessages || r.Head != sp.head || r.Torn != 0 ||
		r.Identity != sp.options.Identity.Public() || r.Key != sp.options.Key.Public() {
		t.Errorf("%+v", r)
	}
}

// TestVerify_Bits flips one bit of every byte of every file. Verify must notice each; what
// other commits hold must still be served.
func TestVerify_Bits(t *testing.T) {
	sp := newSpecimen(t)
	paths := segments(t, sp.fs, "/spool")
	names, _ := sp.fs.ReadDir("/spool/large")
	for _, name := range names {
		paths = append(paths, filepath.Join("/spool/large", name))
	}
	last := newest(t, sp.fs)
	step := 1
	if raceEnabled {
		step = 29
	}
	for _, path := range paths {
		whole := contents(t, sp.fs, path)
		for i := 0; i < len(whole); i += step {
			b := bytes.Clone(whole)
			b[i] ^= 1 << (i % 8)
			replace(t, sp.fs, path, b)
			r := sp.verify(t, sp.head)
			if r.Err() == nil {
				t.Fatalf("%s: bit %d of byte %d was flipped unnoticed", path, i%8, i)
			}
			bounds := sp.bounds[path]
			tail := path == last && len(bounds) > 1 && int64(i) >= bounds[len(bounds)-2]
			if !tail && r.Damage == nil {
				t.Fatalf("%s: byte %d: no damage: %v", path, i, r.Err())
			}
			if i%7 != 0 {
				continue // opening costs more; a seventh of all places is enough
			}
			ids, damage := sp.served(t)
			lost := 1
			if strings.HasSuffix(path, ".seg") && i < 128 {
				lost = 0 // a header can be spared
			}
			if len(ids) < specimenMessages-lost || (!tail && damage == nil && strings.HasSuffix(path, ".seg")) {
				t.Fatalf("%s: byte %d: serves %v, damage %v", path, i, ids, damage)
			}
		}
		replace(t, sp.fs, path, whole)
	}
}

// tampering is one way to change a spool by hand.
type tampering struct {
	name string
	keep int // messages still served, at least
	// change tampers with the spool; first and second are the first two segments.
	change func(t *testing.T, sp *specimen, first, second string)
}

func tamperings(t *testing.T) []tampering {
	old := contents(t, newSpecimen(t).fs, "/spool/log/0000000000000001.seg") // another spool's, for shape
	return []tampering{
		{"removed message", specimenMessages - 1, func(t *testing.T, sp *specimen, first, _ string) {
			b, at := contents(t, sp.fs, first), sp.bounds[first]
			replace(t, sp.fs, first, slices.Concat(b[:at[0]], b[at[1]:]))
		}},
		{"removed tail of a segment", specimenMessages - 1, func(t *testing.T, sp *specimen, first, _ string) {
			b, at := contents(t, sp.fs, first), sp.bounds[first]
			replace(t, sp.fs, first, b[:at[len(at)-2]])
		}},
		{"swapped commits", specimenMessages - 1, func(t *testing.T, sp *specimen, first, _ string) {
			b, at := contents(t, sp.fs, first), sp.bounds[first]
			replace(t, sp.fs, first, slices.Concat(b[:at[0]], b[at[1]:at[2]], b[at[0]:at[1]], b[at[2]:]))
		}},
		{"repeated commit", specimenMessages, func(t *testing.T, sp *specimen, first, _ string) {
			b, at := contents(t, sp.fs, first), sp.bounds[first]
			replace(t, sp.fs, first, slices.Concat(b[:at[1]], b[at[0]:at[1]], b[at[1]:]))
		}},
		{"inserted bytes", specimenMessages, func(t *testing.T, sp *specimen, first, _ string) {
			b, at := contents(t, sp.fs, first), sp.bounds[first]
			replace(t, sp.fs, first, slices.Concat(b[:at[0]], []byte("more"), b[at[0]:]))
		}},
		{"swapped segments", 1, func(t *testing.T, sp *specimen, first, second string) {
			a, b := contents(t, sp.fs, first), contents(t, sp.fs, second)
			replace(t, sp.fs, first, b)
			replace(t, sp.fs, second, a)
		}},
		{"removed segment", 1, func(t *testing.T, sp *specimen, first, _ string) {
			if err := sp.fs.Remove(first); err != nil {
				t.Fatal(err)
			}
		}},
		{"segment from an older backup", specimenMessages - 3, func(t *testing.T, sp *specimen, first, _ string) {
			b, at := contents(t, sp.fs, first), sp.bounds[first]
			replace(t, sp.fs, first, b[:at[len(at)-3]])
		}},
		{"segment of another spool", 1, func(t *testing.T, sp *specimen, first, _ string) {
			replace(t, sp.fs, first, old)
		}},
		{"large file replaced", specimenMessages - 1, func(t *testing.T, sp *specimen, _, _ string) {
			names, _ := sp.fs.ReadDir("/spool/large")
			path := filepath.Join("/spool/large", names[0])
			replace(t, sp.fs, path, bytes.ToUpper(contents(t, sp.fs, path)))
		}},
		{"large file cut", specimenMessages - 1, func(t *testing.T, sp *specimen, _, _ string) {
			names, _ := sp.fs.ReadDir("/spool/large")
			path := filepath.Join("/spool/large", names[0])
			replace(t, sp.fs, path, contents(t, sp.fs, path)[1:])
		}},
		{"large file removed", specimenMessages - 1, func(t *testing.T, sp *specimen, _, _ string) {
			names, _ := sp.fs.ReadDir("/spool/large")
			if err := sp.fs.Remove(filepath.Join("/spool/large", names[0])); err != nil {
				t.Fatal(err)
			}
		}},
		{"data taken without a removal", specimenMessages - 1, func(t *testing.T, sp *specimen, first, _ string) {
			replace(t, sp.fs, first, spool.TakeData(contents(t, sp.fs, first), 2))
		}},
		{"a removal by a stranger", specimenMessages, func(t *testing.T, sp *specimen, _, _ string) {
			path := newest(t, sp.fs)
			replace(t, sp.fs, path, spool.ForgeRemoval(contents(t, sp.fs, path), sp.head, key(t, 66), 2, int64(len(sp.data[2]))))
		}},
		{"a removal of nothing", specimenMessages, func(t *testing.T, sp *specimen, _, _ string) {
			path := newest(t, sp.fs)
			replace(t, sp.fs, path, spool.ForgeRemoval(contents(t, sp.fs, path), sp.head, sp.options.Key, 1000, 5))
		}},
		{"a removal of another message", specimenMessages, func(t *testing.T, sp *specimen, _, _ string) {
			path := newest(t, sp.fs)
			replace(t, sp.fs, path, spool.ForgeRemoval(contents(t, sp.fs, path), sp.head, sp.options.Key, 2, 1))
		}},
		{"a mark by a stranger", specimenMessages, func(t *testing.T, sp *specimen, _, _ string) {
			path := newest(t, sp.fs)
			replace(t, sp.fs, path, spool.ForgeMark(contents(t, sp.fs, path), sp.head, key(t, 66), 2, box(1)))
		}},
		{"a mark of nothing", specimenMessages, func(t *testing.T, sp *specimen, _, _ string) {
			path := newest(t, sp.fs)
			replace(t, sp.fs, path, spool.ForgeMark(contents(t, sp.fs, path), sp.head, sp.options.Key, 1000, box(1)))
		}},
		{"a mark in another mailbox", specimenMessages, func(t *testing.T, sp *specimen, _, _ string) {
			path := newest(t, sp.fs)
			replace(t, sp.fs, path, spool.ForgeMark(contents(t, sp.fs, path), sp.head, sp.options.Key, 2, box(2)))
		}},
		{"a mark of a removed message", specimenMessages - 1, func(t *testing.T, sp *specimen, _, _ string) {
			path := newest(t, sp.fs)
			replace(t, sp.fs, path, spool.ForgeRemoval(contents(t, sp.fs, path), sp.head, sp.options.Key, 2, int64(len(sp.data[2]))))
			head := sp.verify(t).Head
			replace(t, sp.fs, path, spool.ForgeMark(contents(t, sp.fs, path), head, sp.options.Key, 2, box(1)))
		}},
		{"a header that claims more segments", specimenMessages - 1, func(t *testing.T, sp *specimen, first, _ string) {
			b := bytes.Clone(contents(t, sp.fs, first))
			b[23]++
			replace(t, sp.fs, first, spool.Refit(b, 0))
		}},
		{"a foreign file", specimenMessages, func(t *testing.T, sp *specimen, _, _ string) {
			replace(t, sp.fs, "/spool/log/1.seg", []byte("x"))
		}},
	}
}

func TestVerify_Tampering(t *testing.T) {
	for _, tt := range tamperings(t) {
		t.Run(tt.name, func(t *testing.T) {
			sp := newSpecimen(t)
			segs := segments(t, sp.fs, "/spool")
			tt.change(t, sp, segs[0], segs[1])
			r := sp.verify(t)
			if !errors.Is(r.Err(), spool.ErrUnproven) {
				t.Errorf("not noticed without a head: %v", r.Err())
			}
			t.Log(r.Err())
			if ids, _ := sp.served(t); len(ids) < tt.keep {
				t.Errorf("serves %v, want at least %d", ids, tt.keep)
			}
		})
	}
}

// A whole tail that was removed leaves a valid chain: only a head kept elsewhere shows it.
func TestVerify_RemovedTail(t *testing.T) {
	sp := newSpecimen(t)
	path := newest(t, sp.fs)
	at := sp.bounds[path]
	end := int64(128)
	if len(at) > 1 {
		end = at[len(at)-2]
	}
	replace(t, sp.fs, path, contents(t, sp.fs, path)[:end])
	if r := sp.verify(t); r.Err() != nil {
		t.Errorf("a shorter chain is valid: %v", r.Err())
	}
	if r := sp.verify(t, sp.head); !errors.Is(r.Err(), spool.ErrUnproven) || len(r.Missing) != 1 {
		t.Errorf("the head is not missed: %+v", r)
	}
	if r := sp.verify(t, spool.Head{Number: 1}); len(r.Missing) != 1 {
		t.Errorf("a false head is not missed: %+v", r)
	}
}

// A commit signed by another key than the spool's, though everything else about it fits.
func TestVerify_ForgedCommit(t *testing.T) {
	sp := newSpecimen(t)
	path := newest(t, sp.fs)
	before := contents(t, sp.fs, path)
	forged := spool.Forge(before, sp.head, key(t, 66), []byte("forged"))
	replace(t, sp.fs, path, forged)
	r := sp.verify(t)
	if r.Err() == nil || !strings.Contains(r.Err().Error(), "signature") {
		t.Errorf("%v", r.Err())
	}
	ids, damage := sp.served(t)
	if len(ids) != specimenMessages || len(damage) != 1 {
		t.Errorf("serves %v, damage %v", ids, damage)
	}
	// The same by the right key is a commit.
	sp.data[spool.ID(1<<40)] = []byte("forged")
	replace(t, sp.fs, path, spool.Forge(before, sp.head, sp.options.Key, []byte("forged")))
	if r := sp.verify(t, sp.head); r.Err() != nil {
		t.Error(r.Err())
	}
	if ids, _ := sp.served(t); len(ids) != specimenMessages+1 {
		t.Errorf("serves %v", ids)
	}
}

// A commit by the right key that continues another history: what is left when an old copy was
// run for a while and its files were mixed with these.
func TestVerify_Fork(t *testing.T) {
	sp := newSpecimen(t)
	path := newest(t, sp.fs)
	other := spool.Head{Number: sp.head.Number, Hash: [32]byte{1}}
	replace(t, sp.fs, path, spool.Forge(contents(t, sp.fs, path), other, sp.options.Key, []byte("forked")))
	if r := sp.verify(t); r.Err() == nil || !strings.Contains(r.Err().Error(), "another chain") {
		t.Errorf("%v", r.Err())
	}
}

// A message whose data is gone is no damage where the right key says that it was removed.
func TestVerify_Removed(t *testing.T) {
	sp := newSpecimen(t)
	first, path := segments(t, sp.fs, "/spool")[0], newest(t, sp.fs)
	replace(t, sp.fs, path, spool.ForgeRemoval(contents(t, sp.fs, path), sp.head, sp.options.Key, 2, int64(len(sp.data[2]))))
	for range 2 {
		r := sp.verify(t, sp.head)
		if r.Err() != nil || r.Removed != 1 {
			t.Errorf("%d removed, %v", r.Removed, r.Err())
		}
		if ids, damage := sp.served(t); len(ids) != specimenMessages-1 || damage != nil {
			t.Errorf("serves %v, %v", ids, damage)
		}
		replace(t, sp.fs, first, spool.TakeData(contents(t, sp.fs, first), 2))
	}
}

// A mark by the right key counts where its message is; a false one marks nothing, whether the
// message's segment is walked or read from its index file, and is reported once.
func TestVerify_Mark(t *testing.T) {
	tests := []struct {
		name   string
		id     spool.ID
		box    spool.MailboxID
		damage int
	}{
		{"true", 2, box(1), 0}, {"another mailbox", 2, box(2), 1}, {"unknown", 1000, box(1), 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			sp := newSpecimen(t)
			path := newest(t, sp.fs)
			replace(t, sp.fs, path, spool.ForgeMark(contents(t, sp.fs, path), sp.head, sp.options.Key, tt.id, tt.box))
			if r := sp.verify(t, sp.head); len(r.Damage) != tt.damage {
				t.Errorf("proven: %v", r.Damage)
			}
			for range 2 {
				s := open(t, "/spool", sp.options)
				info := mustGet(t, s, 2)
				if d := s.Damage(); len(d) != tt.damage || (info.Mark.Flags == spool.FlagSeen) != (tt.damage == 0) {
					t.Errorf("%+v, damage %v", info, d)
				}
				if n := len(changes(t, s, tt.box, sp.head.LastChange())); n != 1-tt.damage {
					t.Errorf("%d changes", n)
				}
				s.Close()
				names, err := sp.fs.ReadDir("/spool/index")
				if err != nil || len(names) < 2 {
					t.Fatal(names, err)
				}
				if err := sp.fs.Remove("/spool/index/" + names[0]); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// Where a segment is lost its messages' marks wait for it, and are there again when it is.
func TestVerify_MarkOfLost(t *testing.T) {
	l := newLibrary(t, 40)
	s := open(t, "/spool", l.options)
	// Those of the last messages are neither in the segment that follows these, nor in the newest.
	for i := range spool.ID(160) {
		if id := 1 + i%40; id <= 20 || i/40 == 1 {
			mustMark(t, s, id, spool.Flags(id+i/40), strings.Repeat("k", 100))
		}
	}
	s.Close()
	lost := 0
	segs := segments(t, l.fs, "/spool")
	for _, path := range segs[1 : len(segs)-1] {
		was := contents(t, l.fs, path)
		if err := l.fs.Remove(path); err != nil {
			t.Fatal(err)
		}
		for _, index := range l.indexFiles(t) {
			if err := l.fs.Remove(index); err != nil {
				t.Fatal(err)
			}
		}
		s = open(t, "/spool", l.options)
		if d := s.Damage(); len(d) == 0 || strings.Contains(fmt.Sprint(d), "which it marks") {
			t.Errorf("without %s: %v", path, d)
		}
		for id := spool.ID(1); id <= 40; id++ {
			if _, err := s.Get(id); errors.Is(err, spool.ErrNotFound) {
				lost++
			} else if err != nil {
				t.Error(err)
			}
		}
		s.Close()
		replace(t, l.fs, path, was)
		s = open(t, "/spool", l.options)
		for id := spool.ID(1); id <= 40; id++ {
			if info := mustGet(t, s, id); info.Mark.Flags != spool.Flags(id+1) && info.Mark.Flags != spool.Flags(id+3) {
				t.Errorf("with %s again: %+v", path, info)
			}
		}
		if d := s.Damage(); len(d) != 0 {
			t.Errorf("with %s again: %v", path, d)
		}
		s.Close()
	}
	if lost < 20 || lost >= 40 {
		t.Errorf("%d messages were lost in all", lost)
	}
}

// Only the identity in force can name the next keys.
func TestVerify_Keys(t *testing.T) {
	right, wrong, next := key(t, 2), key(t, 77), key(t, 78)
	tests := []struct {
		name             string
		before, identity *crypt.PrivateKey
		ok               bool
	}{
		{"another spool key", right, right, true},
		{"another spool key by a stranger", wrong, right, false},
		{"another identity", right, next, true},
		{"another identity by a stranger", wrong, next, false},
		{"another identity by itself", next, next, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			sp := newSpecimen(t)
			ro, err := spool.OpenReadOnly("/spool", sp.fs)
			if err != nil {
				t.Fatal(err)
			}
			path := newest(t, sp.fs)
			key := key(t, 79)
			replace(t, sp.fs, path, spool.ForgeKeys(contents(t, sp.fs, path), sp.head, ro, key, tt.before, tt.identity))
			r, err := spool.Verify(ctx, sp.fs, "/spool", tt.identity.Public(), nil)
			if err != nil {
				t.Fatal(err)
			}
			if got := r.Err() == nil; got != tt.ok {
				t.Errorf("accepted: %v, %v", got, r.Err())
			}
			if tt.ok && (r.Key != key.Public() || r.Identity != tt.identity.Public()) {
				t.Errorf("keys in force: %x, %x", r.Key, r.Identity)
			}
		})
	}
}

func TestVerify_Identity(t *testing.T) {
	sp := newSpecimen(t)
	r, err := spool.Verify(ctx, sp.fs, "/spool", key(t, 9).Public(), nil)
	if err != nil || r.Err() == nil {
		t.Errorf("another identity: %v, %v", err, r.Err())
	}
	o := sp.options
	o.Identity = key(t, 9)
	if _, err := spool.Open("/spool", o); !errors.Is(err, spool.ErrIdentity) {
		t.Errorf("Open: %v", err)
	}
}

func TestVerify_Progress(t *testing.T) {
	sp := newSpecimen(t)
	var last, total int64
	_, err := spool.Verify(ctx, sp.fs, "/spool", sp.options.Identity.Public(), func(done, all int64) {
		if done < last || done > all {
			t.Errorf("%d after %d of %d", done, last, all)
		}
		last, total = done, all
	})
	if err != nil || last == 0 || total-last > 128*int64(len(sp.bounds)) {
		t.Errorf("%d of %d, %v", last, total, err)
	}
}

// A damaged message is reported once, and its sender may bring it again.
func TestSpool_Quarantine(t *testing.T) {
	sp := newSpecimen(t)
	s := open(t, "/spool", sp.options)
	id := spool.ID(2)
	path := "/spool/log/0000000000000001.seg"
	b := contents(t, sp.fs, path)
	i := bytes.Index(b, sp.data[id])
	b[i+100]++
	f, err := sp.fs.OpenWrite(path)
	if err != nil {
		t.Fatal(err)
	}
	f.WriteAt(b[i+100:i+101], int64(i+100))
	f.Close()
	for range 2 {
		if _, err := read(s, id); !errors.Is(err, spool.ErrDamaged) {
			t.Errorf("read: %v", err)
		}
	}
	d := s.Damage()
	if len(d) != 1 || fmt.Sprint(d[0].Messages) != "[0000000000000002]" {
		t.Errorf("damage: %v", d)
	}
	if _, err := read(s, 3); err != nil {
		t.Errorf("its neighbour: %v", err)
	}
	st := mustStore(t, s, box(1), sp.data[id])
	if st.Duplicate {
		t.Error("the damaged copy was taken for a whole one")
	}
	if got, err := read(s, st.ID); err != nil || !bytes.Equal(got, sp.data[id]) {
		t.Errorf("the new copy: %v", err)
	}
}
