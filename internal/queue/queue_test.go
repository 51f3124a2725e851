package queue_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"cmtpd/internal/queue"
	"cmtpd/internal/spool"
)

// run runs a queue until the function that it returns is called.
func run(t *testing.T, cfg queue.Config) (*queue.Queue, func() error) {
	t.Helper()
	cfg.Mailbox = outgoing
	q, err := queue.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- q.Run(ctx) }()
	return q, func() error {
		cancel()
		return <-done
	}
}

func stopped(t *testing.T, stop func() error) {
	t.Helper()
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// TestQueue_Delivers: one connection for all messages to a destination, whether they were there or come.
func TestQueue_Delivers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		w := newWorld(t.Errorf, f, func(string) *site { return &site{dial: time.Second, send: time.Second} })
		for id := range spool.ID(150) {
			f.add(id+1, "Example.NET.", time.Now())
		}
		q, stop := run(t, queue.Config{Store: f, Deliverer: w, Reporter: w})
		pass(time.Minute)
		f.add(151, "example.net", time.Now())
		q.Added(151, "example.net")
		pass(time.Minute)
		stopped(t, stop)
		if len(w.delivered) != 151 || f.left() != 0 || w.opens["example.net"] > 3 {
			t.Errorf("%d delivered, %d left, %d connections", len(w.delivered), f.left(), w.opens["example.net"])
		}
		if by := f.gone[151]; by != "delivered to example.net" {
			t.Errorf("removed by %q", by)
		}
		if s := q.Stats(); s != (queue.Stats{}) {
			t.Errorf("stats %+v", s)
		}
	})
}

// TestQueue_Backoff: a dead destination is dialled once for all its messages, at times that double up to
// the longest, each a fifth more or less; its messages are given up at their own age, each after one notice.
func TestQueue_Backoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		var dials []time.Time
		s := &site{up: func(time.Time) bool { return false }, onOpen: func(now time.Time, _ error) { dials = append(dials, now) }}
		w := newWorld(t.Errorf, f, func(string) *site { return s })
		began := time.Now()
		for id := range spool.ID(1000) {
			f.add(id+1, "example.net", time.Now().Add(time.Duration(id)*time.Second))
		}
		_, stop := run(t, queue.Config{Store: f, Deliverer: w, Reporter: w})
		pass(11 * 24 * time.Hour)
		stopped(t, stop)
		want, gaps := time.Minute, map[time.Duration]bool{}
		for n := 1; n < len(dials); n++ {
			gap := dials[n].Sub(dials[n-1])
			if gap < want*8/10 || gap > want*12/10+2*time.Second {
				t.Errorf("dial %d came %s after the one before, want %s", n+1, gap, want)
			}
			want = min(2*want, 4*time.Hour)
			gaps[gap.Round(time.Minute)] = true
		}
		if len(gaps) < len(dials)/2 {
			t.Errorf("only %d different waits", len(gaps))
		}
		if len(dials) < 55 || len(dials) > 85 {
			t.Errorf("%d dials", len(dials))
		}
		for id := spool.ID(1); id <= 1000; id++ {
			arrived := began.Add(time.Duration(id-1) * time.Second)
			if age := w.told[id].Sub(arrived); w.reported[id] != 1 || age < 240*time.Hour || age > 240*time.Hour+3*time.Minute {
				t.Fatalf("message %s: %d reports, after %s", id, w.reported[id], age)
			}
			if age := w.late[id].Sub(arrived); w.noticed[id] != 1 || age < 4*time.Hour || age > 4*time.Hour+3*time.Minute {
				t.Fatalf("message %s: %d notices, after %s", id, w.noticed[id], age)
			}
		}
		if f.left() != 0 || len(w.delivered) != 0 {
			t.Errorf("%d left, %d delivered", f.left(), len(w.delivered))
		}
		if r := w.reports[1].State; r.Reason != errDown.Error() || r.Attempts < 50 {
			t.Errorf("the report says %+v", r)
		}
	})
}

