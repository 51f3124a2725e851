package config_test

import (
	"testing"
	"time"

	"cmtpd/internal/config"
)

func TestParseDuration(t *testing.T) {
	const day = 24 * time.Hour
	for s, want := range map[string]time.Duration{
		"30s": 30 * time.Second, "1h30m": 90 * time.Minute, "-5m": -5 * time.Minute, "0": 0, "1.5h": 90 * time.Minute,
		"7d": 7 * day, "0d": 0, "366d": 366 * day, "1d12h": 36 * time.Hour, "1d1ns": day + 1, "65535d": 65535 * day,
	} {
		if got, err := config.ParseDuration(s); err != nil || got != want {
			t.Errorf("%q is %v, %v, want %v", s, got, err, want)
		}
	}
	for _, s := range []string{"", "d", "7", "7 d", " 7d", "-1d", "+1d", "1.5d", "65536d", "1d-1h", "1d+1h", "1h1d", "1d1d", "7days", "65535d2000000h", "1dd", "99999999999d"} {
		if got, err := config.ParseDuration(s); err == nil {
			t.Errorf("%q is %v, want an error", s, got)
		}
	}
}
