package spool_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cmtpd/internal/durable"
	"cmtpd/internal/durable/durabletest"
	"cmtpd/internal/spool"
)

// repair repairs a specimen.
func (sp *specimen) repair(tb testing.TB) (spool.Mending, *spool.Plan) {
	tb.Helper()
	sp.options.FS = sp.fs
	var plan *spool.Plan
	m, err := spool.Repair(ctx, "/spool", sp.options, "tester", func(p spool.Plan) error {
		plan = &p
		return nil
	})
	if err != nil {
		tb.Fatalf("repair: %v\n%v", err, m.Report.Damage)
	}
	return m, plan
}

// mended repairs a damaged specimen and holds it to the promises of a repair.
func (sp *specimen) mended(tb testing.TB) {
	tb.Helper()
	before, _ := sp.served(tb)
	if m, plan := sp.repair(tb); plan == nil || m.Rewritten != nil && m.Quarantine == "" {
		tb.Fatalf("found nothing, or kept nothing: %+v", m)
	}
	r := sp.verify(tb)
	if err := r.Err(); err != nil {
		tb.Fatalf("after the repair: %v", err)
	}
	after, damage := sp.served(tb)
	for _, id := range before {
		if !slices.Contains(after, id) {
			tb.Fatalf("served %v before the repair, %v after", before, after)
		}
	}
	if damage != nil {
		tb.Fatalf("damage after the repair: %v", damage)
	}
	if m, plan := sp.repair(tb); plan != nil {
		tb.Fatalf("the second repair found %v, did %+v", plan.Damage, m)
	}
}

// TestRepair_Tampering repairs what every test of tampering did. What is done again
// afterwards is damage again.
func TestRepair_Tampering(t *testing.T) {
	for _, tt := range tamperings(t) {
		t.Run(tt.name, func(t *testing.T) {
			sp := newSpecimen(t)
			segs := segments(t, sp.fs, "/spool")
			tt.change(t, sp, segs[0], segs[1])
			sp.mended(t)
			for i, path := range segments(t, sp.fs, "/spool") {
				whole := contents(t, sp.fs, path)
				if len(whole) == 128 {
					continue // an empty segment holds nothing that could be taken away
				}
				b := bytes.Clone(whole)
				b[128+40] ^= 4
				replace(t, sp.fs, path, b)
				if r := sp.verify(t); r.Err() == nil {
					t.Errorf("segment %d: tampering after the repair is not noticed", i+1)
				}
				replace(t, sp.fs, path, whole)
			}
		})
	}
}

// TestRepair_Bits flips a bit anywhere, and repairs.
func TestRepair_Bits(t *testing.T) {
	sp := newSpecimen(t)
	step := 31
	if raceEnabled {
		step = 311
	}
	for n, path := range segments(t, sp.fs, "/spool") {
		size := len(contents(t, sp.fs, path))
		for i := n; i < size; i += step {
			sp := newSpecimen(t)
			b := contents(t, sp.fs, path)
			b[i] ^= 1 << (i % 8)
			replace(t, sp.fs, path, b)
			if r := sp.verify(t); r.Damage == nil {
				continue // a torn tail
			}
			sp.mended(t)
		}
	}
}

// A wound is one wound: to make it larger is damage again, and so is a repair by a stranger.
func TestRepair_Wound(t *testing.T) {
	sp := newSpecimen(t)
	first := segments(t, sp.fs, "/spool")[0]
	b, at := contents(t, sp.fs, first), sp.bounds[first]
	replace(t, sp.fs, first, slices.Concat(b[:at[0]], b[at[1]:]))
	sp.mended(t)
	r := sp.verify(t)
	if len(r.Scars) != 1 || r.Scars[0].By != "tester" || !strings.Contains(r.Scars[0].String(), "commits 3 to 3 are missing") {
		t.Fatalf("scars: %v", r.Scars)
	}
	b = contents(t, sp.fs, first)
	cut := int64(0)
	for _, end := range at[1:] {
		if end -= at[1] - at[0]; end > at[0] {
			cut = end
			break
		}
	}
	replace(t, sp.fs, first, slices.Concat(b[:at[0]], b[cut:]))
	if r := sp.verify(t); r.Err() == nil {
		t.Error("a wider gap counts as repaired")
	}
	sp.mended(t)
	if r := sp.verify(t); len(r.Scars) != 1 {
		t.Errorf("scars: %v", r.Scars)
	}
}

