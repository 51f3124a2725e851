package session_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"cmtpd/internal/account"
	"cmtpd/internal/durable/durabletest"
	"cmtpd/internal/session"
	"cmtpd/internal/spool"
)

// A server that stops lets go of who says nothing, and of nobody whose message is
// under way.
func TestServer_Serve_Shutdown(t *testing.T) {
	s := serve(t, setup{})
	idle, half, busy := s.dial(true), s.dial(true), s.dial(true)
	msg := message(t, to("alice@cref.example"), sealed("x", 300<<10))
	idle.send("NOOP\x00")
	half.send("NOOP\x00KEYREQUEST\x00ali")
	busy.send("NOOP\x00MAIL\x00", msg[:1000])
	for _, c := range []*peer{idle, half, busy} {
		c.expect(version + "\x00") // it goes out when the session waits, or reads the message
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- s.front.Shutdown(ctx) }()
	idle.expectEnd()
	half.expectEnd()
	select {
	case err := <-done:
		t.Fatalf("the server has stopped with a message under way: %v", err)
	default:
	}
	busy.send(msg[1000:])
	busy.expect(success(t))
	busy.expectEnd()
	if err := <-done; err != nil {
		t.Errorf("Shutdown: %v", err)
	}
	if got := s.mailbox("alice@cref.example"); !slices.Equal(got, []string{msg}) {
		t.Errorf("the mailbox has %d messages", len(got))
	}
}

// Whatever call to the disk fails, in whatever way, the client is told SUCCESS
// only of what a crash leaves there, and the session stays in step.
func TestServer_Mail_Faults(t *testing.T) {
	for name, size := range map[string]int{"small": 100, "large": 300 << 10} {
		calls := mailWithFault(t, size, 0, durabletest.None)
		for n := 1; n <= calls; n++ {
			for _, fault := range []durabletest.Fault{durabletest.Before, durabletest.After, durabletest.Short} {
				t.Run(fmt.Sprintf("%s/call %d/fault %d", name, n, fault), func(t *testing.T) {
					mailWithFault(t, size, n, fault)
				})
			}
		}
	}
}

// mailWithFault sends a message twice while the nth call from there on fails, and
// returns how many there were.
func mailWithFault(t *testing.T, size, n int, fault durabletest.Fault) (calls int) {
	t.Helper()
	fsys := durabletest.New()
	s := serve(t, setup{fs: fsys})
	alice, err := s.accounts.Get(mustAddress("alice@cref.example"))
	if err != nil {
		t.Fatal(err)
	}
	first := fsys.Calls()
	fsys.Inject(func(c durabletest.Call) durabletest.Fault {
		if c.N == first+n {
			return fault
		}
		return durabletest.None
	})
	msg := message(t, to("alice@cref.example"), sealed("x", size))
	acknowledged := false
	for range 2 {
		c := s.dial(true)
		c.send("MAIL\x00"+msg, "NOOP\x00")
		reply := failure(t)
		if o := s.tally.fate(t); o == session.Stored || o == session.Duplicate {
			reply, acknowledged = success(t), true
		}
		c.expect(reply + version + "\x00")
	}
	calls = fsys.Calls() - first
	s.stop()
	if got := stored(t, fsys.Crash(nil), alice.ID); acknowledged && !slices.Equal(got, []string{msg}) ||
		len(got) > 0 && !slices.Equal(got, []string{msg}) {
		t.Errorf("acknowledged: %v, after the crash there are %d messages", acknowledged, len(got))
	}
	if n == 0 && !acknowledged {
		t.Error("nothing failed, and the message was not taken")
	}
	return calls
}

// stored returns a mailbox as the next start finds it.
func stored(t *testing.T, fsys *durabletest.FS, id account.ID) []string {
	t.Helper()
	s := &server{tb: t, spool: openSpool(t, "/spool", fsys, vectorKey(t, "server"))}
	defer s.spool.Close()
	return s.messages(spool.MailboxID(id))
}

// A client that is idle when the server stops was not slow: the log says so, as what counts does.
func TestServer_Stopped(t *testing.T) {
	s := serve(t, setup{})
	c := s.dial(true)
	c.send("NOOP\x00")
	c.expect(version + "\x00")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := s.front.Shutdown(ctx); err != nil {
		t.Fatal(err)
	}
	if log := s.log.String(); !strings.Contains(log, `"msg":"session ended"`) || !strings.Contains(log, `"why":"stopped"`) {
		t.Errorf("the log has\n%s", log)
	}
}
