//go:build race

package cmtptest

const raceEnabled = true