// Of a batch of three one record is lost. The others are served on, and to take another away is
// damage again, though what is left would still be named by the commit.
func TestRepair_Batch(t *testing.T) {
	for _, leaves := range []bool{true, false} {
		t.Run(fmt.Sprintf("leaves %v", leaves), func(t *testing.T) {
			sp := newSpecimen(t)
			last := newest(t, sp.fs)
			start := len(contents(t, sp.fs, last))
			three := [][]byte{text(50, 200), text(51, 200), text(52, 200)}
			for i, data := range three {
				sp.data[spool.ID(100+i)] = data
			}
			replace(t, sp.fs, last, spool.ForgeBatch(contents(t, sp.fs, last), sp.head, sp.options.Key, 100, three...))
			s := open(t, "/spool", sp.options)
			mustStore(t, s, box(1), text(60, 10))
			sp.data[103] = text(60, 10)
			s.Close()
			b := contents(t, sp.fs, last)
			b[start+24] ^= 1
			kept := specimenMessages + 3
			if !leaves { // neither can the others be proven then
				b[bytes.Index(b, text(52, 200))+200+24+156+5] ^= 1
				kept -= 2
			}
			replace(t, sp.fs, last, b)
			sp.mended(t)
			if ids, _ := sp.served(t); len(ids) != kept {
				t.Fatalf("serves %v", ids)
			}
			b = contents(t, sp.fs, last)
			i := start
			if leaves {
				if i = bytes.Index(b, text(52, 200)); i < 0 {
					t.Fatal("message 52 was not kept")
				}
				b = slices.Concat(b[:start], b[i+200:])
			} else {
				b = slices.Concat(b[:start], b[start+24+156:])
			}
			replace(t, sp.fs, last, b)
			if r := sp.verify(t); r.Err() == nil {
				t.Error("what was taken from the rest of the batch is not missed")
			}
			sp.mended(t)
		})
	}
}

// Message numbers that were given twice, which only who has the key can do, are vouched for too.
func TestRepair_Numbers(t *testing.T) {
	sp := newSpecimen(t)
	last := newest(t, sp.fs)
	again := spool.ForgeBatch(contents(t, sp.fs, last), sp.head, sp.options.Key, 3, text(80, 50), text(81, 50))
	replace(t, sp.fs, last, again)
	sp.mended(t)
	if ids, _ := sp.served(t); len(ids) != specimenMessages {
		t.Errorf("serves %v", ids)
	}
}

func TestRepair_Stranger(t *testing.T) {
	sp := newSpecimen(t)
	first, last := segments(t, sp.fs, "/spool")[0], newest(t, sp.fs)
	b, at := contents(t, sp.fs, first), sp.bounds[first]
	replace(t, sp.fs, first, slices.Concat(b[:at[0]], b[at[1]:]))
	for _, tt := range []struct {
		name string
		key  byte
		ok   bool
	}{{"stranger", 66, false}, {"spool key", 1, true}} {
		t.Run(tt.name, func(t *testing.T) {
			whole := contents(t, sp.fs, last)
			defer replace(t, sp.fs, last, whole)
			forged := spool.ForgeRepair(whole, sp.head, key(t, tt.key), sp.verify(t).Damage)
			replace(t, sp.fs, last, forged)
			if r := sp.verify(t); (r.Err() == nil) != tt.ok {
				t.Errorf("%v", r.Err())
			}
		})
	}
	// Nor does it help a stranger to have a header name the stranger's key, and to vouch for that
	// key in a further commit.
	forged := spool.ForgeRepair(contents(t, sp.fs, last), sp.head, key(t, 66), sp.verify(t).Damage)
	public := key(t, 66).Public()
	copy(forged[72:], public[:])
	replace(t, sp.fs, last, spool.Refit(forged, 0))
	r := sp.verify(t)
	if len(r.Damage) != 2 {
		t.Fatalf("damage: %v", r.Damage)
	}
	forged = spool.ForgeRepair(contents(t, sp.fs, last), r.Head, key(t, 66), r.Damage[1:])
	replace(t, sp.fs, last, forged)
	if r := sp.verify(t); len(r.Damage) != 2 {
		t.Errorf("a key that only a header names has repaired: %v", r.Damage)
	}
}

