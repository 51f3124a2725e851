package queue_test

import (
	"errors"
	"fmt"
	"hash/maphash"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"cmtpd/internal/queue"
	"cmtpd/internal/spool"
)

const day = 24 * time.Hour

// TestQueue_Weeks runs thousands of destinations with every kind of fault for weeks, with restarts, against
// a simple model: each message is delivered or reported, once; none before its time; who gives up has
// tried for as long as it has to; and where nothing is wrong nothing waits.
func TestQueue_Weeks(t *testing.T) {
	domains, messages := 3000, 30000
	if testing.Short() || raceEnabled {
		domains, messages = 400, 4000
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	synctest.Test(t, func(t *testing.T) { newSim(t, seed, domains).run(messages) })
}

// A sim is one run of TestQueue_Weeks.
type sim struct {
	t       *testing.T
	random  *rand.Rand
	began   time.Time
	store   *fake
	world   *world
	sites   map[string]*site
	kinds   map[string]string
	domains int
	arrived map[spool.ID]time.Time
	to      map[spool.ID]string
}

func newSim(t *testing.T, seed uint64, domains int) *sim {
	s := &sim{t: t, random: rand.New(rand.NewPCG(seed, 1)), began: time.Now(), store: newFake(), domains: domains,
		sites: map[string]*site{}, kinds: map[string]string{}, arrived: map[spool.ID]time.Time{}, to: map[spool.ID]string{}}
	for n := range domains {
		name := fmt.Sprintf("d%d.example", n)
		s.kinds[name], s.sites[name] = s.makeSite(n)
	}
	s.world = newWorld(t.Errorf, s.store, func(domain string) *site { return s.sites[domain] })
	return s
}

// makeSite makes a destination of one of the kinds.
func (s *sim) makeSite(n int) (kind string, of *site) {
	of = &site{dial: time.Duration(s.random.IntN(200)) * time.Millisecond, send: time.Duration(s.random.IntN(300)) * time.Millisecond}
	phase := time.Duration(s.random.Int64N(int64(day)))
	switch n % 10 {
	case 0:
		of.up = func(time.Time) bool { return false }
		return "dead", of
	case 1: // does not even refuse
		of.dial, of.up = time.Hour, func(time.Time) bool { return false }
		return "silent", of
	case 2:
		of.up = func(now time.Time) bool { return now.Sub(s.began) > 3*day+phase }
		return "returning", of
	case 3:
		of.up = func(now time.Time) bool { return (now.Sub(s.began)+phase)%(3*time.Hour) < 90*time.Minute }
		return "flapping", of
	case 4:
		of.send = time.Minute
		return "slow", of
	case 5:
		of.cut = func(int) int { return rand.IntN(3) }
		return "cutting", of
	}
	of.fate = fate
	return "healthy", of
}

var fates = maphash.MakeSeed()

// fate is what a healthy destination says to a message: mostly yes, to some after a while, to some no.
func fate(i queue.Item) queue.Result {
	switch n := maphash.Comparable(fates, i.ID) % 100; {
	case n < 5:
		return queue.Result{Outcome: queue.Permanent, Status: 550, Text: "no such user"}
	case n < 20 && i.State.Attempts < uint16(n):
		return queue.Result{Outcome: queue.Temporary, Status: 450, Text: "not now"}
	case n < 22 && i.State.Attempts < 4:
		return queue.Result{Outcome: queue.Distrusted, Text: "its key has changed"}
	}
	return queue.Result{Outcome: queue.Delivered}
}

// run has messages arrive within a week, and restarts the queue now and then.
func (s *sim) run(messages int) {
	cfg := queue.Config{Store: s.store, Deliverer: s.world, Reporter: s.world, Random: s.random64}
	q, stop := run(s.t, cfg)
	for n := range messages {
		time.Sleep(time.Duration(s.random.Int64N(int64(2 * 7 * day / time.Duration(messages)))))
		id, domain := spool.ID(n+1), fmt.Sprintf("d%d.example", s.random.IntN(s.domains))
		s.arrived[id], s.to[id] = time.Now(), domain
		s.store.add(id, domain, time.Now())
		q.Added(id, domain)
		if n%(messages/20) == messages/40 {
			stopped(s.t, stop)
			q, stop = run(s.t, cfg)
		}
	}
	time.Sleep(12 * day)
	if st := q.Stats(); st != (queue.Stats{}) || s.store.left() != 0 {
		s.t.Errorf("in the end: %+v, %d left", st, s.store.left())
	}
	stopped(s.t, stop)
	counts := map[string]int{}
	for id := range s.arrived {
		s.judge(id, counts)
	}
	s.t.Logf("%v, at most %d connections, %d commits", counts, s.world.most, s.store.commit)
	for _, kind := range []string{"dead reported", "silent reported", "returning delivered", "flapping delivered", "slow delivered", "cutting delivered", "healthy delivered", "healthy reported"} {
		if counts[kind] == 0 {
			s.t.Errorf("no message was %s", kind)
		}
	}
	if s.world.most > 64 {
		s.t.Errorf("%d connections", s.world.most)
	}
}

func (s *sim) random64() float64 { return rand.Float64() }

// judge holds what became of a message to the model.
func (s *sim) judge(id spool.ID, counts map[string]int) {
	w, kind := s.world, s.kinds[s.to[id]]
	delivered, reported := w.delivered[id], w.reported[id]
	if delivered+reported != 1 {
		s.t.Errorf("message %s to a %s destination was delivered %d times and reported %d times", id, kind, delivered, reported)
		return
	}
	took := w.at[id].Sub(s.arrived[id])
	switch {
	case reported == 1 && w.reports[id].State.Status == 550:
		took = w.told[id].Sub(s.arrived[id])
		if kind != "healthy" {
			s.t.Errorf("message %s to a %s destination was refused", id, kind)
		}
	case reported == 1:
		took = w.told[id].Sub(s.arrived[id])
		if kind == "healthy" || kind == "slow" || kind == "flapping" || took < 10*day || took > 10*day+10*time.Minute {
			s.t.Errorf("message %s to a %s destination was given up after %s", id, kind, took)
		}
	case kind == "dead" || kind == "silent":
		s.t.Errorf("message %s to a %s destination was delivered", id, kind)
	case kind == "healthy" && w.sent[id].Attempts == 1 && took > time.Minute:
		s.t.Errorf("message %s to a healthy destination took %s, with one attempt", id, took)
	}
	if late := took > 4*time.Hour; late && w.noticed[id] == 0 && took > 4*time.Hour+5*time.Minute || !late && w.noticed[id] > 0 || w.noticed[id] > 1 {
		s.t.Errorf("message %s was on its way for %s, with %d notices", id, took, w.noticed[id])
	}
	what := "delivered"
	if reported == 1 {
		what = "reported"
	}
	counts[kind+" "+what]++
}

// TestQueue_Crash stops the store at every durable call, with its effect and without, and starts
// again: every message arrives or is reported, and none both.
func TestQueue_Crash(t *testing.T) {
	crashes := 0
	for _, how := range []fault{before, after} {
		for at := 1; ; at++ {
			reached := false
			synctest.Test(t, func(t *testing.T) { reached = crash(t, at, how) })
			if !reached {
				break
			}
			crashes++
		}
	}
	if crashes < 60 {
		t.Errorf("only %d crashes: the workload has shrunk", crashes)
	}
	t.Logf("%d crashes", crashes)
}

func crash(t *testing.T, at int, how fault) (reached bool) {
	f := newFake()
	f.inject = func(call int) fault {
		if call < at {
			return none
		}
		reached = true
		return how
	}
	began := time.Now()
	w := newWorld(t.Errorf, f, func(domain string) *site {
		s := &site{fate: func(i queue.Item) queue.Result {
			switch {
			case i.ID%10 == 0:
				return queue.Result{Outcome: queue.Permanent, Status: 550}
			case i.ID%7 == 0 && i.State.Attempts < 3:
				return queue.Result{Outcome: queue.Temporary, Status: 450}
			}
			return queue.Result{Outcome: queue.Delivered}
		}}
		switch domain {
		case "late.example":
			s.up = func(now time.Time) bool { return now.Sub(began) > 6*time.Hour }
		case "dead.example":
			s.up = func(now time.Time) bool { return false }
		}
		return s
	})
	for id := range spool.ID(40) {
		f.add(id+1, []string{"good.example", "late.example", "dead.example"}[id%3], time.Now())
	}
	cfg := queue.Config{Store: f, Mailbox: outgoing, Deliverer: w, Reporter: w, Batch: 5, LastRetry: 2 * time.Hour, MaxAge: day}
	for start := 0; ; start++ {
		_, stop := run(t, cfg)
		time.Sleep(2 * day)
		err := stop()
		if err == nil {
			break
		}
		if !errors.Is(err, spool.ErrFailed) || start > 0 {
			t.Fatalf("start %d: %v", start, err)
		}
		f.restart()
	}
	for id := spool.ID(1); id <= 40; id++ {
		// A crash between the receipt and its commit has the message sent again: its receiver knows it.
		if d, r := min(w.delivered[id], 1), min(w.reported[id], 1); d+r != 1 || w.delivered[id] > 2 || w.reported[id] > 2 || w.noticed[id] > 2 {
			t.Errorf("call %d, fault %d: message %s was delivered %d times, reported %d times, noticed %d times", at, how, id, w.delivered[id], w.reported[id], w.noticed[id])
		}
	}
	if f.left() != 0 {
		t.Errorf("call %d, fault %d: %d left", at, how, f.left())
	}
	return reached
}

// TestQueue_Fair: what is delivered to good destinations, with as many bad ones beside them that all are
// due, takes at most a fifth longer than without these.
func TestQueue_Fair(t *testing.T) {
	each := 50000
	if testing.Short() || raceEnabled {
		each = 5000
	}
	for _, kind := range []string{"refusing", "silent", "slow"} {
		t.Run(kind, func(t *testing.T) {
			alone, beside := drain(t, each, 0, kind), drain(t, each, each, kind)
			t.Logf("%d destinations: %s alone, %s beside %d that are %s", each, alone, beside, each, kind)
			if beside > alone*6/5 {
				t.Errorf("%s instead of %s", beside, alone)
			}
		})
	}
}

// drain returns how long it takes to deliver a message to each of some good destinations, beside bad ones
// that are known as such.
func drain(t *testing.T, good, bad int, kind string) (took time.Duration) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		s := &site{dial: 50 * time.Millisecond, send: 50 * time.Millisecond}
		b := &site{dial: 50 * time.Millisecond, up: func(time.Time) bool { return false }}
		switch kind {
		case "silent":
			b.dial = time.Hour
		case "slow":
			b = &site{dial: 20 * time.Second, send: 20 * time.Second}
		}
		var sent atomic.Int64
		done := make(chan struct{})
		w := newWorld(t.Errorf, f, func(domain string) *site {
			if domain[0] == 'b' {
				return b
			}
			return s
		})
		s.fate = func(i queue.Item) queue.Result {
			if sent.Add(1) == int64(good) {
				close(done)
			}
			return queue.Result{Outcome: queue.Delivered}
		}
		began := time.Now()
		failed := queue.State{Flags: queue.FlagDestination, Attempts: 3, First: began.Add(-time.Hour), Last: began.Add(-time.Hour), Next: began.Add(-time.Minute)}
		for n := range max(good, bad) {
			if n < bad {
				f.add(spool.ID(2*n+1), fmt.Sprintf("b%d.example", n), began.Add(-time.Hour))
				f.infos[len(f.infos)-1].Mark = failed.Mark()
			}
			f.add(spool.ID(2*n+2), fmt.Sprintf("g%d.example", n), began)
		}
		_, stop := run(t, queue.Config{Store: f, Deliverer: w, Reporter: w})
		<-done
		took = time.Since(began)
		stopped(t, stop)
	})
	return took
}

