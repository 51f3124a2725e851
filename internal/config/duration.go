package config

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// wantDuration is what a duration looks like, for who wrote something else.
const wantDuration = `a duration such as "30s", "5m", "1h30m" or "7d"`

var errDuration = errors.New("expected " + wantDuration)

// ParseDuration returns the duration that s spells as time.ParseDuration knows it, with whole
// days of 24 hours in front or alone: "7d", "1d12h".
func ParseDuration(s string) (time.Duration, error) {
	number, rest, hasDays := strings.Cut(s, "d")
	if !hasDays {
		number, rest = "0", s
	}
	days, err := strconv.ParseUint(number, 10, 16) // whatever fits is a duration
	var d time.Duration
	if err == nil && (rest != "" || !hasDays) {
		d, err = time.ParseDuration(rest)
	}
	sum := time.Duration(days)*24*time.Hour + d
	if err != nil || hasDays && (d < 0 || sum < 0 || strings.HasPrefix(rest, "+")) {
		return 0, fmt.Errorf("%w; found %q", errDuration, s)
	}
	return sum, nil
}
