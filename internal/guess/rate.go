package guess

import "time"

// A rate is the generic cell rate algorithm of package limit, for times that are
// written down: an allowance is the one time at which it is whole again, in
// nanoseconds since 1970. It is whole when that has passed.
type rate struct {
	every int64 // between two attempts that come back, in nanoseconds
	burst int64 // attempts of a whole allowance
}

func newRate(perHour, burst int) rate {
	return rate{every: int64(time.Hour) / int64(perHour), burst: int64(burst)}
}

// empty is an allowance that has just been used up.
func (r rate) empty(now int64) int64 { return now + r.every*r.burst }

// bound brings a time that no allowance can have at now to the last one that it can
// have: the clock was set back, or the configuration allows less. Who was to wait
// for that time would wait for the clock to be as wrong again.
func (r rate) bound(whole, now int64) int64 { return min(whole, r.empty(now)) }

// take takes one attempt, or says how long there will be none.
func (r rate) take(whole, now int64) (next int64, wait time.Duration) {
	next = max(r.bound(whole, now), now) + r.every
	return next, time.Duration(max(next-r.empty(now), 0))
}

// giveBack gives n attempts back, as many as are missing at most.
func (r rate) giveBack(whole, now int64, n int) int64 {
	return max(r.bound(whole, now)-r.every*min(int64(n), r.burst), 0)
}
