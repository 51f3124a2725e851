package cmtp

import (
	"fmt"
	"unicode"
	"unicode/utf8"
)

// A Status is what became of a command of CMTP 1 (docs/protocol.md section 16.3).
type Status uint16

// The statuses, by what a session has to say.
const (
	StatusDone           Status = 200
	StatusQueued         Status = 202
	StatusClosing        Status = 421
	StatusTooOften       Status = 450
	StatusTrouble        Status = 451
	StatusNoRoom         Status = 452
	StatusPeerUnreached  Status = 454
	StatusPeerDistrusted Status = 455
	StatusUnknownCommand Status = 500
	StatusBadParameter   Status = 501
	StatusNotNow         Status = 503
	StatusNotProven      Status = 530
	StatusWrongProof     Status = 535
	StatusNoAccount      Status = 550
	StatusForeignDomain  Status = 551
	StatusTooLarge       Status = 552
	StatusForeignSource  Status = 553
	StatusBadMessage     Status = 554
	StatusBadSystem      Status = 555
	StatusNoMail         Status = 556
	StatusStale          Status = 560
	StatusBadInvitation  Status = 561
	StatusBadStatement   Status = 562
	StatusSwitchedOff    Status = 563
	StatusNoMessage      Status = 564
	StatusChanged        Status = 565
)

// meanings are the statuses' in the words of the document.
var meanings = map[Status]string{
	StatusDone:           "done",
	StatusQueued:         "taken, and waiting to be delivered to another server",
	StatusClosing:        "the server is ending this session; connect again later",
	StatusTooOften:       "too many attempts; the reason says when to try again",
	StatusTrouble:        "the server has a trouble of its own",
	StatusNoRoom:         "the server has no room",
	StatusPeerUnreached:  "the other domain's server cannot be reached now",
	StatusPeerDistrusted: "the other domain's key has changed and is not trusted yet",
	StatusUnknownCommand: "unknown command",
	StatusBadParameter:   "a parameter is not what it must be",
	StatusNotNow:         "not possible here or now",
	StatusNotProven:      "only for who has proven who they are",
	StatusWrongProof:     "the proof is wrong",
	StatusNoAccount:      "there is no such account",
	StatusForeignDomain:  "the domain is not one of this server's",
	StatusTooLarge:       "larger than the server takes",
	StatusForeignSource:  "the source is not the sender's own",
	StatusBadMessage:     "the message is not well-formed",
	StatusBadSystem:      "a crypto system or version that the server does not take",
	StatusNoMail:         "the other domain takes no CMTP mail",
	StatusStale:          "what was to be replaced is not there any more",
	StatusBadInvitation:  "the invitation is unknown, used or expired",
	StatusBadStatement:   "the statement, its proof or what comes with it is refused",
	StatusSwitchedOff:    "switched off by the operator",
	StatusNoMessage:      "there is no such message",
	StatusChanged:        "the message has another change number than it was expected to have",
}

// String returns what s means, or its number where this program does not know it.
func (s Status) String() string {
	if m, ok := meanings[s]; ok {
		return m
	}
	return fmt.Sprintf("status %d", uint16(s))
}

// Done reports whether the command was done. Like Temporary it knows, by the first
// digit, of statuses too that this program does not know.
func (s Status) Done() bool { return s/100 == 2 }

// Temporary reports whether the command may be done when it is tried again later.
func (s Status) Temporary() bool { return s/100 == 4 }

// valid reports whether s has three digits and a first one that means something.
func (s Status) valid() bool { return s.Done() || s.Temporary() || s/100 == 5 }

// A StatusError is the reply of a server that did not do what it was asked for.
type StatusError struct {
	Status Status
	Reason string // the server's words, for a person; nothing may be decided by them
}

// Error shows the reason escaped: it is the server's to choose.
func (e *StatusError) Error() string {
	return fmt.Sprintf("the server answered %d (%v): %q", uint16(e.Status), e.Status, e.Reason)
}

// Temporary reports whether trying again later may help.
func (e *StatusError) Temporary() bool { return e.Status.Temporary() }

// isReason reports whether b may stand in a failure: UTF-8 without controls.
func isReason(b []byte) bool {
	for len(b) > 0 {
		r, n := utf8.DecodeRune(b)
		if r == utf8.RuneError && n == 1 || unicode.IsControl(r) {
			return false
		}
		b = b[n:]
	}
	return true
}

// appendReason appends as much of reason as a failure may have: its beginning, with
// whole characters, a space for every control and U+FFFD for what is not UTF-8.
func appendReason(dst []byte, reason string) []byte {
	end := len(dst) + MaxReason
	for _, r := range reason {
		if unicode.IsControl(r) {
			r = ' '
		}
		if len(dst)+utf8.RuneLen(r) > end {
			break
		}
		dst = utf8.AppendRune(dst, r)
	}
	return dst
}
