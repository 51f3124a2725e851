package front

import (
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"time"
)

// tallyEvery is how often a tally makes a line of the log, at most: a flood must not fill the disk.
const tallyEvery = time.Minute

// The kinds of connections that were refused: by MaxConnections, MaxPerAddress, Rate, and for want of a PROXY header.
const (
	byTotal = iota
	byAddress
	byRate
	byProxy
)

// The kinds of connections that were no sessions: of neither protocol, and without a first command.
const (
	neither = iota
	silent
)

// A tally tells the log of what may come in floods: of the first at once, of what follows within a
// minute together at its end.
type tally struct {
	log   *slog.Logger
	level slog.Level
	text  string
	kinds []string

	mu      sync.Mutex
	counts  []uint64       // under mu: by kind, since the last line
	last    netip.AddrPort // under mu: who was the last of them
	waits   *time.Timer    // under mu: until there may be a line again; nil: now
	stopped bool           // under mu
}

func newTally(log *slog.Logger, level slog.Level, text string, kinds ...string) *tally {
	return &tally{log: log, level: level, text: text, kinds: kinds, counts: make([]uint64, len(kinds))}
}

// add counts one of a kind, by its place.
func (t *tally) add(kind int, who netip.AddrPort) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.counts[kind]++
	t.last = who
	if t.waits == nil && !t.stopped {
		t.tell()
		t.waits = time.AfterFunc(tallyEvery, t.again)
	}
}

// again tells what has come meanwhile, or ends the waiting.
func (t *tally) again() {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.stopped:
	case t.tell():
		t.waits = time.AfterFunc(tallyEvery, t.again)
	default:
		t.waits = nil
	}
}

// tell writes the line, if there is something to say. Under mu.
func (t *tally) tell() bool {
	args, sum := make([]any, 0, 2*len(t.kinds)+2), uint64(0)
	for i, n := range t.counts {
		args = append(args, t.kinds[i], n)
		sum += n
	}
	if sum == 0 {
		return false
	}
	clear(t.counts)
	t.log.Log(context.Background(), t.level, t.text, append(args, "last", t.last)...)
	return true
}

// stop tells the rest.
func (t *tally) stop() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.stopped = true
	if t.waits != nil {
		t.waits.Stop()
	}
	t.tell()
}