// TestQueue_Slow: destinations that turn slow while they are served, as many as hold every worker, leave
// some to the others; and a large destination gives way.
func TestQueue_Slow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		began := time.Now()
		w := newWorld(t.Errorf, f, func(domain string) *site {
			if domain[0] == 'g' {
				return &site{dial: 100 * time.Millisecond, send: 100 * time.Millisecond}
			}
			return &site{send: 30 * time.Second}
		})
		id := spool.ID(0)
		for n := range 100 {
			for range 1000 {
				id++
				f.add(id, fmt.Sprintf("s%d.example", n), began)
			}
		}
		q, stop := run(t, queue.Config{Store: f, Deliverer: w, Reporter: w})
		time.Sleep(5 * time.Minute)
		for n := range 600 {
			id++
			f.add(id, fmt.Sprintf("g%d.example", n%200), time.Now())
			q.Added(id, fmt.Sprintf("g%d.example", n%200))
			time.Sleep(100 * time.Millisecond)
		}
		time.Sleep(time.Minute)
		stopped(t, stop)
		worst := time.Duration(0)
		for _, i := range f.infos[100000:] {
			if w.delivered[i.ID] != 1 {
				t.Fatalf("message %s is not delivered", i.ID)
			}
			worst = max(worst, w.at[i.ID].Sub(i.Received))
		}
		t.Logf("at worst %s", worst)
		if worst > 5*time.Second {
			t.Errorf("a message to a good destination took %s", worst)
		}
	})
}

