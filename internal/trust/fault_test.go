package trust_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"cmtpd/internal/durable/durabletest"
	"cmtpd/internal/trust"
)

// steps are what happens to a domain, each with something to be remembered.
var steps = []func(*shop) error{
	func(s *shop) error { return s.judge(1, plain(1), successor(5)) },
	func(s *shop) error { return s.judge(2) },
	func(s *shop) error { return s.judge(1) },
	func(s *shop) error { return s.judge(5) },
	func(s *shop) error { return s.judge(1, without) },
	func(s *shop) error { return s.judge(5, signed(5), enforce(day)) },
	func(s *shop) error { return s.Accept(domain(s.t, "example.org"), print(s.t, 2)) },
	func(s *shop) error {
		return s.Pin(domain(s.t, "example.org"), trust.Public{PublicKey: public(7)})
	},
	func(s *shop) error { return s.Forget(domain(s.t, "example.org")) },
	func(s *shop) error { return s.judge(9) },
}

func (s *shop) judge(n int, with ...func(*trust.Sighting)) error {
	_, err := s.Judge(context.Background(), domain(s.t, "example.org"), sighting(n, with...))
	return err
}

// step takes one step at its own time.
func (s *shop) step(i int) error {
	s.now = start.Add(time.Duration(i) * time.Minute)
	return steps[i](s)
}

func (s *shop) known() string {
	state, err := s.Known(domain(s.t, "example.org"))
	if err != nil {
		s.t.Fatalf("a crash has damaged it: %v", err)
	}
	b, err := json.Marshal(state)
	if err != nil {
		s.t.Fatal(err)
	}
	return string(b)
}

// Calls to the disk fail, once or for good, and the power is cut. Whatever was reported as done is
// there afterwards, and nothing that never was; a step that failed can be tried again.
func TestStore_Faults(t *testing.T) {
	states := []string{"null"}
	fsys := durabletest.New()
	s := openShop(t, fsys, "/trust", 0)
	first := fsys.Calls()
	for i := range steps {
		if err := s.step(i); err != nil {
			t.Fatal(err)
		}
		states = append(states, s.known())
	}
	calls := fsys.Calls() - first
	if calls < 5*len(steps) {
		t.Fatalf("only %d calls to the disk", calls)
	}
	for n := 1; n <= calls; n++ {
		for _, fault := range []durabletest.Fault{durabletest.Before, durabletest.After, durabletest.Short} {
			for _, forGood := range []bool{false, true} {
				for seed := range uint64(2) {
					t.Run(fmt.Sprintf("call %d/fault %d/for good %v/crash %d", n, fault, forGood, seed), func(t *testing.T) {
						runFault(t, states, func(call int) durabletest.Fault {
							if call == n || forGood && call > n {
								return fault
							}
							return durabletest.None
						}, rand.New(rand.NewPCG(seed, uint64(n))))
					})
				}
			}
		}
	}
}

func runFault(t *testing.T, states []string, fault func(call int) durabletest.Fault, r *rand.Rand) {
	t.Helper()
	fsys := durabletest.New()
	s := openShop(t, fsys, "/trust", 0)
	first := fsys.Calls()
	fsys.Inject(func(c durabletest.Call) durabletest.Fault { return fault(c.N - first) })
	done, failed := 0, false
	for i := range steps {
		err := s.step(i)
		if err != nil {
			failed = true
			err = s.step(i)
		}
		if err != nil {
			break
		}
		done++
		if got := s.known(); got != states[done] {
			t.Fatalf("after step %d it has\n%s\nwant\n%s", i, got, states[done])
		}
	}
	if !failed {
		t.Error("no step failed")
	}
	after := openShop(t, fsys.Crash(r), "/trust", 0)
	got := after.known()
	if got != states[done] && (done == len(steps) || got != states[done+1]) {
		t.Fatalf("%d steps were done, and after the crash there is\n%s", done, got)
	}
	if err := after.judge(1); err != nil {
		t.Error(err)
	}
}

// What the operator was told has failed does not come back with the next start, once anything was judged since.
func TestStore_Faults_Operator(t *testing.T) {
	fsys := durabletest.New()
	s := openShop(t, fsys, "/trust", 0)
	if err := s.judge(1); err != nil {
		t.Fatal(err)
	}
	fsys.Inject(func(c durabletest.Call) durabletest.Fault {
		if c.Op == "syncdir" {
			return durabletest.After
		}
		return durabletest.None
	})
	if err := s.Pin(domain(t, "example.org"), trust.Public{PublicKey: public(7)}); err == nil {
		t.Fatal("it did not fail")
	}
	fsys.Inject(nil)
	if err := s.judge(1); err != nil {
		t.Fatal(err)
	}
	after := openShop(t, fsys.Crash(nil), "/trust", 0)
	if v := after.meet("example.org", 1); !v.Trusted || v.Provenance != trust.FirstContact {
		t.Errorf("%v", v)
	}
}
