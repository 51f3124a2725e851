package shorebird_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"cmtpd/internal/client/clienttest"
	"cmtpd/internal/cmtp"
)

// A server that answers every wait at once is not asked without a pause.
func TestWatch_NothingNew(t *testing.T) {
	h := privateHouse(t, alice)
	waits := make(chan time.Time, 1000)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	h.Answer = func(c *clienttest.Conn, cmd cmtp.Command) (bool, error) {
		switch cmd.Verb {
		case cmtp.Mailbox:
			return true, c.Done((&cmtp.MailboxState{Epoch: cmtp.Epoch{1}, Change: 1, Quota: 1 << 30}).Append(nil))
		case cmtp.Wait:
			if waits <- time.Now(); len(waits) == 3 {
				stop()
			}
			fallthrough
		case cmtp.List, cmtp.Changes:
			return true, c.Done((&cmtp.Page{Epoch: cmtp.Epoch{1}, Next: 1}).Append(nil))
		}
		return false, nil
	}
	p := h.recovered(t, h.Start(t))
	if status := p.runContext(ctx, strings.NewReader(""), "watch"); len(waits) < 3 {
		t.Fatalf("ended with %d after %d waits: %s", status, len(waits), p.err.String())
	}
	for i, last := 1, <-waits; i < 3; i++ {
		next := <-waits
		if d := next.Sub(last); d < 900*time.Millisecond {
			t.Errorf("asked again after %s", d)
		}
		last = next
	}
}
