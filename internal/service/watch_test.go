package service_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"cmtpd/internal/service"
)

// A fed manager counts how often its watchdog was fed.
type fed struct {
	service.Manager
	times atomic.Int32
	log   bytes.Buffer // read when nobody writes
}

func newFed() *fed {
	f := new(fed)
	f.Watchdog = 30 * time.Second
	f.Log = slog.New(slog.NewTextHandler(&f.log, nil))
	f.Notify = func(state string) error {
		if state == "WATCHDOG=1" {
			f.times.Add(1)
		}
		return nil
	}
	return f
}

// watch runs Watch with these probes until the test ends.
func (f *fed) watch(t *testing.T, probes ...service.Probe) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- f.Watch(ctx, probes...) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// during returns how often the watchdog was fed in that time.
func (f *fed) during(d time.Duration) int {
	synctest.Wait()
	before := f.times.Load()
	time.Sleep(d)
	synctest.Wait()
	return int(f.times.Load() - before)
}

// TestManager_Watch: it is fed three times in the manager's patience, as long as every probe answers.
func TestManager_Watch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFed()
		var broken atomic.Bool
		f.watch(t, service.Probe{What: "one", Ask: func(context.Context) error { return nil }},
			service.Probe{What: "other", Ask: func(context.Context) error {
				if broken.Load() {
					return errors.New("it is broken")
				}
				return nil
			}})
		if n := f.during(time.Minute); n != 6 {
			t.Errorf("it was fed %d times in a minute", n)
		}
		broken.Store(true)
		if n := f.during(time.Minute); n != 0 {
			t.Errorf("with a broken part it was fed %d times", n)
		}
		broken.Store(false)
		if n := f.during(time.Minute); n != 6 {
			t.Errorf("once it was mended it was fed %d times", n)
		}
		if log := f.log.String(); strings.Count(log, "is not fed") != 6 || strings.Count(log, "fed again") != 1 || !strings.Contains(log, "other: it is broken") {
			t.Errorf("logged\n%s", log)
		}
	})
}

// TestManager_Watch_Stuck: a part that answers within the patience, though later than a round, keeps the
// daemon alive; one that never does gets no second question, and ends it.
func TestManager_Watch_Stuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFed()
		free := make(chan struct{})
		var asked atomic.Int32
		f.watch(t, service.Probe{What: "deaf", Ask: func(context.Context) error { // not even to the end of its time
			asked.Add(1)
			<-free
			return nil
		}})
		if n := f.during(5 * time.Minute); n != 0 || asked.Load() != 1 {
			t.Errorf("it was fed %d times, after %d questions", n, asked.Load())
		}
		close(free)
		if n := f.during(time.Minute); n != 6 {
			t.Errorf("once it answers it was fed %d times in a minute", n)
		}
		if !strings.Contains(f.log.String(), "deaf: there was no answer in time") {
			t.Errorf("logged\n%s", f.log.String())
		}
	})
	synctest.Test(t, func(t *testing.T) {
		f := newFed()
		slow := true
		f.watch(t, service.Probe{What: "slow", Ask: func(ctx context.Context) error {
			if !slow {
				return nil
			}
			slow = false
			<-ctx.Done()
			return ctx.Err()
		}})
		if n := f.during(25 * time.Second); n != 2 {
			t.Errorf("a part that was late for once had it fed %d times", n)
		}
	})
}

// Where nobody wants to be fed nobody is, and the daemon serves on.
func TestManager_Watch_Nobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFed()
		f.Watchdog = 0
		f.watch(t)
		if n := f.during(time.Hour); n != 0 {
			t.Errorf("it was fed %d times", n)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		var nobody *service.Manager
		if err := nobody.Watch(ctx); err != nil {
			t.Error(err)
		}
		nobody.Ready("")
		if nobody.Named("x") != nil {
			t.Error("nobody has sockets")
		}
	})
}

// TestManager_Notices: what is told is what sd_notify(3) asks for, a status being one line.
func TestManager_Notices(t *testing.T) {
	var told []string
	m := service.Manager{Notify: func(state string) error {
		lines := strings.Split(state, "\n")
		told = append(told, slices.DeleteFunc(lines, func(l string) bool { return strings.HasPrefix(l, "MONOTONIC_USEC=") })...)
		if strings.HasPrefix(state, "RELOADING") && len(lines) != 3 {
			t.Errorf("a reload is told by %q", state)
		}
		return nil
	}}
	m.Status("a\nb")
	m.Ready("c")
	m.Reloading()
	m.Stopping(90*time.Second, "d")
	want := []string{"STATUS=a b", "READY=1", "STATUS=c", "RELOADING=1", "STATUS=reading the configuration anew", "STOPPING=1", "EXTEND_TIMEOUT_USEC=90000000", "STATUS=d"}
	if !slices.Equal(told, want) {
		t.Errorf("told\n%q\nwant\n%q", told, want)
	}
}
