package terminal_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/rivo/uniseg"

	"cmtpd/internal/terminal"
)

// Work is told of to who watches, ends with its context, and goes on the same where nobody does.
func TestProgress(t *testing.T) {
	for _, watched := range []bool{true, false} {
		var shown bytes.Buffer
		var bar *terminal.Bar
		if watched {
			bar = terminal.NewBar(&shown, "opening", -1, terminal.Bytes)
			bar.Set(0, 6)
		}
		why := errors.New("why")
		ctx, cancel := context.WithCancelCause(t.Context())
		p := terminal.NewProgress(ctx, bar)
		r := p.Watch(strings.NewReader("abc"))
		if b, err := io.ReadAll(io.NewSectionReader(r, 0, 3)); string(b) != "abc" || err != nil || p.Err() != nil {
			t.Errorf("%q, %v", b, err)
		}
		if n, err := p.Write([]byte("def")); n != 3 || err != nil {
			t.Errorf("%d, %v", n, err)
		}
		cancel(why)
		if _, err := r.ReadAt(make([]byte, 1), 0); !errors.Is(err, why) {
			t.Errorf("a read afterwards: %v", err)
		}
		if n, err := p.Write([]byte("x")); n != 0 || !errors.Is(err, why) || !errors.Is(p.Err(), why) {
			t.Errorf("%d bytes afterwards: %v", n, err)
		}
		p.Done()
		if strings.Contains(shown.String(), "opening") != watched {
			t.Errorf("shown: %q", shown.String())
		}
	}
}

// A bar leaves nothing on its line, however much was counted.
func TestBar_Done(t *testing.T) {
	for _, counted := range []int{0, 1, 500, 999, 980, 984, 1100} {
		var out bytes.Buffer
		b := terminal.NewBar(&out, "sending", 1000, terminal.Bytes)
		b.Add(20) // is shown at once
		b.Add(counted)
		b.Done()
		shown := out.String()
		if !strings.Contains(shown, "sending") {
			t.Fatalf("no bar was shown: %q", shown)
		}
		// What stands behind the last return but one covers what stood there.
		lines := strings.Split(shown, "\r")
		n := len(lines)
		if blank := lines[n-2]; lines[n-1] != "" || strings.Trim(blank, " ") != "" || len(blank) < uniseg.StringWidth(lines[n-3]) {
			t.Errorf("after %d of 1000 it leaves %q", counted, shown)
		}
	}
}
