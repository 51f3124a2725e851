package spool_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"cmtpd/internal/durable/durabletest"
	"cmtpd/internal/spool"
)

// claim adds a segment without a commit, which only claims to follow commit number before.
func (sp *specimen) claim(tb testing.TB, sequence, before uint64) {
	tb.Helper()
	b := append([]byte(nil), contents(tb, sp.fs, newest(tb, sp.fs))[:128]...)
	binary.BigEndian.PutUint64(b[8:], sequence)
	binary.BigEndian.PutUint64(b[16:], sequence)
	binary.BigEndian.PutUint64(b[32:], before)
	replace(tb, sp.fs, filepath.Join("/spool/log", spool.SegmentName(sequence)), spool.Refit(b, 0))
}

// A header is not signed. One that claims the last number that there is must not make the spool give
// numbers that no reader takes: what it acknowledges then is lost at the next start.
func TestOpen_ClaimedCommits(t *testing.T) {
	for name, before := range map[string]uint64{"last": 1<<46 - 1, "too far": specimenMessages + 2 + 1<<32, "believed": specimenMessages + 1 + 1<<32} {
		t.Run(name, func(t *testing.T) {
			sp := newSpecimen(t)
			sp.claim(t, uint64(len(sp.bounds)+1), before)
			if r := sp.verify(t); len(r.Damage) != 1 {
				t.Errorf("damage %v", r.Damage)
			}
			s := open(t, "/spool", sp.options)
			stored := mustStore(t, s, box(2), text(1000, 20))
			if believed := stored.Head.Number == before+1; believed != (name == "believed") {
				t.Errorf("commit %d after one that claims %d", stored.Head.Number, before)
			}
			s.Close()
			s = open(t, "/spool", sp.options)
			defer s.Close()
			if _, err := read(s, stored.ID); err != nil {
				t.Errorf("an acknowledged message: %v", err)
			}
		})
	}
}

// The same with a file's name.
func TestOpen_ClaimedSegments(t *testing.T) {
	tests := []struct {
		file string
		want error
	}{
		{"ffffffffffffffff.seg", nil}, {"4000000000000001.seg", nil}, {"4000000000000000.seg", spool.ErrNumbers}, {"3fffffffffffffff.seg", nil},
	}
	for _, tt := range tests {
		t.Run(tt.file, func(t *testing.T) {
			sp := newSpecimen(t)
			replace(t, sp.fs, filepath.Join("/spool/log", tt.file), nil)
			s, err := spool.Open("/spool", sp.options)
			if !errors.Is(err, tt.want) {
				t.Fatalf("%v, want %v", err, tt.want)
			}
			if err != nil {
				return
			}
			stored := mustStore(t, s, box(2), text(1000, 20))
			s.Close()
			if s, err = spool.Open("/spool", sp.options); errors.Is(err, spool.ErrNumbers) {
				return // nothing is lost, and it says which file is in the way
			}
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			if _, err := read(s, stored.ID); err != nil {
				t.Errorf("an acknowledged message: %v", err)
			}
		})
	}
}

// Without numbers to give nothing is acknowledged.
func TestCommit_NoNumbers(t *testing.T) {
	sp := newSpecimen(t)
	path := newest(t, sp.fs)
	replace(t, sp.fs, path, spool.Forge(contents(t, sp.fs, path), spool.Head{Number: 1<<46 - 2}, sp.options.Key, []byte("the last")))
	s := open(t, "/spool", sp.options)
	defer s.Close()
	if _, err := store(s, box(2), text(1000, 20)); !errors.Is(err, spool.ErrNumbers) {
		t.Error(err)
	}
}

// The leaves that a commit carries are signed by their hash alone. Where they were changed, and
// their check sum with them, that shows though no record needs them, and a repair puts them back.
func TestVerify_AlteredLeaves(t *testing.T) {
	changes := map[string]func([]byte) []byte{
		"changed": func(b []byte) []byte { b[5] ^= 1; return b },
		"none":    func([]byte) []byte { return nil },
		"more":    func(b []byte) []byte { return append(b, make([]byte, 32)...) },
	}
	for name, change := range changes {
		t.Run(name, func(t *testing.T) {
			sp := newSpecimen(t)
			first := segments(t, sp.fs, "/spool")[0]
			whole := contents(t, sp.fs, first)
			replace(t, sp.fs, first, spool.AlterLeaves(whole, 3, change))
			if r := sp.verify(t, sp.head); len(r.Damage) != 1 || r.Damage[0].FirstCommit != 3 || len(r.Damage[0].Messages) != 0 {
				t.Errorf("damage %v", r.Damage)
			}
			if ids, _ := sp.served(t); len(ids) != specimenMessages {
				t.Errorf("serves %v", ids)
			}
			sp.options.FS = sp.fs
			m, err := spool.Repair(ctx, "/spool", sp.options, "test", func(spool.Plan) error { return nil })
			if err != nil || m.Vouched != 0 || len(m.Removed) != 0 || len(m.Rewritten) != 1 {
				t.Errorf("%+v, %v", m, err)
			}
			b := contents(t, sp.fs, first)
			if len(b) != len(whole) {
				t.Errorf("%d bytes after the repair, %d before the damage", len(b), len(whole))
			}
		})
	}
}

