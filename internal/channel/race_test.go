//go:build race

package channel_test

// Under the race detector a handshake takes ten times as long, and figures about
// memory mean nothing.
const raceEnabled = true