// TestQueue_GivesWay: destinations with much mail hold every worker, and give way to one that comes; and
// however many are new and silent, some workers are left to one that has answered before.
func TestQueue_GivesWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		w := newWorld(t.Errorf, f, func(domain string) *site {
			if domain[0] == 's' {
				return &site{dial: time.Hour}
			}
			return &site{send: time.Second}
		})
		w.bounds[0] = 8
		id := spool.ID(0)
		q, stop := run(t, queue.Config{Store: f, Deliverer: w, Reporter: w, Workers: 8, PerDomain: 1, Batch: 10})
		add := func(domain string) spool.ID {
			id++
			f.add(id, domain, time.Now())
			q.Added(id, domain)
			return id
		}
		for range 3000 {
			for n := range 8 {
				add(fmt.Sprintf("b%d.example", n))
			}
		}
		time.Sleep(time.Minute)
		sent := func(id spool.ID, within time.Duration, beside string) {
			time.Sleep(within)
			w.mu.Lock()
			defer w.mu.Unlock()
			if w.delivered[id] != 1 {
				t.Errorf("a message beside %s was not delivered in %s", beside, within)
			}
		}
		sent(add("g.example"), 15*time.Second, "large destinations")
		time.Sleep(time.Hour)
		for n := range 1000 {
			add(fmt.Sprintf("s%d.example", n))
		}
		time.Sleep(3500 * time.Millisecond) // while all of them are dialled
		sent(add("g.example"), 1100*time.Millisecond, "silent destinations")
		stopped(t, stop)
	})
}

