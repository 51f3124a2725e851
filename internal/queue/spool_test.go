package queue_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"cmtpd/internal/cmtp"
	"cmtpd/internal/crypt"
	"cmtpd/internal/durable"
	"cmtpd/internal/durable/durabletest"
	"cmtpd/internal/queue"
	"cmtpd/internal/spool"
)

func key(tb testing.TB, n byte) *crypt.PrivateKey {
	tb.Helper()
	k, err := crypt.PrivateKeyFromSeed(bytes.Repeat([]byte{n}, crypt.SeedSize))
	if err != nil {
		tb.Fatal(err)
	}
	return k
}

func options(tb testing.TB, fsys durable.FS) spool.Options {
	return spool.Options{FS: fsys, Key: key(tb, 1), Identity: key(tb, 2), NoSpare: true, CompactRate: -1}
}

// message makes one to bob in a domain; n tells it from others.
func message(tb testing.TB, domain string, n int) []byte {
	tb.Helper()
	b := fmt.Appendf(nil, "%100d", n)
	h := cmtp.Header{System: cmtp.SystemSealed, LogLength: 1, BodyLength: uint64(len(b)), DestinationAccount: "bob", DestinationDomain: domain,
		SourceAccount: "alice", SourceDomain: "example.org"}
	return append(append(h.Append(nil), 0), b...)
}

func store(s *spool.Spool, data []byte) (spool.ID, error) {
	w := s.NewWriter()
	defer w.Abort()
	if _, err := w.Write(data); err != nil {
		return 0, err
	}
	stored, err := w.Commit(context.Background(), spool.Entry{Mailbox: outgoing, Digest: sha256.Sum256(data), Received: time.Now()})
	return stored.ID, err
}

// A ledger is the servers and senders of TestQueue_Spool: both know what they have seen before.
type ledger struct {
	mu        sync.Mutex
	delivered map[[32]byte]int
	reported  map[[32]byte]int
	began     time.Time
}

func (l *ledger) Open(_ context.Context, domain string) (queue.Session, error) {
	if domain == "dead.example" {
		return nil, errDown
	}
	return l, nil
}

func (l *ledger) Close() error { return nil }

func (l *ledger) Send(_ context.Context, items []queue.Item) (results []queue.Result, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, i := range items {
		switch {
		case i.Domain == "refusing.example":
			results = append(results, queue.Result{Outcome: queue.Permanent, Status: 550, Text: "no"})
		case i.Domain == "later.example" && i.State.Attempts == 1:
			results = append(results, queue.Result{Outcome: queue.Temporary, Status: 450, Text: "later"})
		default:
			l.delivered[i.Digest]++
			results = append(results, queue.Result{Outcome: queue.Delivered})
		}
	}
	return results, nil
}

func (l *ledger) Failed(_ context.Context, i queue.Item) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reported[i.Digest]++
	return nil
}

func (l *ledger) Delayed(context.Context, queue.Item, time.Time) error { return nil }

// serve runs a queue over a spool until nothing is left in it, or it stops. The clock is hours
// ahead each time it is asked, so that nothing waits long.
func (l *ledger) serve(tb testing.TB, s *spool.Spool) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	q, err := queue.New(queue.Config{Store: queue.Spool{Spool: s}, Mailbox: outgoing, Deliverer: l, Reporter: l, Batch: 3, Now: l.now})
	if err != nil {
		tb.Fatal(err)
	}
	go func() { // what waits for the clock is asked for again
		for ctx.Err() == nil {
			q.RetryAll()
			time.Sleep(100 * time.Microsecond)
			if s.Stats().Messages == 0 {
				cancel()
			}
		}
	}()
	return q.Run(ctx)
}

func (l *ledger) now() time.Time { return l.began.Add(time.Since(l.began) * 100_000_000) }

// TestQueue_Spool fails each durable call of the disk under a real spool in turn, and loses what was not
// flushed: every message arrives or is reported, and none both.
func TestQueue_Spool(t *testing.T) {
	total, step := 0, 1
	if testing.Short() || raceEnabled {
		step = 5
	}
	for _, fault := range []durabletest.Fault{durabletest.Before, durabletest.After, durabletest.Short} {
		for n := 1 + total%step; ; n += step {
			if !faulty(t, n, fault) {
				break
			}
			total++
		}
	}
	if total < 40/step {
		t.Errorf("only %d faults: the workload has shrunk", total)
	}
	t.Logf("%d faults", total)
}

func faulty(t *testing.T, n int, fault durabletest.Fault) (reached bool) {
	t.Helper()
	fsys := durabletest.New()
	s, err := spool.Open("/spool", options(t, fsys))
	if err != nil {
		t.Fatal(err)
	}
	digests := map[[32]byte]bool{}
	for i := range 20 {
		m := message(t, []string{"good.example", "later.example", "refusing.example", "dead.example"}[i%4], i)
		if _, err := store(s, m); err != nil {
			t.Fatal(err)
		}
		digests[sha256.Sum256(m)] = true
	}
	first := fsys.Calls()
	var mu sync.Mutex
	fsys.Inject(func(c durabletest.Call) durabletest.Fault {
		mu.Lock()
		defer mu.Unlock()
		if c.N != first+n {
			return durabletest.None
		}
		reached = true
		return fault
	})
	l := &ledger{delivered: map[[32]byte]int{}, reported: map[[32]byte]int{}, began: time.Now()}
	for start := 0; ; start++ {
		err := l.serve(t, s)
		left := s.Stats().Messages
		s.Close() // after a failure it says so again
		if err == nil && left == 0 {
			break
		}
		if start > 0 || err != nil && !errors.Is(err, spool.ErrFailed) {
			t.Fatalf("call %d, fault %d, start %d: %v, %d left", n, fault, start, err, left)
		}
		fsys = fsys.Crash(rand.New(rand.NewPCG(uint64(n), 1)))
		if s, err = spool.Open("/spool", options(t, fsys)); err != nil {
			t.Fatal(err)
		}
	}
	for d := range digests {
		if min(l.delivered[d], 1)+min(l.reported[d], 1) != 1 || l.delivered[d] > 2 || l.reported[d] > 2 {
			t.Errorf("call %d, fault %d: message %x was delivered %d times and reported %d times", n, fault, d, l.delivered[d], l.reported[d])
		}
	}
	return reached
}

// TestQueue_Start measures how long a queue takes to be read from a spool.
func TestQueue_Start(t *testing.T) {
	n := 100_000
	if testing.Short() || raceEnabled {
		n = 2000
	}
	s, err := spool.Open(t.TempDir(), options(t, durable.OS))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var wait sync.WaitGroup
	for w := range 64 {
		wait.Go(func() {
			for i := w; i < n; i += 64 {
				if _, err := store(s, message(t, fmt.Sprintf("d%d.example", i%(n/10)), i)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wait.Wait()
	q, err := queue.New(queue.Config{Store: queue.Spool{Spool: s}, Mailbox: outgoing})
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := q.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d messages are read in %s", n, time.Since(began))
	if st := q.Stats(); st.Queued != n || st.Destinations != n/10 {
		t.Errorf("%+v", st)
	}
}
