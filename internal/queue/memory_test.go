package queue_test

import (
	"context"
	"fmt"
	"iter"
	"runtime"
	"testing"
	"time"

	"cmtpd/internal/cmtp"
	"cmtpd/internal/queue"
	"cmtpd/internal/spool"
)

// A crowd is a store of many messages that takes no memory itself.
type crowd struct {
	n, domains int
	state      spool.Mark // of each
}

func (c *crowd) List(mailbox spool.MailboxID, after spool.ID) iter.Seq2[spool.Info, error] {
	return func(yield func(spool.Info, error) bool) {
		for id := after + 1; id <= spool.ID(c.n); id++ {
			if i, err := c.Get(id); !yield(i, err) {
				return
			}
		}
	}
}

func (c *crowd) Get(id spool.ID) (spool.Info, error) {
	return spool.Info{ID: id, Entry: spool.Entry{Mailbox: outgoing, Received: time.Now()}, Mark: c.state}, nil
}

func (c *crowd) Header(id spool.ID) (cmtp.Header, error) {
	return cmtp.Header{DestinationDomain: fmt.Sprintf("destination-%d.example", int(id)%c.domains)}, nil
}

func (c *crowd) MarkAll(_ context.Context, all []spool.Marking) ([]spool.Marked, error) {
	return make([]spool.Marked, len(all)), nil
}

func (c *crowd) RemoveAll(context.Context, []spool.ID, string) (int, error) { return 0, nil }

func heapBytes() int64 {
	var m runtime.MemStats
	for range 3 {
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// TestQueue_Memory: a message that waits takes at most 200 bytes, its part of its destination included,
// whether it waits for that or for a time of its own.
func TestQueue_Memory(t *testing.T) {
	n := 1_000_000
	if testing.Short() || raceEnabled {
		n = 100_000
	}
	own := queue.State{Attempts: 1, First: time.Now(), Last: time.Now(), Next: time.Now().Add(time.Hour)}
	for _, tt := range []struct {
		name  string
		each  int // messages to a destination
		state spool.Mark
		most  int64 // bytes
	}{
		{"destinations", 10, spool.Mark{}, 100},
		{"own times", 10, own.Mark(), 100},
		{"one each", 1, spool.Mark{}, 300},
		{"one for all", n, spool.Mark{}, 50},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := heapBytes()
			q, err := queue.New(queue.Config{Store: &crowd{n, n / tt.each, tt.state}, Mailbox: outgoing})
			if err != nil {
				t.Fatal(err)
			}
			if err := q.Load(t.Context()); err != nil {
				t.Fatal(err)
			}
			each := (heapBytes() - before) / int64(n)
			t.Logf("%d bytes for each of %d messages to %d destinations", each, n, n/tt.each)
			if each > tt.most {
				t.Errorf("more than %d", tt.most)
			}
			if s := q.Stats(); s.Queued != n || s.Destinations != n/tt.each {
				t.Errorf("%+v", s)
			}
		})
	}
}
