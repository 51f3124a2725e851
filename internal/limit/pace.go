package limit

import "time"

// A pace is the generic cell rate algorithm: of a holder it takes one time, at which that will have paid for all that it
// had. One that lies in the past, or is zero, is of a holder that owes nothing.
type pace struct {
	every time.Duration // between two units at the steady rate
	burst time.Duration // how far a holder may run ahead
}

// newPace allows burst units at once, and rate in each duration per after that. Both are positive, and rate is no more than per has
// nanoseconds.
func newPace(rate, burst int, per time.Duration) pace {
	every := per / time.Duration(rate)
	return pace{every, every * time.Duration(burst)}
}

// owed is until when who has the time paid owes something at now. It has to be kept in the place of paid: under another
// pace it may have come to owe more than this one lets anybody.
func (p pace) owed(paid, now time.Time) time.Time {
	if paid.Before(now) {
		return now
	}
	if most := now.Add(p.burst); paid.After(most) {
		return most
	}
	return paid
}

// take counts n units, or none and says how long there will not be as many. It returns the time to keep in the place of paid
// either way. More than a burst count as one.
func (p pace) take(paid, now time.Time, n int) (then time.Time, wait time.Duration) {
	paid = p.owed(paid, now)
	then = paid.Add(min(time.Duration(n), p.burst/p.every) * p.every)
	if wait = then.Sub(now) - p.burst; wait > 0 {
		return paid, wait
	}
	return then, 0
}
