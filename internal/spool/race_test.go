//go:build race

package spool_test

// raceEnabled: exhaustive tests take samples, since the detector makes them ten times slower
// and they have little concurrency to show it.
const raceEnabled = true