// TestQueue_MessageFails: only the message waits that failed, and one that failed for good is reported at once.
func TestQueue_MessageFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		w := newWorld(t.Errorf, f, func(string) *site {
			return &site{fate: func(i queue.Item) queue.Result {
				switch {
				case i.ID == 2 && i.State.Attempts < 3:
					return queue.Result{Outcome: queue.Temporary, Status: 451, Text: "try\nlater"}
				case i.ID == 3:
					return queue.Result{Outcome: queue.Permanent, Status: 550, Text: "no such user"}
				case i.ID == 4:
					return queue.Result{Outcome: queue.Distrusted, Text: "its key has changed"}
				}
				return queue.Result{Outcome: queue.Delivered}
			}}
		})
		for id := range spool.ID(5) {
			f.add(id+1, "example.net", time.Now())
		}
		q, stop := run(t, queue.Config{Store: f, Deliverer: w, Reporter: w})
		pass(10 * time.Second)
		if len(w.delivered) != 2 || w.reported[3] != 1 || f.left() != 2 || f.gone[3] != "reported to its sender" {
			t.Errorf("delivered %v, reported %v, %d left", w.delivered, w.reported, f.left())
		}
		two, err := q.Show(2)
		if err != nil || two.Status != 451 || two.Reason != "try later" || two.Condition != queue.Waiting || two.Attempts != 1 {
			t.Errorf("%+v, %v", two, err)
		}
		if four, err := q.Show(4); err != nil || four.Condition != queue.Distrust || four.Reason != "its key has changed" {
			t.Errorf("%+v, %v", four, err)
		}
		pass(5 * time.Minute)
		if w.delivered[2] != 1 || f.left() != 1 {
			t.Errorf("delivered %v", w.delivered)
		}
		if r := w.reports[3].State; r.Status != 550 || r.Reason != "no such user" || r.Attempts != 1 {
			t.Errorf("the report says %+v", r)
		}
		stopped(t, stop)
	})
}

// TestQueue_Receipt: the log has the whole of a receipt, in parts.
func TestQueue_Receipt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, log := newFake(), new(strings.Builder)
		head := spool.Head{Number: 12345678901234567, Hash: [32]byte(bytes.Repeat([]byte{0xab}, 32))}
		w := newWorld(t.Errorf, f, func(string) *site {
			return &site{fate: func(i queue.Item) queue.Result {
				r := queue.Receipt{Host: "mx.example.net"}
				if i.ID == 1 {
					r.Head, r.At = head, time.Unix(1795723200, 0)
				}
				return queue.Result{Outcome: queue.Delivered, Receipt: r}
			}}
		})
		f.add(1, "example.net", time.Now())
		f.add(2, "example.net", time.Now())
		_, stop := run(t, queue.Config{Store: f, Deliverer: w, Reporter: w, Log: slog.New(slog.NewTextHandler(log, nil))})
		pass(10 * time.Second)
		stopped(t, stop)
		digest := strings.Repeat("0", 64) // the fake store's
		for _, want := range []string{
			`msg="message delivered" message=0000000000000001 digest=` + digest + ` domain=example.net host=mx.example.net head=` + head.String() + " at=2026-11-26T20:00:00.000Z\n",
			`msg="message delivered" message=0000000000000002 digest=` + digest + ` domain=example.net host=mx.example.net receipt=false` + "\n",
		} {
			if !strings.Contains(log.String(), want) {
				t.Errorf("there is no %s in\n%s", want, log)
			}
		}
	})
}

// TestQueue_DestinationRefuses: where nothing can ever be sent, all messages are reported.
func TestQueue_DestinationRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		w := newWorld(t.Errorf, f, func(string) *site {
			return &site{refuses: queue.Result{Outcome: queue.Permanent, Text: "takes no mail"}}
		})
		for id := range spool.ID(250) {
			f.add(id+1, "example.net", time.Now())
		}
		_, stop := run(t, queue.Config{Store: f, Deliverer: w, Reporter: w})
		pass(time.Minute)
		stopped(t, stop)
		if len(w.reported) != 250 || f.left() != 0 || w.opens["example.net"] != 3 {
			t.Errorf("%d reported, %d left, %d connections", len(w.reported), f.left(), w.opens["example.net"])
		}
	})
}

// TestQueue_ReportFails: a message whose report cannot be written stays until it can, and is not sent again.
func TestQueue_ReportFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		tries := 0
		w := newWorld(t.Errorf, f, func(string) *site {
			return &site{fate: func(queue.Item) queue.Result { return queue.Result{Outcome: queue.Permanent} }}
		})
		w.reporting = func(spool.ID) error {
			if tries++; tries < 5 {
				return errors.New("no room")
			}
			return nil
		}
		f.add(1, "example.net", time.Now())
		q, stop := run(t, queue.Config{Store: f, Deliverer: w, Reporter: w})
		pass(2 * time.Minute)
		if e, err := q.Show(1); err != nil || e.Condition != queue.GivenUp {
			t.Errorf("%+v, %v", e, err)
		}
		pass(10 * time.Minute)
		stopped(t, stop)
		if w.reported[1] != 1 || f.left() != 0 || w.sent[1].Attempts != 1 || tries != 5 {
			t.Errorf("%d reports after %d tries, %d left, sent %+v", w.reported[1], tries, f.left(), w.sent[1])
		}
	})
}

