package channel_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"cmtpd/internal/channel"
	"cmtpd/internal/cmtptest"
)

// A meddler is somebody in the middle of what is written to a connection.
type meddler struct {
	net.Conn
	sent   int
	meddle func(m *meddler, p []byte) (int, error) // nil passes p on
}

func (m *meddler) Write(p []byte) (int, error) {
	defer func() { m.sent += len(p) }()
	if m.meddle == nil {
		return m.Conn.Write(p)
	}
	return m.meddle(m, p)
}

// CloseWrite half-closes where that can be done.
func (m *meddler) CloseWrite() error {
	if h, ok := m.Conn.(interface{ CloseWrite() error }); ok {
		return h.CloseWrite()
	}
	return nil
}

// flip inverts the lowest bit of byte number at.
func flip(at int) func(*meddler, []byte) (int, error) {
	return func(m *meddler, p []byte) (int, error) {
		if at < m.sent || at >= m.sent+len(p) {
			return m.Conn.Write(p)
		}
		altered := append([]byte(nil), p...)
		altered[at-m.sent] ^= 1
		return m.Conn.Write(altered)
	}
}

// cut ends the stream after n bytes.
func cut(n int) func(*meddler, []byte) (int, error) {
	return func(m *meddler, p []byte) (int, error) {
		if m.sent+len(p) <= n {
			return m.Conn.Write(p)
		}
		if n > m.sent {
			m.Conn.Write(p[:n-m.sent])
		}
		if _, ok := m.Conn.(*net.TCPConn); ok {
			return len(p), m.CloseWrite()
		}
		return len(p), m.Conn.Close()
	}
}

// stall passes n bytes on and swallows the others.
func stall(n int) func(*meddler, []byte) (int, error) {
	return func(m *meddler, p []byte) (int, error) {
		if pass := min(max(n-m.sent, 0), len(p)); pass > 0 {
			m.Conn.Write(p[:pass])
		}
		return len(p), nil
	}
}

// handshake runs one over a pipe, with what the client and the server write
// meddled with.
func handshake(s *channel.Server, fromClient, fromServer *meddler) (server, client result) {
	ours, theirs := net.Pipe()
	fromServer.Conn, fromClient.Conn = ours, theirs
	done := make(chan result, 1)
	go func() {
		c, err := s.Handshake(context.Background(), fromServer, 0)
		if err != nil {
			ours.Close()
		}
		done <- result{c, err}
	}()
	client.c, client.err = channel.Client(context.Background(), fromClient, 0, 0)
	if client.err != nil {
		theirs.Close()
	}
	server = <-done
	ours.Close()
	theirs.Close()
	return server, client
}

// TestHandshake_Meddled cuts, holds up and alters a handshake at every byte of
// either direction. It never panics, it never takes longer than it may, and where
// it succeeds, both sides have the right key and the same binding.
func TestHandshake_Meddled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newServer(t, 0)
		var c2s, s2c meddler
		if server, client := handshake(s, &c2s, &s2c); server.err != nil || client.err != nil {
			t.Fatal(server.err, client.err)
		}
		step := 1
		if raceEnabled {
			step = 7
		}
		for name, how := range map[string]func(int) func(*meddler, []byte) (int, error){"flip": flip, "cut": cut, "stall": stall} {
			for side, total := range []int{c2s.sent, s2c.sent} {
				passed := 0
				for at := 0; at < total; at += step {
					var m [2]meddler
					m[side].meddle = how(at)
					if meddled(t, s, &m[0], &m[1], fmt.Sprintf("%s at byte %d of %d, direction %d", name, at, total, side)) {
						passed++
					}
				}
				t.Logf("%s, direction %d: %d of %d handshakes succeeded", name, side, passed, (total+step-1)/step)
				if name != "flip" && passed > 0 {
					t.Errorf("%s: a handshake without its end succeeded on both sides", name)
				}
			}
		}
	})
}

func meddled(t *testing.T, s *channel.Server, c2s, s2c *meddler, what string) bool {
	start := time.Now()
	server, client := handshake(s, c2s, s2c)
	if took := time.Since(start); took > channel.DefaultTimeout {
		t.Errorf("%s: took %v", what, took)
	}
	for _, r := range []result{server, client} {
		if r.err != nil && !errors.Is(r.err, channel.ErrHandshake) {
			t.Errorf("%s: %v", what, r.err)
		}
	}
	if client.err == nil && client.c.ServerKey() != testKey(t, 1).Public() {
		t.Errorf("%s: succeeded with another key", what)
	}
	if s.Computing() != 0 {
		t.Fatalf("%s: a slot was not given back", what)
	}
	if client.err != nil || server.err != nil {
		return false
	}
	if client.c.Binding() != server.c.Binding() {
		t.Errorf("%s: succeeded with different bindings", what)
	}
	return true
}

