package spool_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"

	"cmtpd/internal/spool"
)

// TestRepair_Random damages spools with a past (removals, merged segments, large files, new keys, earlier repairs)
// in several random ways at once, again and again.
func TestRepair_Random(t *testing.T) {
	seeds := uint64(60)
	if raceEnabled {
		seeds = 4
	}
	for seed := range seeds {
		r := rand.New(rand.NewPCG(seed, 11))
		sp := newSpecimen(t)
		for round := range 3 {
			if r.IntN(3) == 0 {
				sp.options.Key = key(t, byte(100+10*round))
			}
			sp.live(t, r)
			for range 1 + r.IntN(3) {
				sp.harm(t, r)
			}
			before, _ := sp.served(t)
			was := sp.changes(t)
			sp.options.FS = sp.fs
			m, err := spool.Repair(ctx, "/spool", sp.options, "tester", func(spool.Plan) error { return nil })
			if err != nil {
				t.Fatalf("seed %d, round %d: %v, %v", seed, round, err, m.Report.Damage)
			}
			after, damage := sp.served(t)
			is := sp.changes(t)
			for _, id := range before {
				if was[id] != is[id] {
					t.Fatalf("seed %d, round %d: message %s: %s became %s", seed, round, id, was[id], is[id])
				}
				if !slices.Contains(after, id) {
					t.Fatalf("seed %d, round %d: served %v before the repair, %v after", seed, round, before, after)
				}
			}
			if rep := sp.verify(t); damage != nil || rep.Err() != nil {
				t.Fatalf("seed %d, round %d: %v, %v", seed, round, damage, rep.Err())
			}
			if _, plan := sp.repair(t); plan != nil {
				t.Fatalf("seed %d, round %d: found again: %v", seed, round, plan.Damage)
			}
		}
	}
}

// live has a specimen store, remove and compact.
func (sp *specimen) live(tb testing.TB, r *rand.Rand) {
	tb.Helper()
	o := sp.options
	o.FS, o.CompactRate = sp.fs, -1
	s := open(tb, "/spool", o)
	defer s.Close()
	for range 6 {
		data := text(int(r.Int32()), 100+r.IntN(1400))
		sp.data[mustStore(tb, s, box(byte(1+r.IntN(3))), data).ID] = data
	}
	var ids []spool.ID
	for info, err := range s.All(0) {
		if err == nil && r.IntN(4) == 0 {
			ids = append(ids, info.ID)
		}
	}
	for info, err := range s.All(0) {
		if err == nil && r.IntN(3) == 0 {
			mustMark(tb, s, info.ID, spool.Flags(r.Uint32()), "words")
		}
	}
	if _, err := s.RemoveAll(ctx, ids, "admin"); err != nil {
		tb.Fatal(err)
	}
	if r.IntN(2) == 0 {
		if err := s.Compact(ctx); err != nil {
			tb.Fatal(err)
		}
	}
}

// changes returns the newest change of every message.
func (sp *specimen) changes(tb testing.TB) map[spool.ID]string {
	tb.Helper()
	s, err := spool.Open("/spool", sp.copy(sp.fs.Kill()))
	if err != nil {
		tb.Fatal(err)
	}
	defer s.Close()
	all := make(map[spool.ID]string)
	for n := range byte(4) {
		for c, err := range s.Changes(box(n), 0) {
			if err != nil && !errors.Is(err, spool.ErrDamaged) {
				tb.Fatal(err)
			}
			all[c.ID] = fmt.Sprint(c)
		}
	}
	return all
}

// harm damages one file of a specimen.
func (sp *specimen) harm(tb testing.TB, r *rand.Rand) {
	tb.Helper()
	paths := segments(tb, sp.fs, "/spool")
	if len(paths) > 1 {
		paths = paths[:len(paths)-1] // the end of the newest is a matter of torn tails
	}
	for _, name := range names(tb, sp.fs, "/spool/large") {
		paths = append(paths, filepath.Join("/spool/large", name))
	}
	path := paths[r.IntN(len(paths))]
	b := bytes.Clone(contents(tb, sp.fs, path))
	if len(b) == 0 {
		return
	}
	i := r.IntN(len(b))
	j := min(len(b), i+1+r.IntN(600))
	switch r.IntN(6) {
	case 0:
		b[i] ^= 1 << r.IntN(8)
	case 1:
		clear(b[i:j])
	case 2:
		b = b[:i]
	case 3:
		b = slices.Concat(b[:i], b[j:])
	case 4:
		b = slices.Concat(b[:j], b[i:])
	case 5:
		if err := sp.fs.Remove(path); err != nil {
			tb.Fatal(err)
		}
		return
	}
	replace(tb, sp.fs, path, b)
}
