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
func (s *State) Begin(now, next time.Time) { s.begin(now, next) }

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