// The record that introduced the keys is lost: what they signed is served on, also under
// another key, as after a restore.
func TestRepair_LostKeys(t *testing.T) {
	sp := newSpecimen(t)
	first := segments(t, sp.fs, "/spool")[0]
	b := contents(t, sp.fs, first)
	b[128+60] ^= 1
	replace(t, sp.fs, first, b)
	sp.mended(t)
	all, _ := sp.served(t)
	if len(all) != specimenMessages {
		t.Fatalf("serves %v", all)
	}
	sp.options.Key = key(t, 33)
	if after, damage := sp.served(t); len(after) != len(all) || damage != nil {
		t.Errorf("under a new key: %v, %v", after, damage)
	}
}

// The record of a key that is not in force any more is lost. A commit by the key in force continues
// what that key has signed, so it is served on, before a repair and after.
func TestRepair_LostOldKeys(t *testing.T) {
	sp := newSpecimen(t)
	last := newest(t, sp.fs)
	sp.options.Key = key(t, 33)
	s := open(t, "/spool", sp.options)
	id := mustStore(t, s, box(1), text(90, 20)).ID
	sp.data[id] = text(90, 20)
	s.Close()
	first := segments(t, sp.fs, "/spool")[0]
	whole := contents(t, sp.fs, first)
	whole[128+60] ^= 1
	replace(t, sp.fs, first, whole)
	for range 2 {
		if ids, _ := sp.served(t); len(ids) != specimenMessages+1 {
			t.Errorf("serves %v", ids)
		}
		sp.options.FS = sp.fs
		sp.repair(t)
	}
	if r := sp.verify(t); r.Err() != nil {
		t.Error(r.Err())
	}
	// The commit that was continued goes, too. Now only the repair speaks for the old key.
	b, at := contents(t, sp.fs, last), sp.bounds[last]
	replace(t, sp.fs, last, slices.Concat(b[:at[len(at)-2]], b[at[len(at)-1]:]))
	for range 2 {
		if ids, _ := sp.served(t); len(ids) != specimenMessages {
			t.Errorf("serves %v", ids)
		}
		sp.options.FS = sp.fs
		sp.repair(t)
	}
}

