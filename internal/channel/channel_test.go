package channel_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"cmtpd/internal/channel"
	"cmtpd/internal/crypt"
	"cmtpd/internal/netbuf"
)

// testKey returns the key whose seed counts up from first.
func testKey(t testing.TB, first byte) *crypt.PrivateKey {
	t.Helper()
	seed := make([]byte, crypt.SeedSize)
	for i := range seed {
		seed[i] = first + byte(i)
	}
	k, err := crypt.PrivateKeyFromSeed(seed)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// A tally counts outcomes.
type tally struct {
	mu sync.Mutex
	n  map[channel.Outcome]int
}

func (c *tally) Handshake(o channel.Outcome, took time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n == nil {
		c.n = make(map[channel.Outcome]int)
	}
	c.n[o]++
}

// newServer returns a server whose key is testKey(t, 1), and what counts its outcomes.
func newServer(t testing.TB, slots int) (*channel.Server, *tally) {
	t.Helper()
	var c tally
	s, err := channel.NewServer(channel.Config{Key: testKey(t, 1), MaxHandshakes: slots, Observer: &c})
	if err != nil {
		t.Fatal(err)
	}
	return s, &c
}

// tcp returns the two ends of a connection over loopback.
func tcp(t testing.TB) (ours, theirs net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if theirs, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if ours, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ours.Close(); theirs.Close() })
	return ours, theirs
}

type result struct {
	c   *channel.Conn
	err error
}

// serve performs the server's handshake in the background.
func serve(s *channel.Server, c net.Conn) <-chan result {
	done := make(chan result, 1)
	go func() {
		tc, err := s.Handshake(context.Background(), c, 0)
		done <- result{tc, err}
	}()
	return done
}

// open returns both ends of a channel over TCP.
func open(t testing.TB, s *channel.Server) (server, client *channel.Conn) {
	t.Helper()
	ours, theirs := tcp(t)
	return openOn(t, s, ours, theirs)
}

func openOn(t testing.TB, s *channel.Server, ours, theirs net.Conn) (server, client *channel.Conn) {
	t.Helper()
	done := serve(s, ours)
	client, err := channel.Client(context.Background(), theirs, 0, 0)
	r := <-done
	if err != nil || r.err != nil {
		t.Fatalf("client: %v; server: %v", err, r.err)
	}
	return r.c, client
}

func TestServer_Handshake(t *testing.T) {
	s, outcomes := newServer(t, 0)
	server, client := open(t, s)
	if want := testKey(t, 1).Public(); client.ServerKey() != want || server.ServerKey() != want {
		t.Errorf("the keys are %v and %v", client.ServerKey(), server.ServerKey())
	}
	if server.Binding() != client.Binding() || server.Binding() == [32]byte{} {
		t.Error("the sides are bound to different values, or none")
	}
	for _, c := range []*channel.Conn{server, client} {
		st := c.State()
		if st.Version != tls.VersionTLS13 || st.CurveID != tls.X25519MLKEM768 || st.NegotiatedProtocol != "cmtp/1" || st.DidResume || st.ServerName != "" {
			t.Errorf("version %x, group %v, ALPN %q, resumed %v, name %q", st.Version, st.CurveID, st.NegotiatedProtocol, st.DidResume, st.ServerName)
		}
	}
	otherServer, otherClient := open(t, s)
	if otherServer.Binding() != otherClient.Binding() || otherServer.Binding() == server.Binding() {
		t.Error("another connection has the same binding, or its sides different ones")
	}
	if n := outcomes.n[channel.Done]; n != 2 || len(outcomes.n) != 1 {
		t.Errorf("counted %v", outcomes.n)
	}
	if s.Computing() != 0 {
		t.Error("a slot was not given back")
	}
}

// TestHandshake_Deadlines: a handshake ends when its context's time is over, if
// that is earlier than its own, and leaves no deadline behind.
func TestHandshake_Deadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, outcomes := newServer(t, 0)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		for side, start := range map[string]func(net.Conn) error{
			"server": func(c net.Conn) error { _, err := s.Handshake(ctx, c, 0); return err },
			"client": func(c net.Conn) error { _, err := channel.Client(t.Context(), c, 0, time.Second); return err },
		} {
			began := time.Now()
			ours, theirs := net.Pipe()
			if err := start(ours); err == nil {
				t.Errorf("%s: succeeded with nobody", side)
			}
			if took := time.Since(began); took > time.Second {
				t.Errorf("%s: took %v", side, took)
			}
			ours.Close()
			theirs.Close()
		}
		if outcomes.n[channel.TimedOut] != 1 {
			t.Errorf("counted %v", outcomes.n)
		}
		ours, theirs := net.Pipe()
		server, client := openOn(t, s, ours, theirs)
		time.Sleep(2 * channel.DefaultTimeout)
		go client.Write([]byte("late"))
		got := make([]byte, 4)
		if _, err := io.ReadFull(server, got); err != nil {
			t.Error(err)
		}
		go server.Write([]byte("late"))
		if _, err := io.ReadFull(client, got); err != nil {
			t.Error(err)
		}
		ours.Close()
		theirs.Close()
	})
}