// TestQueue_Broken: a session that breaks leaves what it did not answer for later, and is dialled
// again at once for the rest; one that answers nothing is a failure of the destination.
func TestQueue_Broken(t *testing.T) {
	for _, answers := range []int{0, 30} {
		t.Run(fmt.Sprint(answers), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake()
				w := newWorld(t.Errorf, f, func(string) *site { return &site{cut: func(int) int { return answers }} })
				for id := range spool.ID(250) {
					f.add(id+1, "example.net", time.Now())
				}
				_, stop := run(t, queue.Config{Store: f, Deliverer: w, Reporter: w})
				pass(10 * time.Second)
				opens := w.opens["example.net"]
				if answers == 0 && opens != 1 || answers > 0 && (opens != 3 || len(w.delivered) != 90) {
					t.Errorf("%d connections, %d delivered", opens, len(w.delivered))
				}
				stopped(t, stop)
			})
		})
	}
}

// TestQueue_Restart: what was recorded of a destination and of a message is kept through a restart.
func TestQueue_Restart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		var dials []time.Time
		down := &site{up: func(time.Time) bool { return false }, onOpen: func(now time.Time, _ error) { dials = append(dials, now) }}
		w := newWorld(t.Errorf, f, func(string) *site { return down })
		for id := range spool.ID(100) {
			f.add(id+1, "example.net", time.Now())
		}
		for range 300 { // every few minutes, for a day
			_, stop := run(t, queue.Config{Store: f, Deliverer: w, Reporter: w})
			pass(5*time.Minute - time.Second)
			stopped(t, stop)
		}
		if len(dials) < 10 || len(dials) > 25 {
			t.Errorf("%d dials in 25 hours", len(dials))
		}
		if len(w.noticed) != 100 || w.noticed[7] != 1 {
			t.Errorf("%d notices", len(w.noticed))
		}
	})
}

// TestQueue_Closed: without a deliverer nothing happens, and the queue says why.
func TestQueue_Closed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.add(1, "example.net", time.Now())
		q, stop := run(t, queue.Config{Store: f, Closed: "nobody delivers"})
		pass(100 * 24 * time.Hour)
		e, err := q.List("", 0, 10)
		if err != nil || len(e) != 1 || e[0].Text != "waits: nobody delivers" || f.calls != 0 {
			t.Errorf("%+v, %v", e, err)
		}
		stopped(t, stop)
	})
}

// TestQueue_Config refuses what cannot work.
func TestQueue_Config(t *testing.T) {
	f := newFake()
	w := newWorld(t.Errorf, f, nil)
	good := queue.Config{Store: f, Mailbox: outgoing, Deliverer: w, Reporter: w}
	if _, err := queue.New(good); err != nil {
		t.Error(err)
	}
	for n, spoil := range []func(*queue.Config){
		func(c *queue.Config) { c.Store = nil },
		func(c *queue.Config) { c.Mailbox = spool.MailboxID{} },
		func(c *queue.Config) { c.Reporter = nil },
		func(c *queue.Config) { c.FirstRetry = time.Second - 1 },
		func(c *queue.Config) { c.FirstRetry = 5 * time.Hour },
		func(c *queue.Config) { c.Workers = 1<<14 + 1 },
		func(c *queue.Config) { c.PerDomain = -1 },
		func(c *queue.Config) { c.Batch = 1025 },
	} {
		bad := good
		spoil(&bad)
		if _, err := queue.New(bad); !errors.Is(err, queue.ErrConfig) {
			t.Errorf("case %d: %v", n, err)
		}
	}
}

// TestQueue_Added races with the reading of the mailbox: no message is taken twice or forgotten.
func TestQueue_Added(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		w := newWorld(t.Errorf, f, func(string) *site { return &site{} })
		var last atomic.Uint64
		add := func() spool.ID {
			id := spool.ID(last.Add(1))
			f.add(id, "example.net", time.Now())
			return id
		}
		for range 1000 {
			add()
		}
		q, stop := run(t, queue.Config{Store: f, Deliverer: w, Reporter: w})
		for range 1000 {
			q.Added(add(), "example.net")
			if rand.IntN(100) == 0 {
				pass(time.Millisecond)
			}
		}
		pass(time.Minute)
		stopped(t, stop)
		if s := q.Stats(); len(w.delivered) != 2000 || s.Queued != 0 {
			t.Errorf("%d delivered, %+v", len(w.delivered), s)
		}
		for id, n := range w.delivered {
			if n != 1 {
				t.Fatalf("message %s was delivered %d times", id, n)
			}
		}
	})
}