// Refusing leaves everything as it is.
func TestRepair_Refused(t *testing.T) {
	sp := newSpecimen(t)
	first := segments(t, sp.fs, "/spool")[0]
	b := contents(t, sp.fs, first)
	i := bytes.Index(b, sp.data[2])
	b[i+5]++
	replace(t, sp.fs, first, b)
	no := errors.New("no")
	changes := 0
	sp.fs.Inject(func(c durabletest.Call) durabletest.Fault {
		if c.Op != "mkdir" && c.Op != "syncdir" && c.Path != "/spool/lock" { // all of which are there
			changes++
		}
		return durabletest.None
	})
	var plan spool.Plan
	_, err := spool.Repair(ctx, "/spool", sp.options, "tester", func(p spool.Plan) error { plan = p; return no })
	if !errors.Is(err, no) || len(plan.Damage) != 1 || fmt.Sprint(plan.Lost) != "[0000000000000002]" {
		t.Fatalf("%v, plan %+v", err, plan)
	}
	if !bytes.Equal(contents(t, sp.fs, first), b) || names(t, sp.fs, "/spool/tmp") != nil {
		t.Error("something was changed")
	}
	if changes > 0 {
		t.Errorf("%d calls that change something", changes)
	}
	s := open(t, "/spool", sp.options)
	if _, err := spool.Repair(ctx, "/spool", sp.options, "tester", func(spool.Plan) error { return nil }); !errors.Is(err, durable.ErrLocked) {
		t.Errorf("beside a writer: %v", err)
	}
	s.Close()
	m, _ := sp.repair(t)
	if fmt.Sprint(m.Removed) != "[0000000000000002]" || m.Vouched != 0 {
		t.Errorf("%+v", m)
	}
	if r := sp.verify(t); fmt.Sprint(r.Lost) != "[0000000000000002]" {
		t.Errorf("lost: %v", r.Lost)
	}
	kept := contents(t, sp.fs, filepath.Join("/spool", m.Quarantine, "log", filepath.Base(first)))
	if !bytes.Equal(kept, b) {
		t.Error("quarantine holds another file")
	}
}

// What was repaired goes on as any spool: removals, compaction, further starts.
func TestRepair_Compact(t *testing.T) {
	sp := newSpecimen(t)
	o := sp.options
	o.CompactRate = -1
	s := open(t, "/spool", o)
	for i := range 3 {
		sp.data[mustStore(t, s, box(1), text(100+i, 200)).ID] = text(100+i, 200)
	}
	s.Close()
	first := segments(t, sp.fs, "/spool")[0]
	b := contents(t, sp.fs, first)
	at := sp.bounds[first]
	b[at[0]+30] ^= 1 // the head of a message: its commit is left with nothing
	replace(t, sp.fs, first, b)
	sp.mended(t)
	o.FS = sp.fs
	s = open(t, "/spool", o)
	ids := []spool.ID{}
	for info, err := range s.All(0) {
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, info.ID)
	}
	if _, err := s.RemoveAll(ctx, ids[:2], "admin"); err != nil {
		t.Fatal(err)
	}
	mustStore(t, s, box(3), text(7, 3000))
	mustStore(t, s, box(3), text(8, 3000))
	if err := s.Compact(ctx); err != nil {
		t.Fatal(err)
	}
	s.Close()
	r := sp.verify(t)
	if r.Err() != nil || len(r.Scars) != 1 {
		t.Fatalf("%v, scars %v", r.Err(), r.Scars)
	}
	if bytes.Contains(contents(t, sp.fs, first), sp.data[ids[0]]) {
		t.Error("the removed message is still there")
	}
	for range 2 {
		s = open(t, "/spool", o)
		if d := s.Damage(); d != nil || s.Stats().Messages != len(ids) {
			t.Errorf("%v, %+v", d, s.Stats())
		}
		s.Close()
	}
	// Whichever index file is missing, wounds and repairs are found together.
	for _, name := range names(t, sp.fs, "/spool/index") {
		if strings.HasPrefix(name, strings.TrimSuffix(filepath.Base(first), ".seg")) {
			t.Errorf("a segment with a wound has the index file %s", name)
		}
		other := o
		to := durabletest.New()
		copyTree(sp.fs, to, "/", filepath.Join("/spool/index", name))
		other.FS = to
		s = open(t, "/spool", other)
		if d := s.Damage(); d != nil {
			t.Errorf("without %s: %v", name, d)
		}
		s.Close()
	}
}

