//go:build !race

package cmtptest

const raceEnabled = false
