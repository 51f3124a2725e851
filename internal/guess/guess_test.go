package guess_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cmtpd/internal/durable"
	"cmtpd/internal/durable/durabletest"
	"cmtpd/internal/guess"
)

const (
	dir   = "/data/guesses"
	every = 6 * time.Minute // at ten attempts an hour
)

var (
	alice = [16]byte{0xa1, 15: 1}
	bob   = [16]byte{0xb0, 15: 2}
)

// file is where an account's allowance lies.
func file(account [16]byte) string { return fmt.Sprintf("%s/%x", dir, account) }

// network returns the nth of many addresses, each in a network of its own.
func network(n int) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], 0x0a000000+uint32(n))
	return netip.AddrFrom4(b)
}

// A clock is set by hand.
type clock struct{ at time.Time }

func newClock() *clock { return &clock{time.Unix(1.8e9, 12345)} }

func (c *clock) now() time.Time       { return c.at }
func (c *clock) pass(d time.Duration) { c.at = c.at.Add(d) }
func (c *clock) options() guess.Options {
	return guess.Options{Now: c.now, Rates: guess.Rates{Rate: 10, Burst: 10, NetworkRate: 60, NetworkBurst: 30}}
}
func isExhausted(err error) (ok bool) { _, ok = errors.AsType[*guess.Exhausted](err); return ok }
func wait(err error) (d time.Duration) {
	e, _ := errors.AsType[*guess.Exhausted](err)
	return e.RetryAfter
}

