package federation_test

import (
	"fmt"
	"sync"
	"testing"

	"cmtpd/internal/federation"
	"cmtpd/internal/queue"
)

// From one spool into another, in batches of 100, over one connection and over several.
func BenchmarkDeliverer(b *testing.B) {
	for _, connections := range []int{1, 8} {
		b.Run(fmt.Sprint("connections=", connections), func(b *testing.B) { deliverAll(b, connections) })
	}
}

func deliverAll(b *testing.B, connections int) {
	w := newWorld(b)
	a := w.site("a.example", "127.0.0.2", options{}, "alice")
	w.site("b.example", "127.0.0.3", options{}, "bob")
	items := make([]queue.Item, b.N)
	each(b.N, func(i int) { items[i] = a.queued("alice", "bob@b.example", "", 2000) })
	d := federation.NewDeliverer(a.peers, a.spool, "mx.a.example")
	batches := make(chan []queue.Item, b.N)
	for len(items) > 0 {
		n := min(len(items), 100)
		batches <- items[:n]
		items = items[n:]
	}
	close(batches)
	b.ResetTimer()
	var all sync.WaitGroup
	for range connections {
		all.Go(func() {
			o, err := d.Open(b.Context(), "b.example")
			if err != nil {
				b.Error(err)
				return
			}
			defer o.Close()
			for some := range batches {
				if r, err := o.Send(b.Context(), some); err != nil || len(r) != len(some) {
					b.Error(len(r), err)
				}
			}
		})
	}
	all.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "messages/s")
}

// Answers that are known.
func BenchmarkKeys_Lookup(b *testing.B) {
	w := newWorld(b)
	a := w.site("a.example", "127.0.0.2", options{}, "alice")
	w.site("b.example", "127.0.0.3", options{}, "bob")
	keys := keysOf(a)
	if _, err := lookup(b, keys, "bob@b.example"); err != nil {
		b.Fatal(err)
	}
	who := name("bob@b.example")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := keys.Lookup(b.Context(), who, nil); err != nil {
			b.Fatal(err)
		}
	}
}
