package status

import (
	"fmt"
	"strconv"
	"time"
)

// Count returns n with its digits in groups of three.
func Count[N int | int64 | uint64](n N) string {
	s := strconv.FormatInt(int64(n), 10)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// Bytes returns n in the largest unit of which there is one, with three digits.
func Bytes(n uint64) string {
	if n < 1<<10 {
		return fmt.Sprintf("%d B", n)
	}
	v, units := float64(n), []string{"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}
	for i, unit := range units {
		v /= 1 << 10
		if v < 1000 || i == len(units)-1 {
			digits := 0
			switch {
			case v < 10:
				digits = 2
			case v < 100:
				digits = 1
			}
			return strconv.FormatFloat(v, 'f', digits, 64) + " " + unit
		}
	}
	panic("unreachable")
}

// Span returns d in its two largest units.
func Span(d time.Duration) string {
	units := []struct {
		of   time.Duration
		name string
	}{{24 * time.Hour, "d"}, {time.Hour, "h"}, {time.Minute, "min"}, {time.Second, "s"}}
	for i, u := range units {
		if d < u.of {
			continue
		}
		s := fmt.Sprintf("%d %s", d/u.of, u.name)
		if i+1 < len(units) {
			if rest := d % u.of / units[i+1].of; rest > 0 {
				s += fmt.Sprintf(" %d %s", rest, units[i+1].name)
			}
		}
		return s
	}
	return "0 s"
}

// When returns a time as a day and a minute, in UTC.
func When(t time.Time) string { return t.UTC().Format("2006-01-02 15:04") + " UTC" }
