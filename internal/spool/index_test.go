package spool_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cmtpd/internal/durable/durabletest"
	"cmtpd/internal/spool"
)

// library is a spool of several segments on a file system that stands in, closed.
type library struct {
	fs      *durabletest.FS
	options spool.Options
	data    map[spool.ID][]byte
}

func newLibrary(tb testing.TB, messages int) *library {
	tb.Helper()
	l := &library{fs: durabletest.New(), options: options(tb), data: make(map[spool.ID][]byte)}
	l.options.FS, l.options.SegmentSize, l.options.LargeThreshold, l.options.CompactRate = l.fs, 8<<10, 3000, -1
	s := open(tb, "/spool", l.options)
	for i := range messages {
		data := text(i, 20+i*37%3100)
		l.data[mustStore(tb, s, box(byte(1+i%5)), data).ID] = data
	}
	s.Close()
	return l
}

// newMarkedLibrary is newLibrary with marks in every segment, of messages in it and before it, and
// with the first message removed: data still has it, for an index that lies may bring it back.
func newMarkedLibrary(tb testing.TB, messages int) *library {
	tb.Helper()
	l := newLibrary(tb, 0)
	s := open(tb, "/spool", l.options)
	for i := range messages {
		data := text(i, 20+i*37%3100)
		id := mustStore(tb, s, box(byte(1+i%5)), data).ID
		l.data[id] = data
		mustMark(tb, s, id, spool.Flags(i), "")
		mustMark(tb, s, 1+id/2, spool.FlagSeen, "keywords")
		if i == 2 {
			if err := s.Remove(ctx, 1, ""); err != nil {
				tb.Fatal(err)
			}
		}
	}
	s.Close()
	return l
}

func (l *library) indexFiles(tb testing.TB) (paths []string) {
	tb.Helper()
	names, err := l.fs.ReadDir("/spool/index")
	if err != nil {
		tb.Fatal(err)
	}
	for _, name := range names {
		paths = append(paths, filepath.Join("/spool/index", name))
	}
	return paths
}

// check holds an open spool to what the library holds.
func (l *library) check(tb testing.TB, s *spool.Spool) {
	tb.Helper()
	ids := make(map[spool.MailboxID][]spool.ID)
	n, size, large := 0, int64(0), 0
	for info, err := range s.All(0) {
		if err != nil {
			tb.Fatal(err)
		}
		got, err := read(s, info.ID)
		if err != nil || !bytes.Equal(got, l.data[info.ID]) {
			tb.Fatalf("message %s: %.30q, %v", info.ID, got, err)
		}
		ids[info.Mailbox] = append(ids[info.Mailbox], info.ID)
		n, size = n+1, size+info.Size
		if info.Large {
			large++
		}
	}
	if st := s.Stats(); n != len(l.data) || st.Messages != n || st.Bytes != size || st.Large != large || st.Damage != 0 {
		tb.Fatalf("%d messages of %d are listed, %d bytes, %d large; %+v %v", n, len(l.data), size, large, st, s.Damage())
	}
	for m, want := range ids {
		for _, after := range []spool.ID{0, want[0], want[len(want)/2], want[len(want)-1]} {
			var got []spool.ID
			for info, err := range s.List(m, after) {
				if err != nil || info.Mailbox != m {
					tb.Fatal(info, err)
				}
				got = append(got, info.ID)
			}
			i, _ := slices.BinarySearch(want, after+1)
			if !slices.Equal(got, want[i:]) {
				tb.Fatalf("mailbox %s after %s: %v, want %v", m, after, got, want[i:])
			}
		}
		if st := mustStore(tb, s, m, l.data[want[0]]); !st.Duplicate || st.ID != want[0] {
			tb.Fatalf("message %s was stored again: %+v", want[0], st)
		}
	}
}

// Every segment but the newest has an index file, and a start relies on it.
func TestIndex_Trusted(t *testing.T) {
	l := newLibrary(t, 200)
	segs := segments(t, l.fs, "/spool")
	if n := len(l.indexFiles(t)); n != len(segs)-1 || n < 10 {
		t.Fatalf("%d index files for %d segments", n, len(segs))
	}
	s := open(t, "/spool", l.options)
	l.check(t, s)
	s.Close()

	// Damage that no start reads is noticed by the reader, and from then on at every start.
	at := bytes.Index(contents(t, l.fs, segs[2]), []byte("message "))
	f, err := l.fs.OpenWrite(segs[2])
	if err != nil {
		t.Fatal(err)
	}
	f.WriteAt([]byte("X"), int64(at))
	f.Close()
	s = open(t, "/spool", l.options)
	if d := s.Damage(); len(d) != 0 {
		t.Errorf("a start walked an indexed segment: %v", d)
	}
	damaged := 0
	for info := range s.All(0) {
		if _, err := read(s, info.ID); errors.Is(err, spool.ErrDamaged) {
			damaged++
		} else if err != nil {
			t.Error(err)
		}
	}
	s.Close()
	for range 2 {
		s = open(t, "/spool", l.options)
		if d := s.Damage(); damaged != 1 || len(d) != 1 || len(d[0].Messages) != 1 {
			t.Errorf("%d damaged, then %v", damaged, d)
		}
		s.Close()
	}
	f, err = l.fs.OpenWrite(segs[2])
	if err != nil {
		t.Fatal(err)
	}
	f.WriteAt([]byte("m"), int64(at))
	f.Close()
	for range 2 {
		s = open(t, "/spool", l.options)
		l.check(t, s)
		s.Close()
	}
	if n := len(l.indexFiles(t)); n != len(segs)-1 {
		t.Errorf("after the repair %d index files for %d segments", n, len(segs))
	}
}

// What a lost segment costs is the same at each start, though index files are made after it.
func TestIndex_LostSegment(t *testing.T) {
	l := newLibrary(t, 120)
	if err := l.fs.Remove(segments(t, l.fs, "/spool")[3]); err != nil {
		t.Fatal(err)
	}
	for start := range 3 {
		s := open(t, "/spool", l.options)
		n := 0
		for id, data := range l.data {
			got, err := read(s, id)
			if err == nil && bytes.Equal(got, data) {
				n++
			} else if !errors.Is(err, spool.ErrNotFound) {
				t.Errorf("message %s: %v", id, err)
			}
		}
		if n < 100 || n == len(l.data) {
			t.Errorf("start %d: %d messages of %d are served", start+1, n, len(l.data))
		}
		s.Close()
	}
}

// Whatever becomes of the index files, the spool shows the same, and makes them again.
func TestIndex_Lost(t *testing.T) {
	l := newLibrary(t, 120)
	whole := len(l.indexFiles(t))
	r := rand.New(rand.NewPCG(3, 4))
	for round := range 18 {
		for i, path := range l.indexFiles(t) {
			b := contents(t, l.fs, path)
			switch (round + i) % 6 {
			case 0:
				if err := l.fs.Remove(path); err != nil {
					t.Fatal(err)
				}
			case 1:
				replace(t, l.fs, path, b[:r.IntN(len(b))])
			case 2:
				b[r.IntN(len(b))] ^= 1 << r.IntN(8)
				replace(t, l.fs, path, b)
			case 3:
				clear(b[r.IntN(len(b)):])
				replace(t, l.fs, path, b)
			case 4:
				replace(t, l.fs, strings.TrimSuffix(path, ".idx")+"x.idx", b) // a stranger
			}
		}
		s := open(t, "/spool", l.options)
		l.check(t, s)
		s.Close()
		if n := len(l.indexFiles(t)); n != whole {
			t.Fatalf("round %d: %d index files, not %d", round, n, whole)
		}
	}
}