// TestConn_Binding_Exporter: the binding is TLS' own exporter, so that a client in
// any language finds it.
func TestConn_Binding_Exporter(t *testing.T) {
	s, _ := newServer(t, 0)
	_, client := open(t, s)
	st := client.State()
	want, err := st.ExportKeyingMaterial("EXPORTER-CMTP-1-AUTH", nil, 32)
	if err != nil || client.Binding() != [32]byte(want) {
		t.Errorf("the binding is not the exporter's value: %v", err)
	}
}

// TestConn_Idle: deadlines and Stop on the connection below reach a read inside,
// after which the channel still works.
func TestConn_Idle(t *testing.T) {
	s, _ := newServer(t, 0)
	ours, theirs := tcp(t)
	server, client := openOn(t, s, ours, theirs)
	below := &netbuf.Conn{Conn: ours, In: netbuf.NewReader(ours)}
	in := netbuf.NewReader(server)
	failed := make(chan error, 1)
	below.SetIdle(true)
	go func() { failed <- in.Fill() }()
	below.Stop()
	if err := <-failed; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("a stopped read: %v", err)
	}
	below.SetIdle(false)
	ours.SetReadDeadline(time.Now().Add(10 * time.Second))
	go client.Write([]byte("NOOP\x00"))
	got := make([]byte, 5)
	if _, err := io.ReadFull(in, got); err != nil || string(got) != "NOOP\x00" {
		t.Fatalf("after it: %q, %v", got, err)
	}
}

// TestConn_Farewell: last words and a proper end arrive though the peer goes on
// sending, for either side as the one that ends.
func TestConn_Farewell(t *testing.T) {
	s, _ := newServer(t, 0)
	for _, side := range []string{"server", "client"} {
		t.Run(side, func(t *testing.T) {
			ours, theirs := tcp(t)
			ends, other := openOn(t, s, ours, theirs)
			below := theirs // of the other side
			if side == "client" {
				ends, other, below = other, ends, ours
			}
			other.Write(bytes.Repeat([]byte("x"), 50_000))
			done := make(chan struct{})
			go func() {
				c := &netbuf.Conn{Conn: ends, In: netbuf.NewReader(ends)}
				c.Farewell([]byte("the last words"))
				c.Close()
				close(done)
			}()
			got, err := io.ReadAll(other) // io.EOF alone is the end of ReadAll
			if err != nil || string(got) != "the last words" {
				t.Fatalf("arrived %q, %v", got, err)
			}
			if n, err := below.Read(make([]byte, 1)); n != 0 || err != io.EOF {
				t.Errorf("behind the end there are %d bytes, %v", n, err)
			}
			if _, err := other.Write(make([]byte, 500_000)); err != nil {
				t.Errorf("a peer that is still sending meets %v", err)
			}
			other.Close()
			<-done
		})
	}
}

// TestConn_Read_Truncated: what ends without a word is no end, between two records
// or within one.
func TestConn_Read_Truncated(t *testing.T) {
	s, _ := newServer(t, 0)
	for _, side := range []string{"server", "client"} {
		for _, rest := range []int{0, 1, 5, 30} {
			ours, theirs := tcp(t)
			var relay meddler
			var reads, writes *channel.Conn
			if side == "server" {
				relay.Conn = theirs
				reads, writes = openOn(t, s, ours, &relay)
			} else {
				relay.Conn = ours
				writes, reads = openOn(t, s, &relay, theirs)
			}
			relay.meddle = cut(relay.sent + 5 + 5 + 17 + rest) // behind the first record
			writes.Write([]byte("whole"))
			writes.Write(make([]byte, 100))
			got, err := io.ReadAll(reads)
			if string(got) != "whole" || !errors.Is(err, channel.ErrTruncated) || !errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
				t.Errorf("%s, %d bytes of a second record: read %q, %v", side, rest, got, err)
			}
		}
	}
}

func TestConn_Close(t *testing.T) {
	s, _ := newServer(t, 0)
	server, client := open(t, s)
	client.Close()
	if _, err := server.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the client closed: %v", err)
	}
	server, client = open(t, s)
	server.Close()
	if _, err := client.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the server closed: %v", err)
	}
}

func TestNewServer_Limits(t *testing.T) {
	for _, cfg := range []channel.Config{{Timeout: -1}, {MaxHandshakes: -1}} {
		cfg.Key = testKey(t, 1)
		if _, err := channel.NewServer(cfg); err == nil {
			t.Errorf("%+v was taken", cfg)
		}
	}
}