// TestHandshake_Injected: what was sent before the handshake never counts inside,
// whether it is noticed before or in it.
func TestHandshake_Injected(t *testing.T) {
	s, outcomes := newServer(t, 0)
	ours, theirs := tcp(t)
	if _, err := s.Handshake(context.Background(), ours, 1); !errors.Is(err, channel.ErrInjected) || errors.Is(err, channel.ErrHandshake) {
		t.Errorf("server: %v", err)
	}
	if _, err := channel.Client(context.Background(), theirs, 1, 0); !errors.Is(err, channel.ErrInjected) {
		t.Errorf("client: %v", err)
	}
	if outcomes.n[channel.Injected] != 1 {
		t.Errorf("counted %v", outcomes.n)
	}
	for _, text := range []string{"OBAI\x00", "KEYREQUEST\x00alice\x00example.org\x00", "\x00\x00\x00\x00\x00"} {
		ours, theirs := tcp(t)
		theirs.Write([]byte(text)) // behind STARTTLS
		go channel.Client(context.Background(), theirs, 0, 0)
		if _, err := s.Handshake(context.Background(), ours, 0); !errors.Is(err, channel.ErrNotTLS) || !errors.Is(err, channel.ErrHandshake) {
			t.Errorf("server, behind STARTTLS: %v", err)
		}
		ours, theirs = tcp(t)
		ours.Write([]byte(text)) // behind the reply
		serve(s, ours)
		if _, err := channel.Client(context.Background(), theirs, 0, 0); !errors.Is(err, channel.ErrNotTLS) || !errors.Is(err, channel.ErrHandshake) {
			t.Errorf("client, behind the reply: %v", err)
		}
	}
	if outcomes.n[channel.NotTLS] != 3 {
		t.Errorf("counted %v", outcomes.n)
	}
}

// TestConn_Read_Altered: a byte that is altered, added or repeated inside ends the
// channel, and nothing of it is read.
func TestConn_Read_Altered(t *testing.T) {
	s, _ := newServer(t, 0)
	for name, meddle := range map[string]func(*meddler, []byte) (int, error){
		"altered": func(m *meddler, p []byte) (int, error) {
			p = append([]byte(nil), p...)
			p[9] ^= 1
			return m.Conn.Write(p)
		},
		"repeated": func(m *meddler, p []byte) (int, error) { m.Conn.Write(p); return m.Conn.Write(p) },
		"injected": func(m *meddler, p []byte) (int, error) { m.Conn.Write([]byte("OBAI\x00")); return m.Conn.Write(p) },
		"dropped": func(m *meddler, p []byte) (int, error) {
			m.meddle = nil
			return len(p), nil
		},
	} {
		ours, theirs := tcp(t)
		relay := &meddler{Conn: theirs}
		server, client := openOn(t, s, ours, relay)
		relay.meddle = meddle
		client.Write([]byte("NOOP\x00"))
		client.Write([]byte("HELP\x00"))
		got, err := io.ReadAll(server)
		want := ""
		if name == "repeated" {
			want = "NOOP\x00"
		}
		if string(got) != want || !errors.Is(err, channel.ErrAltered) || errors.Is(err, channel.ErrTruncated) {
			t.Errorf("%s: read %q, %v", name, got, err)
		}
		if _, err := client.Read(make([]byte, 1)); !errors.Is(err, channel.ErrAltered) {
			t.Errorf("%s: the client is told %v", name, err)
		}
	}
}

// TestServer_Handshake_LargeHello: a ClientHello costs memory in proportion to its
// length, which crypto/tls bounds at 64 KiB and its header, however many records
// it is sent in.
func TestServer_Handshake_LargeHello(t *testing.T) {
	const most = 4 + 1<<16
	for _, size := range []int{most, most + 1} {
		for _, piece := range []int{1 << 14, 1} {
			t.Run(fmt.Sprintf("%d bytes in pieces of %d", size, piece), func(t *testing.T) {
				s, outcomes := newServer(t, 0)
				stream := records(hello(size), piece)
				ours, theirs := tcp(t)
				go func() {
					theirs.Write(stream)
					theirs.(*net.TCPConn).CloseWrite()
				}()
				start := time.Now()
				var err error
				cmtptest.Bounded(t, 4<<20, func() { _, err = s.Handshake(context.Background(), ours, 0) })
				t.Logf("%v, %v", time.Since(start), err)
				if !errors.Is(err, channel.ErrHandshake) || s.Computing() != 0 {
					t.Errorf("ended with %v", err)
				}
				if taken := outcomes.n[channel.Unsuitable] == 1; taken != (size == most) {
					t.Errorf("counted %v", outcomes.n)
				}
			})
		}
	}
}

// hello returns a ClientHello of a length, whose ALPN list has as many names as
// fit, and not ours.
func hello(size int) []byte {
	u16 := func(n int) []byte { return []byte{byte(n >> 8), byte(n)} }
	fixed := append([]byte{3, 3}, make([]byte, 32+1)...) // version, random, no session ID
	fixed = append(fixed, 0, 2, 0x13, 0x01, 1, 0)        // one cipher suite, no compression
	versions := []byte{0, 43, 0, 3, 2, byte(tls.VersionTLS13 >> 8), byte(tls.VersionTLS13 & 0xff)}
	names := size - len(fixed) - 2 - len(versions) - 4 - 2 - 4 // less every header
	list := make([]byte, 0, names)
	for len(list)+2 <= names {
		list = append(list, 1, 'x')
	}
	if len(list) < names { // the last name is a byte longer
		list = append(list[:len(list)-2], 2, 'x', 'x')
	}
	ext := append(versions, 0, 16)
	ext = append(append(append(ext, u16(len(list)+2)...), u16(len(list))...), list...)
	body := append(append(fixed, u16(len(ext))...), ext...)
	return append([]byte{1, byte(len(body) >> 16), byte(len(body) >> 8), byte(len(body))}, body...)
}

// records splits a handshake's message into records of at most piece bytes.
func records(message []byte, piece int) (stream []byte) {
	for len(message) > 0 {
		n := min(piece, len(message))
		stream = append(stream, 22, 3, 1, byte(n>>8), byte(n))
		stream = append(stream, message[:n]...)
		message = message[n:]
	}
	return stream
}
