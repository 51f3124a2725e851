package spool_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cmtpd/internal/durable"
	"cmtpd/internal/spool"
)

// TestScale fills a spool with SPOOL_SCALE messages of 4 KiB in 10,000 mailboxes and reports how long
// it takes to mark all, to open after a clean stop, after a kill, and without an index, how long to
// prove it, and what is resident. It takes minutes and 4 KiB of disk for each message, so it has to be asked
// for; SPOOL_SCALE_DIR says where.
func TestScale(t *testing.T) {
	n, err := strconv.ParseInt(os.Getenv("SPOOL_SCALE"), 10, 64)
	if err != nil || n <= 0 {
		t.Skip("SPOOL_SCALE is not a number of messages")
	}
	dir, err := os.MkdirTemp(os.Getenv("SPOOL_SCALE_DIR"), "scale")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	o := options(t)
	s, err := spool.Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	fresh()
	start := time.Now()
	fill(t, s, n)
	t.Logf("filled with %d messages: %v, resident %s", n, time.Since(start), resident(t))
	fresh()
	start = time.Now()
	before := s.Head()
	markEach(t, s, n)
	t.Logf("marked all: %v, %d flushes, resident %s", time.Since(start), s.Head().Number-before.Number, resident(t))
	head := s.Head()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	reopen := func(what string) {
		fresh()
		start := time.Now()
		s, err := spool.Open(dir, o) // not open, which would hold it to the test's end
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("open %s: %v, %d segments, resident %s", what, time.Since(start), s.Stats().Segments, resident(t))
		if st := s.Stats(); st.Messages != int(n) || st.Head != head {
			t.Errorf("%+v", st)
		}
		start = time.Now()
		listed := 0
		for info, err := range s.List(scaleBox(7), 0) {
			if err != nil || info.Mark.Flags == 0 {
				t.Fatal(info, err)
			}
			listed++
		}
		t.Logf("a mailbox of %d messages listed: %v", listed, time.Since(start))
		for _, after := range []uint64{0, before.LastChange(), head.LastChange() - 1<<19} {
			start = time.Now()
			t.Logf("its %d changes after %d: %v", len(changes(t, s, scaleBox(7), after)), after, time.Since(start))
		}
		s.Close()
	}
	reopen("after a clean stop")
	names, err := filepath.Glob(filepath.Join(dir, "index", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range names[max(0, len(names)-4):] { // more than a kill leaves unwritten
		os.Remove(path)
	}
	reopen("after a kill that took four index files")
	os.RemoveAll(filepath.Join(dir, "index"))
	reopen("without an index")
	start = time.Now()
	r, err := spool.Verify(ctx, durable.OS, dir, o.Identity.Public(), nil, head)
	if err != nil || r.Err() != nil {
		t.Fatal(err, r.Err())
	}
	t.Logf("proved %d bytes: %v", r.Bytes, time.Since(start))
}

func scaleBox(n uint64) (m spool.MailboxID) {
	h := sha256.Sum256(fmt.Appendf(nil, "mailbox %d", n))
	return spool.MailboxID(h[:16])
}

func fill(t *testing.T, s *spool.Spool, n int64) {
	var next atomic.Int64
	var wg sync.WaitGroup
	for range 128 {
		wg.Go(func() {
			data := text(1, 4096)
			for i := next.Add(1); i <= n; i = next.Add(1) {
				binary.BigEndian.PutUint64(data, uint64(i))
				w := s.NewWriter()
				w.Write(data)
				_, err := w.Commit(ctx, spool.Entry{Mailbox: scaleBox(uint64(i*7919) % 10000), Digest: sha256.Sum256(data[:8]), From: "192.0.2.1:4711"})
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// markEach marks all messages, in an order that is neither that of their numbers nor of their mailboxes.
func markEach(t *testing.T, s *spool.Spool, n int64) {
	var next atomic.Int64
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for at := next.Add(100) - 100; at < n; at = next.Add(100) - 100 {
				var some []spool.Marking
				for i := at; i < min(at+100, n); i++ {
					id := 1 + uint64(i)*1_000_003%uint64(n)
					some = append(some, spool.Marking{ID: spool.ID(id), Mark: spool.Mark{Flags: spool.FlagSeen, Keywords: []byte("words")[:5*(id%2)]}})
				}
				if _, err := s.MarkAll(ctx, some); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// fresh makes the process as small as it can be, and forgets the most that it held: what resident
// returns then belongs to what was done since.
func fresh() {
	debug.FreeOSMemory()
	os.WriteFile("/proc/self/clear_refs", []byte("5"), 0) // only Linux can
}

// resident returns what the process holds and the most that it held.
func resident(t *testing.T) string {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return "unknown"
	}
	var found []string
	for line := range bytes.Lines(b) {
		if bytes.HasPrefix(line, []byte("VmRSS")) || bytes.HasPrefix(line, []byte("VmHWM")) {
			found = append(found, strings.Join(strings.Fields(string(line)), " "))
		}
	}
	return strings.Join(found, ", ")
}
