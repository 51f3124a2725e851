package crypt_test

import (
	"errors"
	"testing"

	"cmtpd/internal/crypt"
)

// receivedVector is a log entry that nothing signs.
type receivedVector struct {
	By    string         `json:"by"`
	From  string         `json:"from"`
	At    crypt.UnixTime `json:"at"`
	ID    string         `json:"id"`
	With  string         `json:"with"`
	Entry string         `json:"entry"`
}

func newReceivedVector() receivedVector {
	return receivedVector{"mail.cref.example", "192.0.2.7", time3, "000000000000002a", "CMTP1",
		"received by=mail.cref.example from=192.0.2.7 at=1720000000 id=000000000000002a with=CMTP1"}
}

func TestReceived(t *testing.T) {
	v := loadStatements(t).Received
	r := crypt.Received{By: v.By, From: v.From, At: v.At, ID: v.ID, With: v.With}
	if r.String() != v.Entry {
		t.Errorf("the entry is %q, want %q", r.String(), v.Entry)
	}
	if again, err := crypt.ParseReceived(v.Entry); err != nil || again != r {
		t.Errorf("parses to %+v, %v", again, err)
	}
	odd := crypt.Received{By: "a=b c%", From: "", At: 0, ID: "\u00e9\x00\n", With: "x"}
	want := "received by=a%3Db%20c%25 from=- at=0 id=%C3%A9%00%0A with=x"
	if odd.String() != want {
		t.Errorf("the entry is %q, want %q", odd.String(), want)
	}
	for _, bad := range []string{"", "received", v.Entry + " ", v.Entry + " x=y", "received by=a from=b at=01 id=c with=d",
		"received by= from=b at=1 id=c with=d", "received by=%41 from=b at=1 id=c with=d", "received from=b by=a at=1 id=c with=d"} {
		if r, err := crypt.ParseReceived(bad); !errors.Is(err, crypt.ErrStatement) || r != (crypt.Received{}) {
			t.Errorf("%q: %+v, %v", bad, r, err)
		}
	}
	for entry, want := range map[string]bool{"received": true, "received x": true, "receivedx": false, "Received by": false, "": false, "origin d": false} {
		if crypt.IsReceived(entry) != want {
			t.Errorf("%q is received: %v", entry, !want)
		}
	}
	if !crypt.IsOrigin("origin whatever") || crypt.IsOrigin("original d=x") {
		t.Error("what an origin is")
	}
}

// FuzzReceived: what is parsed is written again identically, and is safe to show.
func FuzzReceived(f *testing.F) {
	requireSeeds(f)
	f.Fuzz(func(t *testing.T, entry string) {
		r, err := crypt.ParseReceived(entry)
		if err != nil {
			if !errors.Is(err, crypt.ErrStatement) || r != (crypt.Received{}) {
				t.Fatalf("%q: %+v, %v", entry, r, err)
			}
			return
		}
		if r.String() != entry {
			t.Fatalf("%q is written again as %q", entry, r.String())
		}
		for i := range len(entry) {
			if entry[i] < ' ' || entry[i] >= 0x7f {
				t.Fatalf("%q holds the byte %#x", entry, entry[i])
			}
		}
	})
}