// TestQueue_Herd: destinations that failed together, for want of a network say, are not dialled
// together again, and none is dialled out of turn.
func TestQueue_Herd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		began := time.Now()
		up := func(now time.Time) bool { return now.Sub(began) > 50*time.Second }
		perSecond := map[int64]int{}
		s := &site{up: up, onOpen: func(now time.Time, _ error) {
			if now.Sub(began) > 30*time.Second {
				perSecond[now.Unix()]++
			}
		}}
		w := newWorld(t.Errorf, f, func(string) *site { return s })
		destinations := 5000
		if raceEnabled { // the detector gives up after so many goroutines
			destinations = 800
		}
		for n := range destinations {
			f.add(spool.ID(n+1), fmt.Sprintf("d%d.example", n), began)
		}
		_, stop := run(t, queue.Config{Store: f, Deliverer: w, Reporter: w})
		time.Sleep(10 * time.Minute)
		stopped(t, stop)
		most := 0
		for _, n := range perSecond {
			most = max(most, n)
		}
		if most > 110 || f.left() != 0 {
			t.Errorf("%d dials in one second, %d messages left", most, f.left())
		}
	})
}

// TestQueue_NeverMet: of thousands of destinations that were never met, nine of ten swallow packets. Of the others all
// that connect within a second are met within a second for each 48 of the dead ones, and ten more; those that need up to
// five at their second attempt, within five more for each 48, and three minutes. docs/decisions.md states it.
func TestQueue_NeverMet(t *testing.T) {
	counts := []int{500, 1000, 5000, 20000}
	if testing.Short() || raceEnabled {
		counts = counts[:2]
	}
	for _, n := range counts {
		t.Run(fmt.Sprint(n), func(t *testing.T) { synctest.Test(t, func(t *testing.T) { neverMet(t, n) }) })
	}
}

