package guess_test

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"strings"
	"syscall"
	"testing"

	"cmtpd/internal/durable"
	"cmtpd/internal/durable/durabletest"
	"cmtpd/internal/guess"
)

// A damaged file gives nobody attempts, keeps nobody out for good, and is told of once.
func TestBudget_DamagedFile(t *testing.T) {
	good := func(t *testing.T) (*durabletest.FS, *clock) {
		c, fsys := newClock(), durabletest.New()
		b := open(t, fsys, c.options())
		if err := errors.Join(b.Refund(alice, network(1), 0), b.Charge(alice, network(2))); err != nil {
			t.Fatal(err)
		}
		return fsys, c
	}
	for what, damage := range map[string]func(data []byte) []byte{
		"empty":           func([]byte) []byte { return nil },
		"cut":             func(d []byte) []byte { return d[:len(d)-1] },
		"longer":          func(d []byte) []byte { return append(d, 0) },
		"too long":        func([]byte) []byte { return make([]byte, 1<<20) },
		"a bit":           func(d []byte) []byte { d[30] ^= 1; return d },
		"another's":       func(d []byte) []byte { d[8] ^= 1; return guess.Sum(d[:len(d)-4]) },
		"another version": func(d []byte) []byte { d[7]++; return guess.Sum(d[:len(d)-4]) },
		"a network twice": func(d []byte) []byte { d[32]++; return guess.Sum(append(d[:len(d)-4], d[33:58]...)) },
		"17 networks":     func(d []byte) []byte { d[32] = 17; return guess.Sum(append(d[:len(d)-4], make([]byte, 16*25)...)) },
		"no network":      func(d []byte) []byte { d[33] = 255; clear(d[34:50]); return guess.Sum(d[:len(d)-4]) },
		"bits behind":     func(d []byte) []byte { d[33]--; d[49] = 1; return guess.Sum(d[:len(d)-4]) },
		"time":            func(d []byte) []byte { d[24] = 0x80; return guess.Sum(d[:len(d)-4]) },
	} {
		t.Run(what, func(t *testing.T) {
			fsys, c := good(t)
			data, err := durable.ReadFile(fsys, file(alice), 1<<10)
			if err != nil {
				t.Fatal(err)
			}
			if err := durable.WriteFile(fsys, file(alice), damage(data), 0o600); err != nil {
				t.Fatal(err)
			}
			var log bytes.Buffer
			o := c.options()
			o.Log = slog.New(slog.NewTextHandler(&log, nil))
			b := open(t, fsys, o)
			for range 3 {
				if err := b.Charge(alice, network(1)); wait(err) != every {
					t.Errorf("the first attempt: %v", err)
				}
			}
			if n := strings.Count(log.String(), "level=WARN"); n != 1 || !strings.Contains(log.String(), file(alice)) {
				t.Errorf("%d warnings: %s", n, &log)
			}
			if err := b.Charge(bob, network(1)); err != nil {
				t.Errorf("another account: %v", err)
			}
			c.pass(every)
			if n := granted(t, b, alice, 5, strangers); n != 1 {
				t.Errorf("%d attempts six minutes later, want 1", n)
			}
		})
	}
}

// The proof of its user mends a damaged file.
func TestBudget_DamagedFile_Refund(t *testing.T) {
	c, fsys := newClock(), durabletest.New()
	b := open(t, fsys, c.options())
	if err := durable.WriteFile(fsys, file(alice), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := b.Refund(alice, network(1), 1); err != nil {
		t.Fatal(err)
	}
	if n := granted(t, b, alice, 20, only(network(1))); n != 10 {
		t.Errorf("%d attempts from where the user was proven, want 10", n)
	}
	if n := granted(t, b, alice, 20, strangers); n != 1 {
		t.Errorf("%d attempts of strangers, want the one that was given back", n)
	}
}

// scarce is a file system of a process that has no descriptor left while none is true.
type scarce struct {
	durable.FS
	none bool
}

func (s *scarce) Open(path string) (durable.File, error) {
	if s.none {
		return nil, &os.PathError{Op: "open", Path: path, Err: syscall.EMFILE}
	}
	return s.FS.Open(path)
}

// That a file cannot be opened for want of descriptors is no damage of the file.
func TestBudget_TooManyOpenFiles(t *testing.T) {
	c, fsys := newClock(), &scarce{FS: durabletest.New()}
	b := open(t, fsys, c.options())
	home := network(1)
	if err := errors.Join(b.Charge(alice, home), b.Refund(alice, home, 1), b.Close()); err != nil {
		t.Fatal(err)
	}
	fsys.none = true
	if err := b.Charge(alice, home); !errors.Is(err, syscall.EMFILE) || isExhausted(err) {
		t.Errorf("Charge: %v", err)
	}
	if err := b.Refund(alice, home, 1); !errors.Is(err, syscall.EMFILE) {
		t.Errorf("Refund: %v", err)
	}
	o := c.options()
	o.FS = fsys
	if _, err := guess.Open(dir, o); !errors.Is(err, syscall.EMFILE) {
		t.Errorf("Open: %v", err)
	}
	fsys.none = false
	granted(t, b, alice, 20, strangers)
	if n := granted(t, b, alice, 20, only(home)); n != 10 {
		t.Errorf("%d attempts afterwards, want 10", n)
	}
}
