package spool_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
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
// it takes to open after a clean stop, after a kill, and without an index, how long to prove it,
// and what is resident. It takes minutes and 4 KiB of disk for each message, so it has to be asked
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
	s := open(t, dir, o)
	start := time.Now()
	fill(t, s, n)
	t.Logf("filled with %d messages: %v, resident %s", n, time.Since(start), resident(t))
	head := s.Head()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	reopen := func(what string) {
		start := time.Now()
		s := open(t, dir, o)
		t.Logf("open %s: %v, %d segments, resident %s", what, time.Since(start), s.Stats().Segments, resident(t))
		if st := s.Stats(); st.Messages != int(n) || st.Head != head {
			t.Errorf("%+v", st)
		}
		start = time.Now()
		listed := 0
		for _, err := range s.List(scaleBox(7), 0) {
			if err != nil {
				t.Fatal(err)
			}
			listed++
		}
		t.Logf("a mailbox of %d messages listed: %v", listed, time.Since(start))
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
