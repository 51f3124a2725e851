package main_test

import (
	"context"
	"flag"
	"math/rand/v2"
	"strconv"
	"testing"
	"time"

	"cmtpd/internal/cmtptest"
	"cmtpd/internal/discovery/dnstest"
)

var (
	outages     = flag.Int("outages", 15, "how often TestFederation_Outages kills a server or DNS")
	letters     = flag.Int("letters", 1000, "how many letters cross in TestFederation_Outages")
	outagePause = flag.Duration("outagepause", 400*time.Millisecond, "the longest time between two outages of TestFederation_Outages")
	outageSeed  = flag.Uint64("outageseed", rand.Uint64(), "the seed of TestFederation_Outages")
)

const (
	outageSenders = 4   // connections that send
	perReport     = 16  // of so many letters one is to nobody, and has to be reported
	perLarge      = 250 // and one has a file of its own in the spool
	perLine       = 10  // of so many pauses at most a sender's connection holds
	perForgotten  = 8   // and of so many batches one is sent again when it has long arrived
	down          = time.Second / 5
	standstill    = 2 * time.Minute // after which something hangs: DNS's failures are remembered for half a minute
)

// TestFederation_Outages kills the sending server, the receiving one and DNS at random moments
// while mail crosses. What the first was given arrives once, or is reported once where there is
// nobody to take it.
func TestFederation_Outages(t *testing.T) {
	t.Parallel()
	t.Logf("-outageseed %d", *outageSeed)
	w := newWorld(t)
	a, b := w.realm("a.example", cmtptest.Settings{"metrics.listen": `"127.0.0.1:0"`, "log.level": `"info"`}), w.realm("b.example", cmtptest.Settings{"log.level": `"info"`})
	ch := w.signIn(a)
	o := &outage{world: w, a: a, b: b, random: rand.New(rand.NewPCG(*outageSeed, 0)), kills: map[string]int{},
		seal: w.keyOf(ch, b), key: w.ring(ch, a), begun: make(chan int, outageSenders*pipelined)}
	o.addr = a.Shared[0]
	ch.Close()

	began := time.Now()
	ended := o.send()
	share := func(n int) int { return n * *letters / *outages }
	for n := range *outages {
		fed := o.feed(share(n), share(n+1))
		o.strike()
		select {
		case <-fed:
		case err := <-ended:
			t.Fatal(err)
		}
	}
	close(o.begun)
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	sent := time.Since(began)
	a.Must(t, "", "queue", "retry", "--all") // else it remembers for half a minute that DNS failed
	o.awaitEmpty()
	o.sendForgotten()
	o.awaitEmpty()
	a.Stop(t)
	b.Stop(t)
	o.check()
	t.Logf("killed %v; %d letters were sent in %s, %d of them more than once, and had crossed after %s",
		o.kills, *letters, sent.Round(time.Second), o.repeated.Load(), time.Since(began).Round(time.Second))
}

// feed gives letters to the senders, while other things happen.
func (o *outage) feed(from, to int) (fed <-chan struct{}) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := from; i < to; i++ {
			select {
			case o.begun <- i:
			case <-o.Context().Done():
				return
			}
		}
	}()
	return done
}

// strike kills something after a while, and brings it back.
func (o *outage) strike() {
	o.Helper()
	o.pause(*outagePause)
	switch victims := o.random.IntN(8); {
	case victims < 3:
		o.kill("a", o.a)
	case victims < 6:
		o.kill("b", o.b)
	case victims == 6:
		o.kill("both", o.a, o.b)
	default:
		o.kills["dns"]++
		o.dns.Close()
		o.pause(down)
		o.dnsAgain()
	}
}

func (o *outage) pause(most time.Duration) { <-time.After(time.Duration(o.random.Int64N(int64(most)))) }

// kill kills servers, some of them once more while they start.
func (o *outage) kill(name string, victims ...*realm) {
	o.Helper()
	o.kills[name]++
	for _, r := range victims {
		r.Bury(o)
	}
	o.pause(down)
	for _, r := range victims {
		if o.random.IntN(4) == 0 {
			o.kills[name+" at its start"]++
			r.stillborn(o.world, time.Duration(o.random.Int64N(int64(down))))
		}
		r.again(o.world, nil)
	}
}

// stillborn starts a server and kills it as soon as it serves, or after a while.
func (r *realm) stillborn(w *world, after time.Duration) {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.Context(), after)
	defer cancel()
	d, err := cmtptest.Launch(ctx, r.Program, r.Config)
	if err == nil {
		d.Bury(w)
	} else if ctx.Err() == nil {
		w.Fatal(err)
	}
}

// dnsAgain starts the name server where it was.
func (w *world) dnsAgain() {
	w.Helper()
	s, err := dnstest.Listen(w.dns.Addr, w.zoneText())
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(s.Close)
	w.dns = s
}

// awaitEmpty waits until nothing is in the sending server's queue, as long as it moves.
func (o *outage) awaitEmpty() {
	o.Helper()
	tick := time.NewTicker(100 * time.Millisecond) // nothing tells when a message has left
	defer tick.Stop()
	left, since := -1, time.Now()
	for left != 0 {
		<-tick.C
		n, err := strconv.Atoi(metric(o.T, o.a.Daemon, "cmtpd_queue_messages"))
		switch {
		case err != nil:
			o.Fatal(err)
		case n != left:
			left, since = n, time.Now()
		case time.Since(since) > standstill:
			o.Fatalf("%d messages do not leave the queue:\n%s", left, o.a.Log())
		}
	}
}
