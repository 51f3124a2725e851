package session_test

import (
	"fmt"
	"io"
	"math"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"cmtpd/internal/cmtp"
	"cmtpd/internal/durable"
	"cmtpd/internal/durable/durabletest"
)

// An openFS counts the segments that are open for reading.
type openFS struct {
	durable.FS
	opened, open atomic.Int64
}

func (o *openFS) Open(path string) (durable.File, error) {
	f, err := o.FS.Open(path)
	if err != nil || filepath.Base(filepath.Dir(path)) != "log" {
		return f, err
	}
	o.opened.Add(1)
	o.open.Add(1)
	return &openFile{f, o}, nil
}

type openFile struct {
	durable.File
	of *openFS
}

func (f *openFile) Close() error {
	f.of.open.Add(-1)
	return f.File.Close()
}

// none waits until no segment is open.
func (o *openFS) none(t *testing.T, when string) {
	t.Helper()
	for end := time.Now().Add(patience); o.open.Load() > 0; runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatalf("%d segments are open %s", o.open.Load(), when)
		}
	}
}

// deliverMany sends alice messages, and returns them with the FETCHes of them in their order.
func (s *server) deliverMany(n, size int) (messages []string, fetches []string) {
	s.tb.Helper()
	for i := range n {
		messages = append(messages, s.deliver(fmt.Sprint("many ", i), size))
	}
	for _, e := range s.reader().list() {
		fetches = append(fetches, fetchBytes(cmtp.FetchQuery{Number: e.Number, Length: math.MaxUint64}))
	}
	if len(fetches) != n {
		s.tb.Fatalf("alice has %d messages", len(fetches))
	}
	return messages, fetches
}

// Many FETCHes at once are answered in their order, from a segment that is opened few times, and that nobody has open
// while the client says nothing, or not all of a command, or another one.
func TestFetch_Pipelined(t *testing.T) {
	fsys := &openFS{FS: durabletest.New()}
	s := serve(t, setup{fs: fsys})
	messages, fetches := s.deliverMany(60, 2000)
	c := s.reader()
	for i, end := range []string{"", "FETCH\x00\x00", "WAIT\x00", "NOOP\x00"} {
		before := fsys.opened.Load()
		go io.WriteString(c, strings.Repeat(strings.Join(fetches, ""), 4)+end)
		for range 4 {
			for i, want := range messages {
				if got := c.expect(cmtp.StatusDone, "FETCH"); string(got) != want {
					t.Fatalf("message %d has %d bytes", i, len(got))
				}
			}
		}
		if n := fsys.opened.Load() - before; n > 20 {
			t.Errorf("a segment was opened %d times for %d messages", n, 4*len(messages))
		}
		fsys.none(t, fmt.Sprintf("behind %q", end))
		if i == 1 || i == 2 {
			c = s.reader()
		}
	}
}

// Who asks for something else between two FETCHes has nothing open meanwhile: it may take long.
func TestFetch_Between(t *testing.T) {
	fsys := &openFS{FS: durabletest.New()}
	s := serve(t, setup{fs: fsys})
	_, fetches := s.deliverMany(2, 2000)
	c := s.reader()
	before := fsys.opened.Load()
	c.send(fetches[0] + "NOOP\x00" + fetches[1])
	for range 3 {
		c.reply()
	}
	if n := fsys.opened.Load() - before; n != 2 {
		t.Errorf("a segment was opened %d times", n)
	}
}

// A damaged message among many is refused, and no other one is.
func TestFetch_Pipelined_Damage(t *testing.T) {
	s := serve(t, setup{})
	messages, fetches := s.deliverMany(60, 2000)
	for i := 10; i < 60; i += 20 {
		flip(t, filepath.Join(s.dir, "spool"), messages[i][len(messages[i])-700:])
	}
	c := s.reader()
	go io.WriteString(c, strings.Join(fetches, "")+"NOOP\x00")
	for i, want := range messages {
		status, got := c.reply()
		if bad := i%20 == 10; bad && status != cmtp.StatusTrouble || !bad && (status != cmtp.StatusDone || string(got) != want) {
			t.Errorf("message %d: %d, %d bytes", i, status, len(got))
		}
	}
	c.expect(cmtp.StatusDone, "NOOP")
}

// What is removed, and what comes, between two FETCHes of a batch is gone, or there, for the second. Long messages
// between short ones are what they were.
func TestFetch_Pipelined_Changes(t *testing.T) {
	s := serve(t, setup{})
	messages, fetches := s.deliverMany(30, 2000)
	long := s.deliver("long", 400<<10)
	middle := s.deliver("middle", 40<<10)
	c := s.reader()
	e := c.list()
	get := func(i int) string { return fetchBytes(cmtp.FetchQuery{Number: e[i].Number, Length: math.MaxUint64}) }
	go io.WriteString(c, strings.Join(fetches, "")+get(30)+get(0)+get(31)+deleteBytes(e[3].Number)+strings.Join(fetches, ""))
	for i, want := range append(append([]string(nil), messages...), long, messages[0], middle) {
		if got := c.expect(cmtp.StatusDone, "FETCH"); string(got) != want {
			t.Fatalf("message %d has %d bytes", i, len(got))
		}
	}
	c.expect(cmtp.StatusDone, "DELETE")
	for i, want := range messages {
		if status, got := c.reply(); i == 3 && status != cmtp.StatusNoMessage || i != 3 && string(got) != want {
			t.Errorf("message %d: %d, %d bytes", i, status, len(got))
		}
	}
}

// A client that asks for much and takes nothing costs what it is bounded to, and leaves nothing behind when it is gone.
func TestFetch_Pipelined_Left(t *testing.T) {
	fsys := &openFS{FS: durabletest.New()}
	s := serve(t, setup{fs: fsys})
	_, fetches := s.deliverMany(60, 15000)
	s.reader().below.Close()
	goroutines := runtime.NumGoroutine()
	for range 5 {
		c := s.reader()
		go io.WriteString(c, strings.Repeat(strings.Join(fetches, ""), 20))
		c.expect(cmtp.StatusDone, "FETCH")
		c.below.Close()
	}
	fsys.none(t, "though all have left")
	noneLeft(t, goroutines)
}
