package queue

import (
	"encoding/binary"
	"errors"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"cmtpd/internal/spool"
)

// The flags of a queued message's mark (docs/spool.md, The queue).
const (
	flagHeld        spool.Flags = 1 << (iota + 8) // the operator wants it to stay
	flagNoticed                                   // its sender was told that it is late
	flagGivenUp                                   // its report is to be written, and nothing else
	flagDestination                               // its destination as a whole could not be reached
	flagTrust                                     // the last attempt was not made since the destination's key cannot be trusted
)

const (
	stateVersion = 1
	stateHead    = 29
	maxReason    = 128 - stateHead // bytes
	lastSecond   = 253402300799    // of the year 9999, behind which no JSON goes
)

// errState: the keywords of a mark are not a queue's.
var errState = errors.New("queue: the state of a message cannot be read")

// A State is what is durably known of a queued message beside the message: its mark.
type State struct {
	Flags    spool.Flags
	Attempts uint16    // begun, at their time; it does not grow beyond 65535
	Status   uint16    // of the last answer; 0 for none
	First    time.Time // of the first attempt; zero for none. Whole seconds, as all times
	Last     time.Time // of the last attempt
	Next     time.Time // not before; zero for at once
	Reason   string    // of the last failure, cut to what fits
}

// keywords returns the state as it stands in a mark. The State of a message that nothing
// happened to has none.
func (s *State) keywords() []byte {
	if s.Attempts == 0 && s.Status == 0 && s.Next.IsZero() && s.Reason == "" {
		return nil
	}
	b := append(make([]byte, 0, 128), stateVersion)
	b = binary.BigEndian.AppendUint16(b, s.Attempts)
	b = binary.BigEndian.AppendUint16(b, s.Status)
	for _, t := range []time.Time{s.First, s.Last, s.Next} {
		b = binary.BigEndian.AppendUint64(b, seconds(t))
	}
	return append(b, s.Reason...)
}

// mark returns the mark that keeps the state.
func (s *State) mark() spool.Mark { return spool.Mark{Flags: s.Flags, Keywords: s.keywords()} }

// parseState reads a mark. Of one that cannot be read the flags are there all the same.
func parseState(m spool.Mark) (State, error) {
	s := State{Flags: m.Flags}
	b := m.Keywords
	if len(b) == 0 {
		return s, nil
	}
	if len(b) < stateHead || len(b) > stateHead+maxReason || b[0] != stateVersion {
		return s, errState
	}
	p := State{Flags: m.Flags, Attempts: binary.BigEndian.Uint16(b[1:]), Status: binary.BigEndian.Uint16(b[3:]), Reason: string(b[stateHead:])}
	for i, t := range []*time.Time{&p.First, &p.Last, &p.Next} {
		n := binary.BigEndian.Uint64(b[5+8*i:])
		if n > lastSecond {
			return s, errState
		}
		if n > 0 {
			*t = time.Unix(int64(n), 0).UTC()
		}
	}
	tried := p.Attempts > 0
	if tried == p.First.IsZero() || tried == p.Last.IsZero() || p.Last.Before(p.First) || p.Reason != clean(p.Reason) || p.keywords() == nil {
		return s, errState
	}
	return p, nil
}

// begin notes an attempt at now, and when the next one may follow. Only the first counts in any case.
func (s *State) begin(now, next time.Time, counts bool) {
	if (counts || s.Attempts == 0) && s.Attempts < 1<<16-1 {
		s.Attempts++
	}
	s.Last, s.Next = wholeSecond(now), wholeSecond(next)
	if s.First.IsZero() {
		s.First = s.Last
	}
	s.Last = later(s.Last, s.First) // the clock may have been set back
	s.Flags &^= flagDestination
}

// answer notes what an attempt came to.
func (s *State) answer(r Result) {
	s.Status, s.Reason = r.Status, clean(r.Text)
	s.Flags &^= flagTrust
	if r.Outcome == Distrusted {
		s.Flags |= flagTrust
	}
}

// clean makes a text from elsewhere fit to be kept and shown: one line, cut to what fits.
func clean(text string) string {
	text = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, text)
	text = strings.TrimSpace(text)
	if len(text) <= maxReason {
		return text
	}
	cut := maxReason
	for !utf8.RuneStart(text[cut]) {
		cut--
	}
	return strings.TrimSpace(text[:cut])
}

func seconds(t time.Time) uint64 {
	if t.IsZero() {
		return 0
	}
	return uint64(min(max(t.Unix(), 0), lastSecond))
}

// wholeSecond rounds up, so that nothing that waits for it is early.
func wholeSecond(t time.Time) time.Time {
	if r := t.Truncate(time.Second); !r.Equal(t) {
		t = r.Add(time.Second)
	}
	return time.Unix(t.Unix(), 0).UTC()
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}
