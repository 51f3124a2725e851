package session_test

import (
	"testing"
	"time"

	"cmtpd/internal/cmtp"
	"cmtpd/internal/session"
)

// posts starts a server whose accounts may send so much; later lets time go by. A letter is of 1 KiB for each n.
func posts(t *testing.T, l session.SendingLimits) (s *server, letter func(from, to string, n int) string, later func(time.Duration)) {
	now, count := time.Unix(1_800_000_000, 0), byte(0)
	sending := session.NewSending(l, func() time.Time { return now })
	s = serve(t, setup{edit: func(cfg *session.Config) { cfg.Elsewhere, cfg.Sending = wide{}, sending }})
	letter = func(from, dest string, n int) string {
		h := to(dest)
		h.SourceAccount, h.SourceDomain = from, "cref.example"
		body := make([]byte, n<<10)
		count++
		body[0] = count // each is another one
		return "MAIL\x00" + message(t, h, string(body[:n<<10-len(message(t, h, string(body)))+n<<10]))
	}
	return s, letter, func(d time.Duration) { now = now.Add(d) }
}

// An account sends so many messages, on whatever connection, to itself and to others.
func TestServer_Sending_Rate(t *testing.T) {
	s, letter, later := posts(t, session.SendingLimits{Messages: 6, Burst: 3, Day: 1 << 30})
	alice := s.user("alice")
	alice.want(cmtp.StatusDone, letter("alice", "alice@cref.example", 1))
	alice.want(cmtp.StatusDone, letter("alice", "bob@cref.example", 1))
	alice.want(cmtp.StatusQueued, letter("alice", "eve@b.known", 1))
	for range 3 {
		alice.tooOften(letter("alice", "alice@cref.example", 1), "10s")
	}
	s.user("alice").tooOften(letter("alice", "eve@b.known", 1), "10s")
	s.user("bob").want(cmtp.StatusDone, letter("bob", "alice@cref.example", 1))
	s.inside().want(cmtp.StatusDone, "MAIL\x00"+message(t, to("alice@cref.example"), sealed("from elsewhere", 100)))
	s.tally.saw(t, nil, refusal{cmtp.StatusTooOften, session.MailRate})
	later(10*time.Second - 1)
	alice.tooOften(letter("alice", "alice@cref.example", 1), "1s")
	later(1)
	alice.want(cmtp.StatusDone, letter("alice", "alice@cref.example", 1))
	alice.tooOften(letter("alice", "alice@cref.example", 1), "10s")
	if n := len(s.mailbox("alice@cref.example")); n != 4 {
		t.Errorf("%d messages were kept, want 4", n)
	}
}

// An account sends so many bytes in a day, which come back evenly. A message that is too much is not counted in part, nor
// as a message.
func TestServer_Sending_Day(t *testing.T) {
	s, letter, later := posts(t, session.SendingLimits{Messages: 1, Burst: 4, Day: 24 << 10})
	alice := s.user("alice")
	alice.want(cmtp.StatusDone, letter("alice", "alice@cref.example", 20))
	for range 5 {
		alice.tooOften(letter("alice", "alice@cref.example", 5), "1h0m0s")
	}
	alice.want(cmtp.StatusDone, letter("alice", "alice@cref.example", 4))
	alice.tooOften(letter("alice", "alice@cref.example", 1), "1h0m0s")
	s.user("bob").want(cmtp.StatusDone, letter("bob", "alice@cref.example", 24))
	s.tally.saw(t, nil, refusal{cmtp.StatusTooOften, session.MailPerDay})
	later(time.Hour)
	alice.want(cmtp.StatusDone, letter("alice", "alice@cref.example", 1))
	later(24 * time.Hour)
	alice.want(cmtp.StatusDone, letter("alice", "alice@cref.example", 24))
	alice.tooOften(letter("alice", "alice@cref.example", 1), "1h0m0s")
	later(24 * time.Hour)
	alice.want(cmtp.StatusDone, letter("alice", "alice@cref.example", 25)) // more than a day's
	alice.tooOften(letter("alice", "alice@cref.example", 1), "1h0m0s")
}
