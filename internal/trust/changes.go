package trust

import (
	"log/slog"
	"slices"
	"time"
)

// writeEvery is how long what was merely seen again waits to be written.
const writeEvery = 24 * time.Hour

// same reports whether two states differ in nothing but when something was seen last, and
// until when enforce is in force.
func same(a, b *State) bool {
	return a.Domain == b.Domain && a.CMTP1 == b.CMTP1 && a.Mail == b.Mail && a.Without.Equal(b.Without) && a.Enforce.IsZero() == b.Enforce.IsZero() &&
		sameSuccessor(a.Successor, b.Successor) && sameSuccessor(a.Candidate, b.Candidate) &&
		slices.EqualFunc(a.Keys, b.Keys, func(x, y Key) bool {
			shown := x.Last.IsZero() == y.Last.IsZero()
			x.Last = y.Last
			return shown && x == y
		}) &&
		slices.EqualFunc(a.Pending, b.Pending, func(x, y Pending) bool {
			x.Last = y.Last
			return x == y
		}) &&
		slices.Equal(a.Former, b.Former) && slices.Equal(a.Actions, b.Actions)
}

func sameSuccessor(a, b *Successor) bool {
	return a == b || a != nil && b != nil && *a == *b
}

// A change is a line in the log.
type change struct {
	level slog.Level
	text  string
	args  []any
}

// changes returns what differs between two states and means something to an operator.
// When something was seen is none of it, nor are timers.
func changes(before, after *State) (all []change) {
	add := func(level slog.Level, text string, args ...any) { all = append(all, change{level, text, args}) }
	for _, k := range after.Keys {
		if i := before.find(k.Key); i < 0 {
			add(slog.LevelInfo, "a server's key is trusted", "key", k.Key.String(), "provenance", k.Provenance.String())
		} else if was := before.Keys[i].Provenance; was != k.Provenance {
			add(slog.LevelInfo, "a server's key is vouched for by somebody else", "key", k.Key.String(), "provenance", k.Provenance.String(), "before", was.String())
		}
	}
	for _, k := range before.Keys {
		if after.find(k.Key) < 0 {
			add(slog.LevelInfo, "a server's key is trusted no longer", "key", k.Key.String(), "provenance", k.Provenance.String())
		}
	}
	for _, p := range after.Pending {
		i := before.findPending(p.Key)
		if !p.Held.IsZero() && (i < 0 || before.Pending[i].Held.IsZero() || before.Pending[i].Why != p.Why) {
			add(slog.LevelWarn, "a server's key is held", append(until(after.until(p)), "key", p.Key.String(), "why", p.Why.Text())...)
		} else if p.Held.IsZero() && i < 0 {
			add(slog.LevelInfo, "a server's key is published, and waits", append(until(after.until(p)), "key", p.Key.String())...)
		}
	}
	if s := after.Successor; s != nil && !sameSuccessor(before.Successor, s) {
		add(slog.LevelInfo, "a domain has announced a successor", "key", s.Key.String(), "provenance", s.Provenance.String())
	}
	if c := after.Candidate; c != nil && (before.Candidate == nil || before.Candidate.Key != c.Key) {
		add(slog.LevelWarn, "a domain announces another successor than before", "key", c.Key.String(), "until", c.First.Add(Week))
	}
	if after.CMTP1 && !before.CMTP1 {
		add(slog.LevelInfo, "a domain speaks CMTP 1, and is not spoken to without it any more")
	}
	if was, is := before.Without.IsZero(), after.Without.IsZero(); was && !is {
		add(slog.LevelWarn, "a domain is held", "why", Downgraded.Text())
	} else if is && !was {
		add(slog.LevelInfo, "a domain speaks CMTP 1 again")
	}
	if was, is := before.Enforce.IsZero(), after.Enforce.IsZero(); was != is {
		add(slog.LevelInfo, "a domain's enforce has changed", "enforced", was)
	}
	if n := len(after.Actions); n > 0 && !slices.Equal(before.Actions, after.Actions) { // one comes at a time, and the oldest may go for it
		add(slog.LevelInfo, "the operator has decided", "action", after.Actions[n-1].Do)
	}
	return all
}

// until names a time, if there is one.
func until(t time.Time) []any {
	if t.IsZero() {
		return nil
	}
	return []any{"until", t}
}
