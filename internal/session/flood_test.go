package session_test

import (
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"cmtpd/internal/cmtp"
	"cmtpd/internal/limit"
	"cmtpd/internal/session"
)

// inUse returns the memory that this process uses, the test's clients included.
func inUse() int64 {
	debug.FreeOSMemory()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}

// settled is inUse once the server has read what was sent to it. It gives no signal of
// that, so this is the most of a while.
func settled() int64 {
	most := inUse()
	for range 20 {
		time.Sleep(5 * time.Millisecond)
		most = max(most, inUse())
	}
	return most
}

// works fails the test unless somebody else's session is served.
func (s *server) works(t *testing.T) {
	t.Helper()
	began := time.Now()
	c := s.inside()
	c.auth("alice@cref.example", vectorKey(t, "alice"))
	c.want(cmtp.StatusDone, key("bob", ""))
	c.want(cmtp.StatusDone, "MAIL\x00"+message(t, to("bob@cref.example"), sealed("x", 5000)))
	c.end()
	t.Logf("somebody else is served in %v", time.Since(began).Round(time.Millisecond))
}

// Clients that begin a handshake, a command or a message and then say nothing cost little,
// and keep nobody out.
func TestFlood_HalfDone(t *testing.T) {
	hello := "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" // of 512 bytes
	for name, tt := range map[string]struct {
		sent string
		n    int
		most int64 // bytes for each, at both ends
	}{
		"STARTTLS":          {"STARTTLS\x00", 300, 32 << 10},
		"half a command":    {"NOOP\x00KEYREQUEST\x00" + strings.Repeat("a", 200), 300, 32 << 10},
		"half a message":    {"MAIL\x00" + message(t, to("bob@cref.example"), sealed("x", 1<<19))[:3000], 300, 96 << 10},
		"half a handshake":  {"", 1000, 48 << 10},
		"a form in the air": {"UPLOAD\x00\x00\x02\x10\x00", 300, 32 << 10},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, setup{})
			s.works(t)
			before := settled()
			peers := make([]*peer, tt.n)
			for i := range peers {
				peers[i] = s.dial(true)
				if name == "half a handshake" {
					peers[i].send("STARTTLS\x00")
					peers[i].expect(success(t))
					peers[i].send(hello)
					continue
				}
				peers[i].send(tt.sent)
				if strings.HasPrefix(tt.sent, "NOOP") {
					peers[i].expect(version + "\x00")
				}
			}
			used := (settled() - before) / int64(tt.n)
			t.Logf("%d bytes for each", used)
			if used > tt.most {
				t.Errorf("%d bytes for each of %d, want at most %d", used, tt.n, tt.most)
			}
			s.works(t)
			for _, p := range peers {
				p.Close()
			}
		})
	}
}

// A form that is announced by who may send one costs what has come of it.
func TestFlood_Forms(t *testing.T) {
	const n = 150
	s := serve(t, setup{})
	clients := make([]*insider, n)
	for i := range clients {
		clients[i] = s.inside()
		clients[i].auth("alice@cref.example", vectorKey(t, "alice"))
	}
	before := settled()
	for _, c := range clients {
		c.send("UPLOAD\x00" + form(make([]byte, cmtp.MaxForm))[:1000])
	}
	used := (settled() - before) / n
	t.Logf("%d bytes for each", used)
	if used > 24<<10 {
		t.Errorf("%d bytes for each form of which 1000 have come", used)
	}
	s.works(t)
	for _, c := range clients {
		c.Conn.Conn.SetDeadline(time.Now())
		c.below.Close()
	}
}

// One network may begin so many handshakes, and no other is kept out by that.
func TestFlood_Handshakes(t *testing.T) {
	frozen := time.Now()
	s := serve(t, setup{front: loopback, edit: func(cfg *session.Config) {
		cfg.AllowTLS = limit.NewRate(120, 240, func() time.Time { return frozen }).Allow
	}})
	taken := 0
	for range 300 {
		c := s.dialFrom("198.51.100.1")
		c.send("STARTTLS\x00")
		word := make([]byte, wordReply)
		if _, err := c.Read(word[:1]); err != nil {
			t.Fatal(err)
		}
		if word[0] == 'S' {
			taken++
		}
		c.Close()
	}
	if taken != 240 {
		t.Errorf("%d handshakes were begun, want 240", taken)
	}
	s.insideFrom("192.0.2.1").end()
}
