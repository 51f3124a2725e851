package spool_test

import (
	"context"
	"errors"
	"testing"

	"cmtpd/internal/durable/durabletest"
	"cmtpd/internal/spool"
)

// TestSpool_Probe: it is answered by a committer that comes by, without anything being written, and not by
// one that a flush holds.
func TestSpool_Probe(t *testing.T) {
	fsys := durabletest.New()
	o := options(t)
	o.FS = fsys
	s := open(t, "/spool", o)
	head, calls := s.Head(), fsys.Calls()
	for range 3 {
		if err := s.Probe(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if s.Head() != head || fsys.Calls() != calls {
		t.Errorf("it has made %d calls, and the head is %v", fsys.Calls()-calls, s.Head())
	}

	held, free := make(chan struct{}, 100), make(chan struct{})
	fsys.Inject(func(c durabletest.Call) durabletest.Fault {
		if c.Op == "sync" {
			held <- struct{}{}
			<-free
		}
		return durabletest.None
	})
	stored := make(chan error, 1)
	go func() {
		_, err := store(s, box(1), []byte("message"))
		stored <- err
	}()
	<-held
	over, cancel := context.WithCancel(t.Context())
	cancel()
	for range 3 {
		if err := s.Probe(over); !errors.Is(err, context.Canceled) {
			t.Errorf("while a flush is held: %v", err)
		}
	}
	waiting := make(chan error, 1)
	go func() { waiting <- s.Probe(t.Context()) }()
	close(free)
	if err := errors.Join(<-stored, <-waiting); err != nil {
		t.Errorf("once the flush is done: %v", err)
	}
}

// TestSpool_Probe_Stopped: a spool that acknowledges nothing any more is not alive.
func TestSpool_Probe_Stopped(t *testing.T) {
	fsys := durabletest.New()
	o := options(t)
	o.FS = fsys
	s := open(t, "/spool", o)
	fsys.Inject(func(c durabletest.Call) durabletest.Fault {
		if c.Op == "sync" {
			return durabletest.Before
		}
		return durabletest.None
	})
	if _, err := store(s, box(1), []byte("message")); !errors.Is(err, spool.ErrFailed) {
		t.Fatalf("got %v", err)
	}
	if err := s.Probe(t.Context()); !errors.Is(err, spool.ErrFailed) {
		t.Errorf("after a failure: %v", err)
	}
	s.Close()
	if err := s.Probe(t.Context()); !errors.Is(err, spool.ErrClosed) {
		t.Errorf("when it is closed: %v", err)
	}
}