func open(tb testing.TB, fsys durable.FS, o guess.Options) *guess.Budget {
	tb.Helper()
	o.FS = fsys
	b, err := guess.Open(dir, o)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// granted charges attempts until one is refused, at most limit, from addresses that
// from returns, and says how many there were.
func granted(tb testing.TB, b *guess.Budget, account [16]byte, limit int, from func(n int) netip.Addr) int {
	tb.Helper()
	for n := range limit {
		if err := b.Charge(account, from(n)); err != nil {
			if !isExhausted(err) {
				tb.Fatal(err)
			}
			return n
		}
	}
	return limit
}

func strangers(n int) netip.Addr { return network(1000 + n) }
func only(a netip.Addr) func(int) netip.Addr {
	return func(int) netip.Addr { return a }
}

func TestBudget_Charge(t *testing.T) {
	c := newClock()
	b := open(t, durabletest.New(), c.options())
	if n := granted(t, b, alice, 20, strangers); n != 10 {
		t.Fatalf("%d attempts at once, want 10", n)
	}
	err := b.Charge(alice, network(1))
	if wait(err) != every || !strings.Contains(err.Error(), "in 6m0s") {
		t.Errorf("the eleventh: %v after %v, want %v", err, wait(err), every)
	}
	if err := b.Charge(bob, network(1)); err != nil {
		t.Errorf("another account paid for it: %v", err)
	}
	c.pass(every - 1)
	if err := b.Charge(alice, network(1)); wait(err) != 1 || !strings.Contains(err.Error(), "in 1s") {
		t.Errorf("before its time: %v", err)
	}
	c.pass(1)
	if n := granted(t, b, alice, 5, strangers); n != 1 {
		t.Errorf("%d attempts after six minutes, want 1", n)
	}
	c.pass(1000 * time.Hour)
	if n := granted(t, b, alice, 20, strangers); n != 10 {
		t.Errorf("%d attempts after a long time, want 10", n)
	}
}

func TestBudget_Charge_Network(t *testing.T) {
	c := newClock()
	b := open(t, durabletest.New(), c.options())
	from := netip.MustParseAddr("2001:db8::1")
	n := 0
	for ; n < 40; n++ {
		if err := b.Charge([16]byte{byte(n)}, from); err != nil {
			if wait(err) != time.Minute {
				t.Errorf("after %v, want a minute", wait(err))
			}
			break
		}
	}
	if n != 30 {
		t.Errorf("%d attempts of one network on many accounts, want 30", n)
	}
	if err := b.Charge(alice, netip.MustParseAddr("2001:db8::ffff")); !isExhausted(err) {
		t.Errorf("another address of the same /64: %v", err)
	}
	if err := b.ChargeNetwork(from); !isExhausted(err) {
		t.Errorf("on no account: %v", err)
	}
	// The account did not pay for what was refused.
	if n := granted(t, b, alice, 20, strangers); n != 10 {
		t.Errorf("%d attempts are left of the account, want 10", n)
	}
	// Nor does a network pay where the account has none left.
	other := network(7)
	for range 100 {
		if err := b.Charge(alice, other); !isExhausted(err) {
			t.Fatal(err)
		}
	}
	for n := range 31 {
		if err := b.ChargeNetwork(other); (err == nil) != (n < 30) {
			t.Errorf("attempt %d on no account: %v", n+1, err)
		}
	}
	// The longer of two waits is told: a minute for the network, six for the account.
	if err := b.Charge(alice, other); wait(err) != every {
		t.Errorf("both are used up: after %v, want %v", wait(err), every)
	}
}

func TestBudget_Restart(t *testing.T) {
	c := newClock()
	fsys := durabletest.New()
	b := open(t, fsys, c.options())
	if n := granted(t, b, alice, 7, only(network(1))); n != 7 {
		t.Fatal(n)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	fsys = fsys.Crash(nil)
	b = open(t, fsys, c.options())
	if n := granted(t, b, alice, 20, strangers); n != 3 {
		t.Errorf("%d attempts after a restart, want 3", n)
	}
	n := 0
	for b.ChargeNetwork(network(1)) == nil {
		n++
	}
	if n != 23 {
		t.Errorf("%d attempts of the network after a restart, want 23", n)
	}
	fsys = fsys.Kill() // what networks were charged since Close may be lost
	b = open(t, fsys, c.options())
	if n := granted(t, b, alice, 20, only(network(1))); n != 0 {
		t.Errorf("%d attempts after a kill, want none", n)
	}
	c.pass(every)
	if n := granted(t, b, alice, 20, strangers); n != 1 {
		t.Errorf("%d attempts six minutes later, want 1", n)
	}
}

// polite lets others run between the reading of a file and its replacement.
type polite struct{ durable.FS }

func (p polite) Create(path string, mode os.FileMode) (durable.File, error) {
	for range 10 {
		runtime.Gosched()
	}
	return p.FS.Create(path, mode)
}

// Many sessions at once get exactly what there is.
func TestBudget_Concurrent(t *testing.T) {
	c := newClock()
	b := open(t, polite{durabletest.New()}, c.options())
	var wg sync.WaitGroup
	var got, odd atomic.Int32
	for n := range 100 {
		for _, account := range [][16]byte{alice, bob} {
			wg.Go(func() {
				switch err := b.Charge(account, network(n)); {
				case err == nil:
					got.Add(1)
				case !isExhausted(err):
					odd.Add(1)
				}
			})
		}
	}
	wg.Wait()
	if got.Load() != 20 || odd.Load() != 0 {
		t.Errorf("%d attempts and %d errors, want 20 and none", got.Load(), odd.Load())
	}
	// One network on many accounts, too.
	got.Store(0)
	for n := range 100 {
		wg.Go(func() {
			if b.Charge([16]byte{byte(n), 1}, strangers(0)) == nil {
				got.Add(1)
			}
		})
	}
	wg.Wait()
	if got.Load() != 30 {
		t.Errorf("%d attempts of one network, want 30", got.Load())
	}
}

func TestBudget_Proven(t *testing.T) {
	c := newClock()
	fsys := durabletest.New()
	b := open(t, fsys, c.options())
	home := network(1)
	if err := b.Charge(alice, home); err != nil {
		t.Fatal(err)
	}
	if err := b.Refund(alice, home, 1); err != nil {
		t.Fatal(err)
	}
	if n := granted(t, b, alice, 20, strangers); n != 10 {
		t.Errorf("strangers have %d attempts, want 10", n)
	}
	b = open(t, fsys.Crash(nil), c.options())
	if n := granted(t, b, alice, 20, only(home)); n != 10 {
		t.Errorf("the user's own network has %d attempts, want 10", n)
	}
	if err := b.Charge(bob, home); err != nil {
		t.Errorf("another account from there: %v", err)
	}
	c.pass(every)
	if n := granted(t, b, alice, 20, only(home)); n != 1 {
		t.Errorf("the user's own network has %d attempts six minutes later, want 1", n)
	}
	if n := granted(t, b, alice, 20, strangers); n != 1 {
		t.Errorf("strangers have %d attempts six minutes later, want 1", n)
	}
}

// The network that was proven least recently is forgotten for a seventeenth.
func TestBudget_Proven_Most(t *testing.T) {
	c := newClock()
	b := open(t, durabletest.New(), c.options())
	prove := func(n int) {
		t.Helper()
		if err := b.Refund(alice, network(n), 0); err != nil {
			t.Fatal(err)
		}
	}
	for n := range guess.MaxProven {
		prove(n)
	}
	prove(0) // so the second is the oldest
	granted(t, b, alice, 20, strangers)
	prove(100)
	for n, want := range map[int]bool{0: true, 1: false, 2: true, 15: true, 100: true} {
		if err := b.Charge(alice, network(n)); (err == nil) != want {
			t.Errorf("network %d: %v, remembered should be %v", n, err, want)
		}
	}
}

// A network keeps what it owes when it is proven once more, after another one.
func TestBudget_Proven_Again(t *testing.T) {
	c := newClock()
	b := open(t, durabletest.New(), c.options())
	for _, n := range []int{1, 2} {
		if err := b.Refund(alice, network(n), 0); err != nil {
			t.Fatal(err)
		}
	}
	granted(t, b, alice, 7, only(network(1)))
	if err := b.Refund(alice, network(1), 0); err != nil {
		t.Fatal(err)
	}
	if n := granted(t, b, alice, 20, only(network(1))); n != 3 {
		t.Errorf("%d attempts are left, want 3", n)
	}
}

// An attempt that could not be written is none for the network either.
func TestBudget_Charge_Failed(t *testing.T) {
	c, fsys := newClock(), durabletest.New()
	b := open(t, fsys, c.options())
	fsys.Inject(func(durabletest.Call) durabletest.Fault { return durabletest.Before })
	for range 40 {
		if err := b.Charge(alice, network(1)); err == nil || isExhausted(err) {
			t.Fatalf("on a disk that fails: %v", err)
		}
	}
	fsys.Inject(nil)
	if n := granted(t, b, alice, 20, only(network(1))); n != 10 {
		t.Errorf("%d attempts on the disk that works again, want 10", n)
	}
}

func TestBudget_Refund(t *testing.T) {
	var log bytes.Buffer
	c := newClock()
	o := c.options()
	o.Log = slog.New(slog.NewTextHandler(&log, nil))
	b := open(t, durabletest.New(), o)
	home := network(1)
	granted(t, b, alice, 4, only(home))
	granted(t, b, alice, 2, strangers)
	if err := b.Refund(alice, home, 4); err != nil {
		t.Fatal(err)
	}
	if n := granted(t, b, alice, 20, strangers); n != 8 {
		t.Errorf("strangers have %d attempts, want the 8 that they did not use", n)
	}
	granted(t, b, alice, 6, only(home))
	for range 3 { // more than there was
		if err := b.Refund(alice, home, 1<<30); err != nil {
			t.Fatal(err)
		}
	}
	if n := granted(t, b, alice, 20, only(home)); n != 10 {
		t.Errorf("after too many refunds the network has %d attempts, want 10", n)
	}
	if err := b.Charge(alice, strangers(1)); !isExhausted(err) {
		t.Errorf("strangers have what was given back to a network of its own: %v", err)
	}
	if err := b.Refund(alice, home, -5); err != nil || b.Charge(alice, home) == nil {
		t.Errorf("a negative number changed something, %v", err)
	}
	n := 0
	for b.ChargeNetwork(home) == nil {
		n++
	}
	if n != 20 {
		t.Errorf("the network has %d attempts on no account, want 20", n)
	}
	// Clients without an address are no network to remember.
	if err := b.Refund(bob, netip.Addr{}, 1); err != nil {
		t.Fatal(err)
	}
	granted(t, b, bob, 20, strangers)
	if err := b.Charge(bob, netip.Addr{}); !isExhausted(err) {
		t.Errorf("anybody without an address passes for the user: %v", err)
	}
	if log.Len() > 0 {
		t.Errorf("the log has %s", &log)
	}
}

// Proving the same again costs no write.
func TestBudget_Refund_Unchanged(t *testing.T) {
	c := newClock()
	fsys := durabletest.New()
	b := open(t, fsys, c.options())
	calls := 0
	for n := range 3 {
		if err := b.Refund(alice, network(1), 0); err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			calls = fsys.Calls()
		}
	}
	if fsys.Calls() != calls {
		t.Errorf("%d calls for nothing new", fsys.Calls()-calls)
	}
}

// A clock that was wrong and is set right keeps nobody out.
func TestBudget_ClockSetBack(t *testing.T) {
	for _, restart := range []bool{false, true} {
		t.Run(fmt.Sprintf("restart %v", restart), func(t *testing.T) {
			c := newClock()
			c.pass(1000 * time.Hour)
			fsys := durabletest.New()
			b := open(t, fsys, c.options())
			home := network(1)
			if err := b.Refund(alice, home, 0); err != nil {
				t.Fatal(err)
			}
			granted(t, b, alice, 20, only(home))
			granted(t, b, alice, 20, strangers)
			busy := network(2)
			for b.ChargeNetwork(busy) == nil {
			}
			if restart {
				if err := b.Close(); err != nil {
					t.Fatal(err)
				}
				fsys = fsys.Crash(nil)
			}
			c.pass(-1000 * time.Hour)
			if restart {
				b = open(t, fsys, c.options())
			}
			for what, err := range map[string]error{
				"strangers": b.Charge(alice, strangers(1)), "the user's network": b.Charge(alice, home), "a network": b.ChargeNetwork(busy),
			} {
				if !isExhausted(err) || wait(err) > every {
					t.Errorf("%s: %v, want to wait %v at most", what, err, every)
				}
			}
			c.pass(every)
			for what, err := range map[string]error{
				"strangers": b.Charge(alice, strangers(1)), "the user's network": b.Charge(alice, home), "a network": b.ChargeNetwork(busy),
			} {
				if err != nil {
					t.Errorf("%s after the wait: %v", what, err)
				}
			}
		})
	}
}

func TestOpen_Files(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "guesses")
	c := newClock()
	o := c.options()
	o.FS = durable.OS
	b, err := guess.Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(b.Charge(alice, network(1)), b.Close()); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]os.FileMode{"": 0o700 | os.ModeDir, fmt.Sprintf("%x", alice): 0o600, "networks": 0o600} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode() != want && runtime.GOOS != "windows" {
			t.Errorf("%q has the mode %v, want %v", name, info.Mode(), want)
		}
	}
	left := map[string]bool{".networks.ABC.tmp": false, ".0123.XYZ.tmp": false, "README": true, ".hidden": true}
	for name := range left {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := guess.Open(dir, o); err != nil {
		t.Fatal(err)
	}
	for name, want := range left {
		if _, err := os.Stat(filepath.Join(dir, name)); (err == nil) != want {
			t.Errorf("%s is there: %v, want %v", name, err == nil, want)
		}
	}
}

func TestBudget_Forget(t *testing.T) {
	c, fsys := newClock(), durabletest.New()
	b := open(t, fsys, c.options())
	granted(t, b, alice, 10, strangers)
	for range 2 {
		if err := b.Forget(alice); err != nil {
			t.Fatal(err)
		}
	}
	fsys = fsys.Crash(nil)
	if _, err := fsys.Open(file(alice)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file of a removed account: %v", err)
	}
}
