package queue_test

import (
	"fmt"
	"reflect"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"cmtpd/internal/queue"
	"cmtpd/internal/spool"
)

// sums are the parts of a Summary that are counted, in its order, the total first and the others last.
func sums(s queue.Summary) (all []string) {
	line := func(name string, c queue.Sum, reason string) {
		age, next := "-", "-"
		if c.Oldest != nil {
			age = s.Time.Sub(*c.Oldest).String()
		}
		if c.Next != nil {
			next = c.Next.Sub(s.Time).String()
		}
		all = append(all, fmt.Sprintf("%s %d, %d held, %d sending, %s %v next %s %s", name, c.Messages, c.Held, c.Sending, age, c.Ages, next, reason))
	}
	line(fmt.Sprint(s.Destinations), s.Total, "")
	for _, d := range s.Most {
		line(d.Domain, d.Sum, fmt.Sprint(d.Status, " ", d.Reason))
	}
	line("others", s.Others, "")
	return all
}

func same(t *testing.T, what string, s queue.Summary, err error, want ...string) {
	t.Helper()
	if got := sums(s); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%s, %v:\n%q\nwant\n%q", what, err, got, want)
	}
}

// TestQueue_Summary: all messages are counted once, by destination and age, whoever has them at the moment and whatever they wait for; with
// the last reason, and the same from disk.
func TestQueue_Summary(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, now := newFake(), time.Now()
		fate := func(i queue.Item) queue.Result {
			return queue.Result{Outcome: queue.Temporary, Status: 450 + uint16(i.ID), Text: "not now"}
		}
		sites := map[string]*site{"down.example": {up: func(time.Time) bool { return false }}, "slow.example": {send: 5 * time.Minute}, "no.example": {fate: fate}}
		w := newWorld(t.Errorf, f, func(d string) *site { return sites[d] })
		id := spool.ID(0)
		for _, m := range []struct {
			domain string
			age    time.Duration
		}{
			{"down.example", 97 * time.Hour}, {"down.example", 95 * time.Hour}, {"down.example", 4*time.Hour + 1}, {"down.example", 0},
			{"no.example", time.Hour - time.Second}, {"no.example", 6 * time.Minute}, {"slow.example", 5*time.Minute - time.Second},
		} {
			id++
			f.add(id, m.domain, now.Add(-m.age))
		}
		cfg := queue.Config{Store: f, Deliverer: w, Reporter: w, DelayNotice: 9 * day, Random: func() float64 { return 0.5 }}
		q, stop := run(t, cfg)
		pass(time.Second / 2)
		if _, err := q.Hold([]spool.ID{2, 5}); err != nil {
			t.Error(err)
		}
		s, err := q.Summary(10)
		down := "down.example 4, 1 held, 0 sending, 97h0m0s [1 0 0 1 1 1] next 1m0s 0 connection refused"
		no := "no.example 2, 1 held, 0 sending, 59m59s [0 2 0 0 0 0] next 1m0s 456 not now"
		all := " held, 1 sending, 97h0m0s [2 2 0 1 1 1] next - "
		same(t, "all", s, err, "3 7, 2"+all, down, no,
			"slow.example 1, 0 held, 1 sending, 4m59s [1 0 0 0 0 0] next - 0 ", "others 0, 0 held, 0 sending, - [0 0 0 0 0 0] next - ")
		s, err = q.Summary(1)
		same(t, "one", s, err, "3 7, 2"+all, down, "others 3, 1 held, 1 sending, 59m59s [1 2 0 0 0 0] next - ")
		if s, err = q.Summary(0); err != nil || len(s.Most) != 0 || !reflect.DeepEqual(s.Others, s.Total) {
			t.Errorf("%+v, %v", s, err)
		}
		pass(2 * time.Second)
		f.add(8, "no.example", time.Now())
		q.Added(8, "no.example")
		pass(time.Second)
		cold, coldErr := queue.Summarize(t.Context(), f, outgoing, 2)
		if s, err = q.Summary(2); err != nil || coldErr != nil || s.Most[1].Status != 458 || cold.Most[1].Status != 458 {
			t.Errorf("the last to fail: %+v, %v; from disk %+v, %v", s.Most[1], err, cold.Most[1], coldErr)
		}
		if n, err := q.Drop([]spool.ID{6, 8}, "root", false); n != 2 || err != nil {
			t.Error(err)
		}
		if s, err = q.Summary(2); s.Most[1].Status != 455 {
			t.Errorf("of what is left: %+v, %v", s.Most[1], err)
		}
		stopped(t, stop)
		s, err = queue.Summarize(t.Context(), f, outgoing, 1)
		same(t, "from disk", s, err, "3 6, 2 held, 0 sending, 97h0m3s [1 1 1 1 1 1] next 57s ",
			"down.example 4, 1 held, 0 sending, 97h0m3s [1 0 0 1 1 1] next 57s 0 connection refused",
			"others 2, 1 held, 0 sending, 1h0m2s [0 1 1 0 0 0] next 57s ")
	})
}

// TestQueue_Summary_Order: the destinations with the most messages, in order, however many there are; and no more than are allowed.
func TestQueue_Summary_Order(t *testing.T) {
	for _, n := range []int{1, 3, queue.MaxEntries, queue.MaxEntries + 1} {
		f := newFake()
		for id := range spool.ID(2100) {
			f.add(id+1, fmt.Sprintf("d%d.example", id%2000), time.Now())
		}
		s, err := queue.Summarize(t.Context(), f, outgoing, n)
		want := min(n, queue.MaxEntries)
		if err != nil || len(s.Most) != want || s.Destinations != 2000 || s.Total.Messages != 2100 || s.Others.Messages != 2100-want-min(want, 100) {
			t.Errorf("%d: %d shown of %d, %d and %d messages, %v", n, len(s.Most), s.Destinations, s.Total.Messages, s.Others.Messages, err)
		}
		for i, d := range s.Most {
			if d.Messages != map[bool]int{true: 2, false: 1}[i < 100] {
				t.Fatalf("%d has %d messages", i, d.Messages)
			}
		}
	}
}

// TestQueue_Summary_Memory: a summary of a million messages, of a domain each, takes the memory of what it shows.
func TestQueue_Summary_Memory(t *testing.T) {
	n := 1_000_000
	if testing.Short() || raceEnabled {
		n = 100_000
	}
	q, err := queue.New(queue.Config{Store: &crowd{n, n, spool.Mark{}}, Mailbox: outgoing})
	if err != nil {
		t.Fatal(err)
	}
	if err := q.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	began := time.Now()
	s, err := q.Summary(100)
	took := time.Since(began)
	runtime.ReadMemStats(&after)
	t.Logf("%d bytes, %s", after.TotalAlloc-before.TotalAlloc, took)
	if err != nil || s.Total.Messages != n || s.Others.Messages != n-100 || after.TotalAlloc-before.TotalAlloc > 1<<20 {
		t.Errorf("%+v, %v, %d bytes", s.Total, err, after.TotalAlloc-before.TotalAlloc)
	}
}
