package shorebird_test

import (
	"io"
	"net"
	"testing"
	"time"

	"cmtpd/internal/client/clienttest"
	"cmtpd/internal/shorebird"
)

// Who only looks at the copy waits a moment for a silent server, and is told why there is no more; sync is told
// the truth by its end. A change is kept all the same.
func TestList_Silent(t *testing.T) {
	h := privateHouse(t, alice)
	p := h.recovered(t, h.Start(t))
	silent := clienttest.Listen(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
	p.app.SyncWait = 50 * time.Millisecond
	args := []string{"list", "--server", silent}
	p.want(ok, "", args, "No messages", "it takes longer than 50ms", "no whole copy of the mailbox yet")
	p.want(ok, "", append(args, "--json"))
	var v shorebird.ListReport
	p.json(&v)
	if v.InStep || !v.Synced.IsZero() || v.Messages == nil || v.Account != alice {
		t.Errorf("%+v", v)
	}
	p.want(temporary, "", []string{"sync", "--server", silent, "--timeout", "50ms"})
	p.want(ok, "", []string{"list", "--offline"}, "Not asked:")
	p.want(failure, "", []string{"read", "1", "--offline"}, "message 1: there is none with this number")
	p.want(usage, "", []string{"read", "one", "--offline"}, "no number of a message")
	p.want(failure, "", []string{"list", "--account", bob, "--offline"}, "shorebird recover "+bob)
	p.configure("")
	p.want(usage, "", []string{"list", "--offline"}, "no account is given")
}
