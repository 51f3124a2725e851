package spool

import (
	"fmt"
	"log/slog"

	"cmtpd/internal/crypt"
)

// Damage is a place where the spool is not as it was written.
type Damage struct {
	File        string // that holds it, or that is missing; relative to the spool
	Segment     uint64 // 0 where it is in no segment
	Offset      int64  // in the segment
	Length      int64  // bytes; 0 where none are there
	FirstCommit uint64 // commits that it touches; 0 where that cannot be known
	LastCommit  uint64
	Messages    []ID // that are damaged or lost, as far as that can be known
	Reason      string

	class woundClass      // of wound
	wound [32]byte        // fingerprint by which a repair record can vouch for it; zero where none can
	key   crypt.PublicKey // of woundKey
	sound bool            // the segment's bytes are as they should be: there is nothing to rewrite
}

// String returns one line for the operator.
func (d Damage) String() string {
	s := d.File
	if d.Segment != 0 {
		s += fmt.Sprintf(" (segment %d, offset %d, %d bytes)", d.Segment, d.Offset, d.Length)
	}
	s += ": " + d.Reason
	if len(d.Messages) > 0 {
		s += fmt.Sprintf("; messages %v", d.Messages)
	}
	return s
}

// LogValue makes a log show what String returns.
func (d Damage) LogValue() slog.Value { return slog.StringValue(d.String()) }
