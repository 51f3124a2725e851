package front_test

import (
	"io"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"cmtpd/internal/front"
)

// visitor comes to a doorstep, and returns the time at which it was told. It ends without one when nothing was said.
func visitor(t *testing.T, d *front.Doorstep) (told <-chan time.Time) {
	ours, theirs := net.Pipe()
	at := make(chan time.Time, 1)
	go func() {
		text, err := io.ReadAll(theirs)
		if err != nil {
			t.Error(err)
		}
		if string(text) == "no" {
			at <- time.Now()
		}
		close(at)
	}()
	d.Keep(ours, netip.Prefix{}, func() { io.WriteString(ours, "no") })
	return at
}

func TestDoorstep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := front.NewDoorstep(time.Second)
		begun := time.Now()
		first := visitor(t, d)
		time.Sleep(300 * time.Millisecond)
		second := visitor(t, d)
		if after := (<-first).Sub(begun); after != time.Second {
			t.Errorf("the first was told after %v", after)
		}
		if after := (<-second).Sub(begun); after != 1300*time.Millisecond {
			t.Errorf("the second was told after %v", after)
		}
		// One more than there is room for ends the oldest at once, and no other.
		begun = time.Now()
		all := make([]<-chan time.Time, front.DoorstepRoom+1)
		for i := range all {
			all[i] = visitor(t, d)
		}
		if at, told := <-all[0]; told || time.Since(begun) != 0 {
			t.Errorf("the oldest was told at %v, or sent away after %v", at, time.Since(begun))
		}
		for _, i := range []int{1, front.DoorstepRoom} {
			if after := (<-all[i]).Sub(begun); after != time.Second {
				t.Errorf("%d of %d was told after %v", i, len(all), after)
			}
		}
		// A shutdown waits for nobody.
		begun = time.Now()
		last := visitor(t, d)
		d.Close()
		for _, told := range []<-chan time.Time{last, visitor(t, d)} {
			if after := (<-told).Sub(begun); after != 0 {
				t.Errorf("told %v after the end", after)
			}
		}
	})
}

// Who leaves no room for others is found out: with a share of all places, and not before all are taken.
func TestDoorstep_Crowds(t *testing.T) {
	one, other := netip.MustParsePrefix("192.0.2.1/32"), netip.MustParsePrefix("192.0.2.2/32")
	for _, tt := range []struct {
		name    string
		ours    int // places before the others'
		others  netip.Prefix
		crowded bool
	}{
		{"all but nobody's places", front.DoorstepShare, netip.Prefix{}, true},
		{"a share", front.DoorstepShare, other, true},
		{"less than that", front.DoorstepShare - 1, other, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := front.NewDoorstep(time.Hour)
			defer d.Close()
			keep := func(from netip.Prefix) bool {
				ours, theirs := net.Pipe()
				t.Cleanup(func() { theirs.Close() })
				return d.Keep(ours, from, nil)
			}
			for i := range front.DoorstepRoom {
				from := tt.others
				if i >= front.DoorstepRoom-tt.ours {
					from = one
				}
				if keep(from) {
					t.Fatalf("number %d crowds, where there is room", i)
				}
			}
			if got := keep(one); got != tt.crowded {
				t.Errorf("it crowds: %v", got)
			}
		})
	}
	// Whose places were left again does not crowd.
	d := front.NewDoorstep(time.Hour)
	defer d.Close()
	for i := range 3 * front.DoorstepRoom {
		ours, theirs := net.Pipe()
		defer theirs.Close()
		from := one
		if i >= front.DoorstepRoom {
			from = other
		}
		d.Keep(ours, from, nil)
	}
	ours, theirs := net.Pipe()
	defer theirs.Close()
	if d.Keep(ours, one, nil) {
		t.Error("who has left crowds")
	}
	// Nobody in particular never does.
	for range front.DoorstepRoom + 1 {
		ours, theirs := net.Pipe()
		defer theirs.Close()
		if d.Keep(ours, netip.Prefix{}, nil) {
			t.Fatal("nobody in particular crowds")
		}
	}
}