// TestRepair_Faults fails every durable call of a repair in turn. Whatever is left, what was whole
// is served, and another repair ends what the first began.
func TestRepair_Faults(t *testing.T) {
	for _, fault := range []durabletest.Fault{durabletest.Before, durabletest.After, durabletest.Short} {
		for n := 1; ; n++ {
			sp, keep := wounded(t)
			first, reached := sp.fs.Calls(), false
			sp.fs.Inject(func(c durabletest.Call) durabletest.Fault {
				if c.N != first+n {
					return durabletest.None
				}
				reached = true
				return fault
			})
			spool.Repair(ctx, "/spool", sp.options, "tester", func(spool.Plan) error { return nil })
			if n%2 == 0 {
				sp.fs = sp.fs.Kill()
			} else {
				sp.fs = sp.fs.Crash(rand.New(rand.NewPCG(uint64(n), 3)))
			}
			sp.options.FS = sp.fs
			for range 2 {
				ids, _ := sp.served(t)
				for _, id := range keep {
					if !slices.Contains(ids, id) {
						t.Fatalf("call %d, fault %d: serves %v, not %v", n, fault, ids, keep)
					}
				}
				sp.repair(t)
				if r := sp.verify(t); r.Err() != nil {
					t.Fatalf("call %d, fault %d: %v", n, fault, r.Err())
				}
			}
			if !reached {
				if n < 40 {
					t.Errorf("only %d calls: the repair has shrunk", n)
				}
				break
			}
		}
	}
}

// wounded is a specimen with a gap, lost and damaged records, damaged large files, a strange
// file and bad headers, and what of it must still be served.
func wounded(t *testing.T) (*specimen, []spool.ID) {
	sp := newSpecimen(t)
	segs := segments(t, sp.fs, "/spool")
	b, at := contents(t, sp.fs, segs[0]), sp.bounds[segs[0]]
	i := bytes.Index(b, sp.data[2])
	b[i+3] ^= 1
	replace(t, sp.fs, segs[0], slices.Concat(b[:at[0]], []byte("junk"), b[at[1]:]))
	b = contents(t, sp.fs, segs[1])
	b[5] ^= 1
	replace(t, sp.fs, segs[1], b)
	names, _ := sp.fs.ReadDir("/spool/large")
	if err := sp.fs.Remove(filepath.Join("/spool/large", names[0])); err != nil {
		t.Fatal(err)
	}
	leave(t, sp.fs, "/spool/log/x")
	keep, _ := sp.served(t)
	sp.options.FS = sp.fs
	return sp, keep
}

// TestRepair_Fingerprint computes wounds by hand, from the bytes of the log and docs/spool.md alone.
func TestRepair_Fingerprint(t *testing.T) {
	sp := newSpecimen(t)
	first := segments(t, sp.fs, "/spool")[0]
	b, at := contents(t, sp.fs, first), sp.bounds[first]
	b[at[1]+24] ^= 1 // the only record of commit 4
	replace(t, sp.fs, first, slices.Concat(b[:at[0]], b[at[1]:]))
	sp.mended(t)
	var heads [][]byte // of the commits
	named := make(map[[32]byte]bool)
	for _, path := range segments(t, sp.fs, "/spool") {
		for b := contents(t, sp.fs, path)[128:]; len(b) > 0 && b[4] != 0; {
			h, d := int(binary.BigEndian.Uint16(b[6:])), int(binary.BigEndian.Uint32(b[16:]))
			switch head := b[24 : 24+h]; b[4] {
			case 1:
				heads = append(heads, head)
			case 9:
				named[[32]byte(head[25:57])] = true
				if who := string(head[89:]); who != "tester" {
					t.Errorf("repaired by %q", who)
				}
			}
			b = b[24+h+d:]
		}
	}
	place := func(head []byte) []byte { // number and hash
		hash := sha256.Sum256(head)
		return slices.Concat(head[:8], hash[:])
	}
	wound := func(class byte, at []byte, found [32]byte) [32]byte {
		return sha256.Sum256(slices.Concat([]byte("CMTP-1 spool wound\x00"), []byte{class}, place(at), found[:]))
	}
	want := map[[32]byte]bool{
		wound(1, heads[2], sha256.Sum256(place(heads[1]))): true, // commit 4 follows commit 2
		wound(2, heads[2], sha256.Sum256(nil)):             true, // and has nothing
	}
	if !maps.Equal(named, want) {
		t.Errorf("%v, want %v", named, want)
	}
}
