// Package status shows an operator at a glance how a server is: a page of plain HTML that asks for nothing
// else, and what it needs to remember for that: the traffic of the last hour, and the last lines of the log that
// were about a trouble.
//
// It guarantees that what it remembers is bounded, that nothing on the page is anything but text, whoever wrote it, and
// that no user's address is on it.
package status

import (
	"sync"
	"time"
)

// A Kind is what is counted of the traffic.
type Kind int

// The kinds.
const (
	SMTP Kind = iota // sessions that have ended
	CMTP
	In  // messages that were stored
	Out // messages that another server has taken
	kinds
)

// Minutes is for how long traffic is remembered.
const Minutes = 60

// Traffic counts what has happened in each of the last minutes. It is safe for many goroutines.
type Traffic struct {
	mu     sync.Mutex
	minute int64 // since 1970, of the newest count
	counts [kinds][Minutes]uint64
}

// NewTraffic returns one that has seen nothing.
func NewTraffic() *Traffic { return new(Traffic) }

// Add counts one of a kind.
func (t *Traffic) Add(k Kind, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.advance(now)
	t.counts[k][t.minute%Minutes]++
}

// Of returns the counts of a kind, the present minute's last.
func (t *Traffic) Of(k Kind, now time.Time) (counts [Minutes]uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.advance(now)
	for i := range counts {
		counts[i] = t.counts[k][(t.minute+1+int64(i))%Minutes]
	}
	return counts
}

// advance empties the minutes that have begun since. A clock that is set back counts on in the newest. Under mu.
func (t *Traffic) advance(now time.Time) {
	minute := now.Unix() / 60
	if minute-t.minute > Minutes {
		t.minute = minute - Minutes
	}
	for t.minute < minute {
		t.minute++
		for k := range t.counts {
			t.counts[k][t.minute%Minutes] = 0
		}
	}
}