// An index file is no proof: who writes keys into one must not have the spool go on from what
// those keys have signed.
func TestOpen_ForgedIndexKeys(t *testing.T) {
	sp := newSpecimen(t)
	names, err := sp.fs.ReadDir("/spool/index")
	if err != nil || len(names) == 0 {
		t.Fatal(names, err)
	}
	stranger := key(t, 66)
	for _, name := range names {
		path := filepath.Join("/spool/index", name)
		b := contents(t, sp.fs, path)
		spool.ForgeIndexKeys(b, stranger)
		replace(t, sp.fs, path, b)
	}
	path := newest(t, sp.fs)
	replace(t, sp.fs, path, spool.Forge(contents(t, sp.fs, path), sp.head, stranger, []byte("forged")))
	s := open(t, "/spool", sp.options)
	defer s.Close()
	if data, err := read(s, 1<<40); err == nil {
		t.Errorf("serves %q", data)
	}
	if len(s.Damage()) != 1 {
		t.Errorf("damage %v", s.Damage())
	}
	mustStore(t, s, box(2), text(1000, 20))
	if r := sp.verify(t, sp.head); len(r.Missing) != 0 || r.Key != sp.options.Key.Public() {
		t.Errorf("%v", r.Err())
	}
}

// An index file that puts messages into another mailbox, or knows a message that is not there, has
// nobody read another's mail, and no message acknowledged that was not stored.
func TestIndex_ForgedRows(t *testing.T) {
	sp := newSpecimen(t)
	names, err := sp.fs.ReadDir("/spool/index")
	if err != nil || len(names) == 0 {
		t.Fatal(names, err)
	}
	data := text(1000, 20)
	entry := entryOf(box(2), data)
	for _, name := range names {
		path := filepath.Join("/spool/index", name)
		b := contents(t, sp.fs, path)
		spool.ForgeIndexRows(b, box(7), &entry)
		replace(t, sp.fs, path, b)
	}
	s := open(t, "/spool", sp.options)
	defer s.Close()
	if stored := mustStore(t, s, box(2), data); stored.Duplicate {
		t.Errorf("acknowledged, and not stored: %+v", stored)
	}
	for info, err := range s.List(box(7), 0) {
		t.Errorf("mailbox 7 has message %s of %s, %v", info.ID, info.Mailbox, err)
	}
	n := 0
	for _, err := range s.List(box(1), 0) {
		if n++; err != nil {
			t.Error(err)
		}
	}
	if n != specimenMessages || len(s.Damage()) != 0 {
		t.Errorf("%d messages after the index files were made again; damage %v", n, s.Damage())
	}
}

// An index file of many gigabytes that are not there takes no memory.
func TestOpen_VastIndex(t *testing.T) {
	dir, o := t.TempDir(), options(t)
	o.SegmentSize = 4 << 10
	s := open(t, dir, o)
	for i := range 40 {
		mustStore(t, s, box(1), text(i, 300))
	}
	s.Close()
	paths, err := filepath.Glob(filepath.Join(dir, "index", "*.idx"))
	if err != nil || len(paths) == 0 {
		t.Fatal(paths, err)
	}
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		front, size := spool.VastIndex(b, 1<<27)
		if err := errors.Join(os.WriteFile(path, front, 0o600), os.Truncate(path, size)); err != nil {
			t.Fatal(err)
		}
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	s = open(t, dir, o)
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 64<<20 || s.Stats().Messages != 40 {
		t.Errorf("%d bytes were taken for %+v", n, s.Stats())
	}
}

// A header that claims the segments after it must not make a copy leave them out and call itself whole.
func TestCopy_ClaimedSegments(t *testing.T) {
	sp := newSpecimen(t)
	first := segments(t, sp.fs, "/spool")[0]
	b := append([]byte(nil), contents(t, sp.fs, first)...)
	b[23] = 99
	replace(t, sp.fs, first, spool.Refit(b, 0))
	r, err := spool.Copy(ctx, sp.fs, "/spool", "/copy", sp.options.Identity.Public(), nil)
	if !errors.Is(err, spool.ErrUnproven) {
		t.Errorf("a copy of %d messages of %d is called whole: %v", r.Messages, specimenMessages, err)
	}
}

// TestVerify_FreshSums flips one bit of every byte of the log, and then makes every check sum right.
// Verify must notice each that is not a check sum or a generation, but for the key in a header, which is a hint.
// Neither what is served afterwards nor what a repair leaves is anything but what was stored.
func TestVerify_FreshSums(t *testing.T) {
	sp := newSpecimen(t)
	last := newest(t, sp.fs)
	for _, path := range segments(t, sp.fs, "/spool") {
		whole := contents(t, sp.fs, path)
		step := 1
		if raceEnabled {
			step = 29
		}
		for i := 0; i < len(whole); i += step {
			b := bytes.Clone(whole)
			b[i] ^= 1 << (i % 8)
			if b = spool.Refit(b, 0); bytes.Equal(b, whole) || (i >= 24 && i < 32) || (i >= 72 && i < 104) {
				continue
			}
			if path == last && i >= 20 && i < 24 {
				continue // nothing behind the last segment says how many it stands for
			}
			replace(t, sp.fs, path, b)
			if r := sp.verify(t, sp.head); r.Err() == nil {
				t.Errorf("%s: bit %d of byte %d was changed unnoticed", path, i%8, i)
			}
			if i%31 != 0 {
				continue
			}
			ids, _ := sp.served(t) // a changed length takes what follows with it
			o := sp.copy(sp.fs)
			if _, err := spool.Repair(ctx, "/spool", o, "test", func(spool.Plan) error { return nil }); err != nil {
				t.Errorf("%s: byte %d: %v", path, i, err)
			}
			was := sp.fs
			sp.fs = o.FS.(*durabletest.FS)
			if left, damage := sp.served(t); len(left) < len(ids)-1 || len(damage) != 0 {
				t.Errorf("%s: byte %d: serves %v after the repair, damage %v", path, i, left, damage)
			}
			sp.fs = was
		}
		replace(t, sp.fs, path, whole)
	}
}
