package session_test

import (
	"errors"
	"io"
	"net/netip"
	"testing"
	"time"

	"cmtpd/internal/cmtp"
	"cmtpd/internal/mailbox"
	"cmtpd/internal/session"
)

// saw waits until the observer was told of each of some ends, and of these refusals.
func (t *tally) saw(tb testing.TB, ends map[session.End]int, refused ...refusal) {
	tb.Helper()
	deadline := time.Now().Add(patience)
	for {
		t.mu.Lock()
		missing := ""
		for end, n := range ends {
			if t.ends[end] != n {
				missing = string(end)
			}
		}
		for _, r := range refused {
			if t.refused[r] == 0 {
				missing = r.status.String() + " " + string(r.limit)
			}
		}
		t.mu.Unlock()
		if missing == "" {
			return
		}
		if time.Now().After(deadline) {
			tb.Fatalf("no %s among %v, %v", missing, t.ends, t.refused)
		}
		time.Sleep(time.Millisecond)
	}
}

// Every session is counted by how it ended, and what was refused by why, with the limit that it met.
func TestServer_Observer(t *testing.T) {
	allowed := 1
	s := serve(t, setup{edit: func(cfg *session.Config) {
		cfg.AllowLogin = func(netip.Addr) bool { allowed--; return allowed >= 0 }
		cfg.MaxMessage = 1000
		cfg.Store = crammed{cfg.Store}
	}})
	c := s.dial(true)
	c.send(login("alice@cref.example"), login("alice@cref.example"), "OBAI\x00")
	io.Copy(io.Discard, c)
	c = s.dial(true)
	c.send("NOOP\x00")
	c.Close()
	c = s.dial(true)
	c.send("MAIL\x00"+message(t, to("alice@cref.example"), sealed("x", 5000)), "")
	io.Copy(io.Discard, c)
	c = s.dial(true)
	c.send("MAIL\x00" + message(t, to("alice@cref.example"), sealed("x", 100)) + "KEYREQUEST\x00nobody\x00\x00OBAI\x00")
	io.Copy(io.Discard, c)
	s.tally.saw(t, map[session.End]int{session.Done: 2, session.Left: 1, session.OutOfStep: 1},
		refusal{cmtp.StatusTooOften, session.LoginRate}, refusal{cmtp.StatusTooLarge, session.MaxMessage},
		refusal{cmtp.StatusNoRoom, session.MinFreeSpace}, refusal{cmtp.StatusNoAccount, session.NoLimit})
}

// A crammed store has no room.
type crammed struct{ session.Store }

func (crammed) NewWriter() (session.Writer, error) {
	return nil, errors.Join(mailbox.ErrNoRoom, errors.New("test"))
}
