package spool_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"

	"cmtpd/internal/durable/durabletest"
	"cmtpd/internal/spool"
)

// A process ends between the write of a removal and its flush, and the power fails while the next one starts: what
// the removal took away is either recorded as removed, or still there.
func TestOpen_CrashAfterUnflushedRemoval(t *testing.T) {
	for stop := 1; ; stop++ {
		reached := false
		for seed := range uint64(40) {
			fsys, o, id, data := unflushedRemoval(t)
			first := fsys.Calls()
			fsys.Inject(func(c durabletest.Call) durabletest.Fault {
				if c.N < first+stop {
					return durabletest.None
				}
				reached = true
				return durabletest.Before
			})
			o.FS = fsys
			if s, err := spool.Open("/spool", o); err == nil {
				s.Close()
			}
			after := fsys.Crash(rand.New(rand.NewPCG(seed, 7)))
			o.FS = after
			s, err := spool.Open("/spool", o)
			if err != nil {
				t.Fatal(err)
			}
			got, err := read(s, id)
			if !errors.Is(err, spool.ErrNotFound) && (err != nil || !bytes.Equal(got, data)) {
				t.Fatalf("call %d, seed %d: %v, damage %v", stop, seed, err, s.Damage())
			}
			s.Close()
		}
		if !reached {
			if stop < 5 {
				t.Fatal("the start made only few calls")
			}
			return
		}
	}
}

// unflushedRemoval returns what a process leaves that ends before it has flushed a removal.
func unflushedRemoval(t *testing.T) (*durabletest.FS, spool.Options, spool.ID, []byte) {
	t.Helper()
	fsys, o := durabletest.New(), options(t)
	o.FS, o.LargeThreshold, o.CompactRate = fsys, 100, -1
	s, err := spool.Open("/spool", o)
	if err != nil {
		t.Fatal(err)
	}
	data := text(1, 200)
	id := mustStore(t, s, box(1), data).ID
	fsys.Inject(func(c durabletest.Call) durabletest.Fault {
		if c.Op == "sync" {
			return durabletest.Before
		}
		return durabletest.None
	})
	if err := s.Remove(ctx, id, ""); err == nil {
		t.Fatal("no fault")
	}
	killed := fsys.Kill()
	s.Close()
	return killed, o, id, data
}
