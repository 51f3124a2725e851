package queue

import (
	"context"
	"time"

	"cmtpd/internal/spool"
)

// ParseState reads the state in a mark.
func ParseState(m spool.Mark) (State, error) { return parseState(m) }

// Mark is the mark of a state.
func (s *State) Mark() spool.Mark { return s.mark() }

// Begin and Answer are what attempts do to a state.
func (s *State) Begin(now, next time.Time) { s.begin(now, next, true) }

// Answer is described at Begin.
func (s *State) Answer(r Result) { s.answer(r) }

// Flags of states.
const (
	FlagHeld        = flagHeld
	FlagNoticed     = flagNoticed
	FlagGivenUp     = flagGivenUp
	FlagDestination = flagDestination
	FlagTrust       = flagTrust
	MaxReason       = maxReason
)

// Load reads the mailbox, as Run does first.
func (q *Queue) Load(ctx context.Context) error { return q.load(ctx) }

// Destination is what is kept of one, with messages of whose items only the number and time matter.
type Destination struct{ d destination }

// Insert and Postpone put a message in.
func (d *Destination) Insert(id spool.ID) { d.d.insert(item{id: id}) }

// Postpone is described at Insert.
func (d *Destination) Postpone(id spool.ID, next uint32) { d.d.postpone(item{id: id, next: next}) }

// Promote makes ready what is due.
func (d *Destination) Promote(now uint32) { d.d.promote(now) }

// Take takes the oldest that are ready.
func (d *Destination) Take(n int) (ids []spool.ID) {
	for _, i := range d.d.take(n) {
		ids = append(ids, i.id)
	}
	return ids
}

// Remove takes one out, and says whether it was there; Has says it only.
func (d *Destination) Remove(id spool.ID) bool {
	_, ok := d.d.remove(id)
	return ok
}

// Has is described at Remove.
func (d *Destination) Has(id spool.ID) bool { return d.d.has(id) }