// TestQueue_Late: a message that was in the mailbox when it was read, and of which Added says so only then, is one
// message, whether it still waits, is on its way or is delivered already.
func TestQueue_Late(t *testing.T) {
	for name, s := range map[string]*site{
		"waits": {up: func(now time.Time) bool { return now.Second() > 2 }}, "on its way": {send: time.Second}, "delivered": {},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake()
				w := newWorld(t.Errorf, f, func(string) *site { return s })
				f.add(1, "example.net", time.Now())
				f.add(2, "example.net", time.Now())
				q, stop := run(t, queue.Config{Store: f, Deliverer: w, Reporter: w})
				synctest.Wait()
				q.Added(2, "example.net")
				pass(time.Hour)
				stopped(t, stop)
				if s := q.Stats(); len(w.delivered) != 2 || w.delivered[1] != 1 || w.delivered[2] != 1 || s.Queued != 0 {
					t.Errorf("delivered %v, %+v", w.delivered, s)
				}
			})
		})
	}
}

// TestQueue_GivenUp: what was given up is not sent any more, even if the destination returns between the
// report and the removal, and there is a crash.
func TestQueue_GivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, s := newFake(), &site{up: func(time.Time) bool { return false }}
		w := newWorld(t.Errorf, f, func(string) *site { return s })
		f.add(1, "example.net", time.Now())
		cfg := queue.Config{Store: f, Deliverer: w, Reporter: w}
		w.reporting = func(spool.ID) error {
			f.inject = func(int) fault { return before }
			return nil
		}
		_, stop := run(t, cfg)
		pass(11 * day)
		if err := stop(); !errors.Is(err, spool.ErrFailed) {
			t.Errorf("it ended with %v", err)
		}
		f.restart()
		s.up, w.reporting = nil, nil
		_, stop = run(t, cfg)
		pass(time.Hour)
		stopped(t, stop)
		if w.delivered[1] != 0 || w.reported[1] != 2 || f.left() != 0 {
			t.Errorf("delivered %v, reported %v, %d left", w.delivered, w.reported, f.left())
		}
	})
}

// TestQueue_RestartLate: a destination that fails again after a restart gives up what is too old, also
// where its sender was told of the delay before.
func TestQueue_RestartLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		w := newWorld(t.Errorf, f, func(string) *site { return &site{up: func(time.Time) bool { return false }} })
		f.add(1, "example.net", time.Now())
		f.add(2, "example.net", time.Now())
		cfg := queue.Config{Store: f, Deliverer: w, Reporter: w}
		_, stop := run(t, cfg)
		pass(day)
		stopped(t, stop)
		pass(20 * day)
		opens := w.opens["example.net"]
		_, stop = run(t, cfg)
		pass(5 * time.Minute)
		stopped(t, stop)
		if w.reported[1] != 1 || w.reported[2] != 1 || w.opens["example.net"] != opens+1 {
			t.Errorf("reported %v, after %d more dials", w.reported, w.opens["example.net"]-opens)
		}
	})
}

// TestQueue_Returned: once a destination answers, nothing on disk says that all of its messages wait.
func TestQueue_Returned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		began := time.Now()
		w := newWorld(t.Errorf, f, func(string) *site {
			return &site{
				up: func(now time.Time) bool { return now.Sub(began) > time.Hour },
				fate: func(queue.Item) queue.Result {
					for id := range spool.ID(3) {
						info, err := f.Get(id + 1)
						if s, parseErr := queue.ParseState(info.Mark); err != nil || parseErr != nil || s.Attempts > 1 && s.Flags&queue.FlagDestination != 0 {
							t.Errorf("while it answers: %+v, %v, %v", s, err, parseErr)
						}
					}
					return queue.Result{Outcome: queue.Temporary}
				},
			}
		})
		for id := range spool.ID(3) {
			f.add(id+1, "example.net", time.Now())
		}
		_, stop := run(t, queue.Config{Store: f, Deliverer: w, Reporter: w})
		pass(3 * time.Hour)
		stopped(t, stop)
		if w.sent[1].Attempts == 0 {
			t.Error("nothing was sent")
		}
	})
}

// pass lets time go by, until everybody waits again: what they have written may be
// read then.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}
