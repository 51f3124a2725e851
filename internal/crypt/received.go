package crypt

import (
	"fmt"
)

// A Received is a log entry by which a server that hands a message on says how it came by
// it (docs/protocol.md section 17.7). Nothing signs it.
type Received struct {
	By   string   // the server that has handed the message on
	From string   // who had brought it there
	At   UnixTime // when
	ID   string   // the message's number there
	With string   // the protocol that it came by
}

// IsReceived reports whether a log entry is meant to be a Received, whoever wrote it how.
func IsReceived(entry string) bool { return isKind(entry, "received") }

// IsOrigin reports whether a log entry is meant to be an Origin.
func IsOrigin(entry string) bool { return isKind(entry, "origin") }

// IsSender reports whether a log entry is meant to be a Sender.
func IsSender(entry string) bool { return isKind(entry, "sender") }

func isKind(entry, kind string) bool {
	return len(entry) >= len(kind) && entry[:len(kind)] == kind && (len(entry) == len(kind) || entry[len(kind)] == ' ')
}

// String returns the entry as it stands in a log, without a NUL. What is empty stands as
// "-", since every value has a byte.
func (r *Received) String() string {
	return fmt.Sprintf("received by=%s from=%s at=%d id=%s with=%s", value(r.By), value(r.From), r.At, value(r.ID), value(r.With))
}

func value(s string) string {
	if s == "" {
		return "-"
	}
	return escape(s)
}

// ParseReceived reads what Received.String returns, and nothing else.
func ParseReceived(entry string) (r Received, err error) {
	f := fields(entry, "received", "by", "from", "at", "id", "with")
	if f == nil {
		return r, fmt.Errorf("%w: not a received entry", ErrStatement)
	}
	r = Received{By: unescape(f[0]), From: unescape(f[1]), At: parseTime(f[2]), ID: unescape(f[3]), With: unescape(f[4])}
	if r.String() != entry {
		return Received{}, fmt.Errorf("%w: a received entry that is not in its one form", ErrStatement)
	}
	return r, nil
}
