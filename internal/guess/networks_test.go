package guess_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"cmtpd/internal/durable"
	"cmtpd/internal/durable/durabletest"
	"cmtpd/internal/guess"
)

const table = dir + "/networks"

// left uses up what a network has left, on no account.
func left(b *guess.Budget, n int) (attempts int) {
	for b.ChargeNetwork(network(n)) == nil {
		attempts++
	}
	return attempts
}

// Whoever has more networks than are told apart shares one allowance for the rest, costs
// no more memory, and does not keep out a user who comes from where they were proven.
func TestBudget_ManyNetworks(t *testing.T) {
	c, fsys := newClock(), durabletest.New()
	o := c.options()
	o.Rate, o.Burst = 1000, 1000
	b := open(t, fsys, o)
	home, far := network(1<<20), network(1<<20+1)
	if err := b.Refund(alice, home, 0); err != nil {
		t.Fatal(err)
	}
	for n := range guess.MaxNetworks {
		if err := b.ChargeNetwork(network(n)); err != nil {
			t.Fatalf("network %d: %v", n+1, err)
		}
	}
	shared := 0
	for n := range 1000 {
		if b.ChargeNetwork(network(1<<21+n)) == nil {
			shared++
		}
	}
	if shared != 30 {
		t.Errorf("%d attempts of the networks beyond, want the 30 of one", shared)
	}
	if n := b.Networks(); n > guess.MaxNetworks+1 {
		t.Errorf("%d networks are kept", n)
	}
	if err := b.Charge(alice, far); !isExhausted(err) {
		t.Errorf("a stranger from one more network: %v", err)
	}
	if n := granted(t, b, alice, 100, only(home)); n != 100 {
		t.Errorf("the user has %d attempts from where they were proven, want all", n)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	b = open(t, fsys, o)
	if n := b.Networks(); n != guess.MaxNetworks+1 {
		t.Errorf("%d networks after a restart, want %d", n, guess.MaxNetworks+1)
	}
	if err := b.ChargeNetwork(far); !isExhausted(err) {
		t.Errorf("one more network after a restart: %v", err)
	}
	c.pass(time.Minute)
	if err := b.Charge(alice, far); err != nil || b.Networks() > 2 {
		t.Errorf("when the others have paid: %v, and %d networks are kept", err, b.Networks())
	}
}

// Who is routed an IPv6 /48 has no more than 64 networks by it, and neither fills the table
// nor keeps out a user in the same /48 who was proven there; all else in it shares one
// allowance more, as after a restart.
func TestBudget_ManyNetworksOfASite(t *testing.T) {
	c, fsys := newClock(), durabletest.New()
	o := c.options()
	o.Rate, o.Burst = 1000, 1000
	b := open(t, fsys, o)
	at := func(site, n int) netip.Addr {
		return netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, byte(site >> 8), byte(site), byte(n >> 8), byte(n), 15: 1})
	}
	attempts := func(b *guess.Budget, a netip.Addr) (n int) {
		for b.ChargeNetwork(a) == nil {
			n++
		}
		return n
	}
	for n := range guess.MaxOfSite {
		if err := b.ChargeNetwork(at(1, n)); err != nil {
			t.Fatalf("network %d: %v", n+1, err)
		}
	}
	if n := attempts(b, at(1, guess.MaxOfSite-1)); n != 29 {
		t.Errorf("%d attempts of the last one that is told apart, want the 29 that it has left", n)
	}
	shared := 0
	for n := range 1 << 10 {
		if b.ChargeNetwork(at(1, guess.MaxOfSite+n)) == nil {
			shared++
		}
	}
	if shared != 30 {
		t.Errorf("%d attempts of the networks beyond, want the 30 of one", shared)
	}
	if n := b.Networks(); n != guess.MaxOfSite+1 {
		t.Errorf("%d networks are kept, want %d", n, guess.MaxOfSite+1)
	}
	if n := attempts(b, at(2, 0)); n != 30 {
		t.Errorf("%d attempts from another site, want 30", n)
	}
	home := at(1, 5000)
	if err := b.Refund(alice, home, 0); err != nil {
		t.Fatal(err)
	}
	if n := granted(t, b, alice, 100, only(home)); n != 100 {
		t.Errorf("the user has %d attempts from where they were proven, want all", n)
	}

	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	b = open(t, fsys, o)
	if n := attempts(b, at(1, 6000)); n != 0 {
		t.Errorf("%d attempts after a restart, want none", n)
	}
	c.pass(time.Hour)
	if n := attempts(b, at(1, 6000)); n != 30 || b.Networks() > 2 {
		t.Errorf("%d attempts when the others have paid, and %d networks are kept", n, b.Networks())
	}
}