func neverMet(t *testing.T, n int) {
	f, began := newFake(), time.Now()
	sites := map[byte]*site{
		'd': {dial: 24 * time.Hour},
		'n': {dial: 300 * time.Millisecond, send: 50 * time.Millisecond},
		'f': {dial: 3 * time.Second, send: 50 * time.Millisecond},
	}
	w := newWorld(t.Errorf, f, func(domain string) *site { return sites[domain[0]] })
	for i := range n {
		kind := "dddddddddn"[i%10 : i%10+1]
		if i%100 == 98 {
			kind = "f"
		}
		f.add(spool.ID(i+1), fmt.Sprintf("%s%d.example", kind, i), began)
	}
	_, stop := run(t, queue.Config{Store: f, Deliverer: w, Reporter: w})
	time.Sleep(3 * time.Hour)
	stopped(t, stop)
	took := map[byte][]time.Duration{}
	for id, at := range w.at {
		took[f.domain[id][0]] = append(took[f.domain[id][0]], at.Sub(began))
	}
	round := time.Duration(n) * 9 / 10 * time.Second / 48
	for kind, bound := range map[byte]time.Duration{'n': round + round/20 + 10*time.Second, 'f': 7*round + 3*time.Minute} {
		slices.Sort(took[kind])
		if len(took[kind]) == 0 || len(took['n']) != n/10 || len(took['f']) != n/100 {
			t.Fatalf("%d and %d are delivered", len(took['n']), len(took['f']))
		}
		half, all := took[kind][len(took[kind])/2], took[kind][len(took[kind])-1]
		t.Logf("those that take %s: half within %s, all within %s", sites[kind].dial, half, all)
		if all > bound {
			t.Errorf("those that take %s are met within %s, not %s", sites[kind].dial, all, bound)
		}
	}
}

// TestQueue_Turncoats: who has answered soon, and takes messages slowly the next time, gives way to those who do not,
// however many of them there are.
func TestQueue_Turncoats(t *testing.T) {
	for _, many := range []int{60, 100, 300} {
		synctest.Test(t, func(t *testing.T) { turncoats(t, many) })
	}
}

func turncoats(t *testing.T, many int) {
	f := newFake()
	var mu sync.Mutex
	opens := make(map[string]int)
	w := newWorld(t.Errorf, f, func(domain string) *site {
		mu.Lock()
		defer mu.Unlock()
		if opens[domain]++; domain[0] == 'g' || opens[domain] == 1 {
			return &site{dial: 100 * time.Millisecond, send: 100 * time.Millisecond}
		}
		return &site{dial: 100 * time.Millisecond, send: 5 * time.Minute, cut: func(int) int { return 0 }}
	})
	q, stop := run(t, queue.Config{Store: f, Deliverer: w, Reporter: w})
	id := spool.ID(0)
	add := func(domain string) {
		id++
		f.add(id, domain, time.Now())
		q.Added(id, domain)
	}
	pass(time.Second) // until the mailbox is read
	for range 2 {
		for n := range many {
			add(fmt.Sprintf("slow%d.example", n))
		}
		pass(time.Minute)
	}
	first := id
	for n := range 100 {
		add(fmt.Sprintf("good%d.example", n))
		time.Sleep(time.Second)
	}
	time.Sleep(time.Hour)
	stopped(t, stop)
	worst := time.Duration(0)
	for _, i := range f.infos[first:] {
		if w.delivered[i.ID] != 1 {
			t.Fatalf("message %s is not delivered", i.ID)
		}
		worst = max(worst, w.at[i.ID].Sub(i.Received))
	}
	if worst > 15*time.Second {
		t.Errorf("beside %d a message to a good destination took %s", many, worst)
	}
}
