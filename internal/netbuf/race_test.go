//go:build race

package netbuf_test

// Under the race detector sync.Pool drops items at random and every object is
// larger, so figures about memory mean nothing.
const raceEnabled = true
