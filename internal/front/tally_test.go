package front_test

import (
	"bytes"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"cmtpd/internal/front"
)

// A lockedBuffer is written by timers' goroutines.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// A flood makes a line when it begins, and one a minute with what was counted: none of it is lost,
// and silence makes no lines.
func TestTally(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log lockedBuffer
		tally := front.NewTally(slog.New(slog.NewTextHandler(&log, nil)), slog.LevelWarn, "refused", "all", "address")
		who := netip.MustParseAddrPort("192.0.2.1:4711")
		want := func(when string, lines ...string) {
			t.Helper()
			synctest.Wait()
			got := strings.Split(strings.TrimSuffix(log.String(), "\n"), "\n")
			if len(got) != len(lines) {
				t.Fatalf("%s: %d lines, want %d:\n%s", when, len(got), len(lines), log.String())
			}
			for i := range lines {
				if !strings.HasSuffix(got[i], lines[i]) {
					t.Errorf("%s: %q, want %q", when, got[i], lines[i])
				}
			}
		}
		tally.Add(1, who)
		want("the first", "all=0 address=1 last=192.0.2.1:4711")
		for range 1000 {
			tally.Add(0, who)
		}
		tally.Add(1, netip.MustParseAddrPort("192.0.2.2:25"))
		want("before the minute is over", "all=0 address=1 last=192.0.2.1:4711")
		time.Sleep(time.Minute)
		want("the minute's end", "last=192.0.2.1:4711", "all=1000 address=1 last=192.0.2.2:25")
		time.Sleep(10 * time.Minute)
		tally.Add(0, who)
		want("after silence", "", "", "all=1 address=0 last=192.0.2.1:4711")
		tally.Add(0, who)
		tally.Stop()
		want("the end", "", "", "", "all=1 address=0 last=192.0.2.1:4711")
	})
}