// Networks that filled the table by a clock that was wrong leave it.
func TestBudget_ManyNetworks_ClockSetBack(t *testing.T) {
	c := newClock()
	b := open(t, durabletest.New(), c.options())
	c.pass(1000 * time.Hour)
	for n := range guess.MaxNetworks {
		if err := b.ChargeNetwork(network(n)); err != nil {
			t.Fatal(err)
		}
	}
	left(b, 1<<20)
	c.pass(-1000 * time.Hour)
	left(b, 1<<20)
	c.pass(31 * time.Minute)
	left(b, 1<<20)
	if n := b.Networks(); n > 2 {
		t.Errorf("%d networks are kept", n)
	}
}

// Networks are written a minute after a change, once, and at Close.
func TestBudget_Save(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := guess.Options{Rates: guess.Rates{Rate: 10, Burst: 10, NetworkRate: 1, NetworkBurst: 100}}
		fsys := durabletest.New()
		b := open(t, fsys, o)
		calls := fsys.Calls()
		charge := func(n int) {
			t.Helper()
			for range n {
				if err := b.ChargeNetwork(network(1)); err != nil {
					t.Fatal(err)
				}
			}
		}
		charge(10)
		time.Sleep(time.Minute - time.Nanosecond)
		charge(20)
		if n := fsys.Calls() - calls; n != 0 {
			t.Errorf("%d calls before the minute was over", n)
		}
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		if n := fsys.Calls() - calls; n != 5 {
			t.Errorf("%d calls when it was over, want the 5 of one write", n)
		}
		time.Sleep(time.Hour / 2)
		if n := fsys.Calls() - calls; n != 5 {
			t.Errorf("%d calls though nothing changed, want 5", n)
		}
		charge(40)
		fsys = fsys.Crash(nil)
		b = open(t, fsys, o)
		if n := left(b, 1); n != 70 {
			t.Errorf("%d attempts after a crash, want the 70 of a minute ago", n)
		}
		if err := errors.Join(b.Close(), b.Close()); err != nil {
			t.Error(err)
		}
		calls = fsys.Calls()
		charges := left(b, 2)
		time.Sleep(time.Hour)
		if fsys.Calls() != calls || charges != 100 {
			t.Errorf("%d calls after Close, for %d attempts", fsys.Calls()-calls, charges)
		}
	})
}

