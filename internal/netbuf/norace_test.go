//go:build !race

package netbuf_test

const raceEnabled = false
