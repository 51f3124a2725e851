package kernelring_test

import (
	"errors"
	"testing"
	"time"

	"cmtpd/internal/kernelring"
)

// What the kernel has not forgotten in time, a clock that was set being the reason, is not taken either; nor is what another program
// has put there.
func TestDecode(t *testing.T) {
	until := time.Unix(1_800_000_000, 0)
	b := kernelring.Encode([]byte("secret"), until)
	got, when, err := kernelring.Decode(b, until.Add(-time.Second))
	if err != nil || string(got) != "secret" || !when.Equal(until) {
		t.Errorf("%q until %v, %v", got, when, err)
	}
	for _, tt := range []struct {
		b   []byte
		now time.Time
	}{{b, until}, {b[:7], until.Add(-time.Second)}, {nil, until}} {
		if _, _, err := kernelring.Decode(tt.b, tt.now); !errors.Is(err, kernelring.ErrNotFound) {
			t.Errorf("%d bytes at %v: %v", len(tt.b), tt.now, err)
		}
	}
}