// A write that failed is told, and made up for.
func TestBudget_Save_Fault(t *testing.T) {
	for call := 1; call <= 5; call++ {
		synctest.Test(t, func(t *testing.T) {
			var log bytes.Buffer
			o := guess.Options{Log: slog.New(slog.NewTextHandler(&log, nil)), Rates: guess.Rates{Rate: 10, Burst: 10, NetworkRate: 1, NetworkBurst: 100}}
			fsys := durabletest.New()
			b := open(t, fsys, o)
			left(b, 1)
			first := fsys.Calls()
			fsys.Inject(func(c durabletest.Call) durabletest.Fault {
				if c.N == first+call {
					return durabletest.Before
				}
				return durabletest.None
			})
			time.Sleep(time.Minute)
			synctest.Wait()
			if !strings.Contains(log.String(), "could not be written") {
				t.Errorf("call %d: the log has %q", call, &log)
			}
			time.Sleep(time.Minute)
			synctest.Wait()
			b = open(t, fsys.Crash(nil), o)
			if n := left(b, 1); n != 0 {
				t.Errorf("call %d: %d attempts are free", call, n)
			}
			left(b, 2)
			if err := b.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	fsys := durabletest.New()
	c := newClock()
	b := open(t, fsys, c.options())
	left(b, 1)
	fsys.Inject(func(durabletest.Call) durabletest.Fault { return durabletest.Before })
	if b.Close() == nil {
		t.Error("Close did not say that nothing was written")
	}
	fsys.Inject(nil)
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	if n := left(open(t, fsys.Crash(nil), c.options()), 1); n != 0 {
		t.Errorf("%d attempts are free after the second Close", n)
	}
}

// Damaged networks keep no server from starting, and give no attempts.
func TestOpen_DamagedNetworks(t *testing.T) {
	for what, damage := range map[string]func(data []byte) []byte{
		"empty":           func([]byte) []byte { return nil },
		"a bit":           func(d []byte) []byte { d[40] ^= 1; return d },
		"too long":        func([]byte) []byte { return make([]byte, 4<<20) },
		"another version": func(d []byte) []byte { d[7]++; return guess.Sum(d[:len(d)-4]) },
		"wrong count":     func(d []byte) []byte { d[19]++; return guess.Sum(d[:len(d)-4]) },
		"huge count":      func(d []byte) []byte { d[16] = 0xff; return guess.Sum(d[:len(d)-4]) },
		"twice the same":  func(d []byte) []byte { d[19]++; return guess.Sum(append(d[:len(d)-4], d[len(d)-29:len(d)-4]...)) },
	} {
		t.Run(what, func(t *testing.T) {
			c, fsys := newClock(), durabletest.New()
			b := open(t, fsys, c.options())
			left(b, 1)
			left(b, 2)
			if err := b.Close(); err != nil {
				t.Fatal(err)
			}
			data, err := durable.ReadFile(fsys, table, 1<<10)
			if err != nil {
				t.Fatal(err)
			}
			if err := durable.WriteFile(fsys, table, damage(data), 0o600); err != nil {
				t.Fatal(err)
			}
			var log bytes.Buffer
			o := c.options()
			o.Log = slog.New(slog.NewTextHandler(&log, nil))
			b = open(t, fsys, o)
			if !strings.Contains(log.String(), "level=WARN") || !strings.Contains(log.String(), table) {
				t.Errorf("the log has %q", &log)
			}
			for range 2 { // the second time after a restart that finds a good file
				if n := left(b, 1) + left(b, 3); n != 0 {
					t.Errorf("%d attempts at once", n)
				}
				if err := b.Close(); err != nil {
					t.Fatal(err)
				}
				b = open(t, fsys, o)
			}
			c.pass(time.Minute)
			if one, other := left(b, 1), left(b, 3); one != 1 || other != 1 {
				t.Errorf("%d and %d attempts a minute later, want 1 each", one, other)
			}
			if n := strings.Count(log.String(), "level=WARN"); n != 1 {
				t.Errorf("%d warnings", n)
			}
		})
	}
}

// Neither does damage under a clock that is wrong, once it is set right.
func TestOpen_DamagedNetworks_ClockSetBack(t *testing.T) {
	c, fsys := newClock(), durabletest.New()
	if err := errors.Join(durable.MkdirAll(fsys, dir, 0o700), durable.WriteFile(fsys, table, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	c.pass(1000 * time.Hour)
	if err := open(t, fsys, c.options()).Close(); err != nil {
		t.Fatal(err)
	}
	c.pass(-1000 * time.Hour)
	b := open(t, fsys, c.options())
	if n := left(b, 1); n != 0 {
		t.Errorf("%d attempts at once", n)
	}
	c.pass(time.Minute)
	if one, other := left(b, 1), left(b, 3); one != 1 || other != 1 {
		t.Errorf("%d and %d attempts a minute later, want 1 each", one, other)
	}
}

// The file holds as many networks as are kept, and not one more.
func TestNetworks_Most(t *testing.T) {
	for n, want := range map[int]bool{guess.MaxNetworks + 1: true, guess.MaxNetworks + 2: false} {
		data := binary.BigEndian.AppendUint32([]byte("cmtpdGN1\x00\x00\x00\x00\x00\x00\x00\x00"), uint32(n))
		for i := range n {
			a := network(i).As16()
			data = binary.BigEndian.AppendUint64(append(append(data, 128), a[:]...), 1)
		}
		data = guess.Sum(data)
		again, err := guess.RecodeTable(data)
		if (err == nil) != want || want && !bytes.Equal(again, data) {
			t.Errorf("%d networks: %v", n, err)
		}
	}
}
