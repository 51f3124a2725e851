package spool_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"sync"
	"testing"

	"cmtpd/internal/crypt"
	"cmtpd/internal/durable"
	"cmtpd/internal/spool"
)

var ctx = context.Background()

func key(tb testing.TB, n byte) *crypt.PrivateKey {
	tb.Helper()
	k, err := crypt.PrivateKeyFromSeed(bytes.Repeat([]byte{n}, 32))
	if err != nil {
		tb.Fatal(err)
	}
	return k
}

func options(tb testing.TB) spool.Options {
	return spool.Options{FS: durable.OS, Key: key(tb, 1), Identity: key(tb, 2), NoSpare: true}
}

func open(tb testing.TB, dir string, o spool.Options) *spool.Spool {
	tb.Helper()
	s, err := spool.Open(dir, o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { s.Close() })
	return s
}

func box(n byte) spool.MailboxID { return spool.MailboxID{n} }

// entryOf makes the entry of a test's message: the digest is the content's.
func entryOf(mailbox spool.MailboxID, data []byte) spool.Entry {
	return spool.Entry{Mailbox: mailbox, Digest: sha256.Sum256(data), From: "192.0.2.1:4711"}
}

func store(s *spool.Spool, mailbox spool.MailboxID, data []byte) (spool.Stored, error) {
	w := s.NewWriter()
	defer w.Abort()
	if _, err := w.Write(data); err != nil {
		return spool.Stored{}, err
	}
	return w.Commit(ctx, entryOf(mailbox, data))
}

func mustStore(tb testing.TB, s *spool.Spool, mailbox spool.MailboxID, data []byte) spool.Stored {
	tb.Helper()
	st, err := store(s, mailbox, data)
	if err != nil {
		tb.Fatal(err)
	}
	return st
}

func read(s *spool.Spool, id spool.ID) ([]byte, error) {
	r, err := s.Open(id)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

func text(n, size int) []byte {
	b := bytes.Repeat(fmt.Appendf(nil, "message %d ", n), size/10+1)
	return b[:size]
}

func TestSpool_Roundtrip(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "spool")
	o := options(t)
	s := open(t, dir, o)
	sizes := []int{0, 1, 4096, 100_000, 256<<10 - 1, 256 << 10, 1 << 20}
	want := make(map[spool.ID][]byte)
	for i, size := range sizes {
		data := text(i, size)
		st := mustStore(t, s, box(byte(1+i%2)), data)
		if st.Duplicate {
			t.Errorf("message %d is a duplicate", i)
		}
		want[st.ID] = data
	}
	check := func(s *spool.Spool) {
		t.Helper()
		n := 0
		for info, err := range s.All(0) {
			if err != nil {
				t.Fatal(err)
			}
			n++
			data, err := read(s, info.ID)
			if err != nil || !bytes.Equal(data, want[info.ID]) {
				t.Errorf("message %s: %d bytes, %v", info.ID, len(data), err)
			}
			if info.Large != (len(data) >= 256<<10) || info.Size != int64(len(data)) ||
				info.From != "192.0.2.1:4711" || info.Commit == 0 {
				t.Errorf("message %s: %+v", info.ID, info)
			}
		}
		if n != len(sizes) {
			t.Errorf("%d messages, want %d", n, len(sizes))
		}
	}
	check(s)
	head := s.Head()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir, o)
	if s.Head() != head {
		t.Errorf("head is %v, was %v", s.Head(), head)
	}
	check(s)
	ro, err := spool.OpenReadOnly(dir, durable.OS)
	if err != nil {
		t.Fatal(err)
	}
	check(ro)
	report, err := spool.Verify(ctx, durable.OS, dir, o.Identity.Public(), nil, head)
	if err != nil || report.Err() != nil {
		t.Fatal(err, report.Err())
	}
	if report.Head != head || report.Messages != uint64(len(sizes)) {
		t.Errorf("report: %+v", report)
	}
}

func TestSpool_Duplicate(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, options(t))
	for _, size := range []int{100, 300 << 10} {
		data := text(1, size)
		first := mustStore(t, s, box(1), data)
		again := mustStore(t, s, box(1), data)
		if !again.Duplicate || again.ID != first.ID {
			t.Errorf("size %d: %+v after %+v", size, again, first)
		}
		if other := mustStore(t, s, box(2), data); other.Duplicate {
			t.Errorf("size %d: a duplicate in another mailbox", size)
		}
	}
	for sub, want := range map[string]int{"large": 2, "tmp": 0} {
		if names, err := durable.OS.ReadDir(filepath.Join(dir, sub)); err != nil || len(names) != want {
			t.Errorf("%s holds %v, %v", sub, names, err)
		}
	}
}

func TestSpool_Concurrent(t *testing.T) {
	dir := t.TempDir()
	o := options(t)
	o.SegmentSize = 64 << 10
	s := open(t, dir, o)
	const writers, each = 100, 10
	var wg sync.WaitGroup
	var mu sync.Mutex
	ids := make(map[spool.ID]bool)
	stored := 0
	for i := range writers {
		wg.Go(func() {
			for j := range each {
				// Neighbours store the same message: half of all are duplicates.
				st, err := store(s, box(1), text(i/2*each+j, 500))
				if err != nil {
					t.Error(err)
					return
				}
				if _, err := s.Get(st.ID); err != nil {
					t.Errorf("an acknowledged message: %v", err)
				}
				mu.Lock()
				ids[st.ID] = true
				if !st.Duplicate {
					stored++
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if len(ids) != writers*each/2 || stored != len(ids) {
		t.Errorf("%d messages, %d not duplicates, want %d", len(ids), stored, writers*each/2)
	}
	if st := s.Stats(); st.Messages != len(ids) || st.Memory != 0 || st.Segments < 2 {
		t.Errorf("%+v", st)
	}
	s.Close()
	if report, err := spool.Verify(ctx, durable.OS, dir, o.Identity.Public(), nil); err != nil || report.Err() != nil {
		t.Error(err, report.Err())
	}
	if _, err := store(s, box(1), text(1, 1)); !errors.Is(err, spool.ErrClosed) {
		t.Errorf("store after Close: %v", err)
	}
}
