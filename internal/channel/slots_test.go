package channel_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"cmtpd/internal/channel"
)

// A gate is a key at whose signatures handshakes are counted, and can be held up:
// in the middle of what they compute.
type gate struct {
	crypto.Signer
	begun atomic.Int32  // signatures so far
	pass  chan struct{} // nil: holds nobody up
}

func (g *gate) Sign(r io.Reader, msg []byte, opts crypto.SignerOpts) ([]byte, error) {
	g.begun.Add(1)
	if g.pass != nil {
		<-g.pass
	}
	return g.Signer.Sign(r, msg, opts)
}

// gated returns a server of one slot with a gate.
func gated(t *testing.T) (*channel.Server, *tally, *gate) {
	s, outcomes := newServer(t, 1)
	g := &gate{pass: make(chan struct{})}
	s.LendKey(func(k crypto.Signer) crypto.Signer { g.Signer = k; return g })
	return s, outcomes, g
}

// pipe begins the server's handshake at the other end of what it returns.
func pipe(s *channel.Server) (client net.Conn, server <-chan error) {
	ours, theirs := net.Pipe()
	done := make(chan error, 1)
	go func() {
		_, err := s.Handshake(context.Background(), ours, 0)
		if err != nil {
			ours.Close()
		}
		done <- err
	}()
	return theirs, done
}

// connect begins both sides' handshakes; what the client writes goes through m.
func connect(s *channel.Server, m *meddler, cfg *tls.Config) (server, client <-chan error) {
	conn, server := pipe(s)
	m.Conn = conn
	done := make(chan error, 1)
	go func() { done <- tls.Client(m, cfg).Handshake() }()
	return server, done
}

// retried makes a client that is answered by a HelloRetryRequest.
func retried(c *tls.Config) { c.CurvePreferences = []tls.CurveID{tls.SecP256r1MLKEM768, tls.X25519} }

// hellos returns the ClientHellos of a client, as records. It needs TCP: after a
// HelloRetryRequest both sides write at once.
func hellos(t *testing.T, change func(*tls.Config)) (all [][]byte) {
	t.Helper()
	s, _ := newServer(t, 1)
	ours, theirs := tcp(t)
	server := serve(s, ours)
	err := tls.Client(&meddler{Conn: theirs, meddle: func(m *meddler, p []byte) (int, error) {
		if p[0] == 22 {
			all = append(all, bytes.Clone(p))
		}
		return m.Conn.Write(p)
	}}, plainClient(change)).Handshake()
	if r := <-server; err != nil || r.err != nil {
		t.Fatal(err, r.err)
	}
	return all
}

// TestServer_Handshake_Slots: while one handshake computes, another waits for its
// turn, for as long as a handshake may take and no longer.
func TestServer_Handshake_Slots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, outcomes, g := gated(t)
		first, firstClient := connect(s, &meddler{}, plainClient(nil))
		synctest.Wait()
		second, secondClient := connect(s, &meddler{}, plainClient(nil))
		synctest.Wait()
		if g.begun.Load() != 1 || s.Computing() != 1 {
			t.Fatalf("%d handshakes compute, %d slots are taken", g.begun.Load(), s.Computing())
		}
		g.pass <- struct{}{}
		g.pass <- struct{}{}
		if err := errors.Join(<-first, <-firstClient, <-second, <-secondClient); err != nil {
			t.Error(err)
		}

		holds, _ := connect(s, &meddler{}, plainClient(nil))
		synctest.Wait()
		began := time.Now()
		waits, _ := connect(s, &meddler{}, plainClient(nil))
		if err := <-waits; !errors.Is(err, channel.ErrBusy) || !errors.Is(err, channel.ErrHandshake) {
			t.Errorf("waiting ended with %v", err)
		}
		if took := time.Since(began); took != channel.DefaultTimeout {
			t.Errorf("waiting ended after %v", took)
		}
		close(g.pass)
		<-holds
		if s.Computing() != 0 || outcomes.n[channel.Busy] != 1 {
			t.Errorf("%d slots are taken, counted %v", s.Computing(), outcomes.n)
		}
	})
}

// TestServer_Handshake_Retried: the second ClientHello, after a HelloRetryRequest,
// waits for its turn too, whether it comes late or came along with the first.
func TestServer_Handshake_Retried(t *testing.T) {
	both := hellos(t, retried)
	if len(both) != 2 {
		t.Fatalf("%d hellos", len(both))
	}
	for _, early := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			s, _, g := gated(t)
			retry, retryServer := pipe(s)
			if early {
				go retry.Write(slices.Concat(both...))
			} else {
				go retry.Write(both[0])
				go io.Copy(io.Discard, retry)
			}
			synctest.Wait() // the server writes its HelloRetryRequest, or has written it
			if s.Computing() != 0 {
				t.Error("a slot is taken while a client is slow to read")
			}
			other, otherClient := connect(s, &meddler{}, plainClient(nil))
			synctest.Wait()
			if early {
				go io.Copy(io.Discard, retry)
			} else {
				go retry.Write(both[1])
			}
			synctest.Wait()
			if n := g.begun.Load(); n != 1 {
				t.Errorf("early %v: %d handshakes compute", early, n)
			}
			close(g.pass)
			if err := errors.Join(<-other, <-otherClient); err != nil {
				t.Error(err)
			}
			synctest.Wait()
			if n := g.begun.Load(); n != 2 || s.Computing() != 0 {
				t.Errorf("early %v: then %d handshakes have computed, %d slots are taken", early, n, s.Computing())
			}
			retry.Close()
			<-retryServer
		})
	}
}

// TestServer_Handshake_SlowClients: a client that takes its time, wherever it
// does, holds up nobody else, and is given up on.
func TestServer_Handshake_SlowClients(t *testing.T) {
	hello, both := hellos(t, nil)[0], hellos(t, retried)
	synctest.Test(t, func(t *testing.T) {
		s, outcomes := newServer(t, 1)
		began := time.Now()
		servers := make(map[string]<-chan error)
		for name, stream := range map[string][]byte{
			"says nothing":         nil,
			"half a hello":         hello[:len(hello)/2],
			"does not read":        hello,
			"does not read a HRR":  both[0],
			"half a second hello":  append(bytes.Clone(both[0]), both[1][:len(both[1])/2]...),
			"a record of the next": append(bytes.Clone(both[0]), 22, 3, 3, 0, 1, 1),
		} {
			conn, server := pipe(s)
			servers[name] = server
			go conn.Write(stream)
			if name == "half a second hello" || name == "a record of the next" {
				go io.Copy(io.Discard, conn)
			}
		}
		for name, after := range map[string]int{"no Finished": len(hello), "half a Finished": len(hello) + 20} {
			servers[name], _ = connect(s, &meddler{meddle: stall(after)}, plainClient(nil))
		}
		synctest.Wait()
		if s.Computing() != 0 {
			t.Errorf("%d slots are taken", s.Computing())
		}
		server, client := connect(s, &meddler{}, plainClient(nil))
		if err := errors.Join(<-server, <-client); err != nil || time.Since(began) != 0 {
			t.Errorf("another client waited %v: %v", time.Since(began), err)
		}
		for name, server := range servers {
			if err := <-server; !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) != channel.DefaultTimeout {
				t.Errorf("%s: after %v, %v", name, time.Since(began), err)
			}
		}
		if outcomes.n[channel.TimedOut] != len(servers) {
			t.Errorf("counted %v, want %d timeouts", outcomes.n, len(servers))
		}
	})
}

// A broken key panics.
type broken struct{ crypto.Signer }

func (broken) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) { panic("broken") }

// TestServer_Handshake_Panic: a panic reaches the goroutine that called, where the
// connection's recover is, and takes no slot along.
func TestServer_Handshake_Panic(t *testing.T) {
	s, _ := newServer(t, 1)
	s.LendKey(func(k crypto.Signer) crypto.Signer { return broken{k} })
	ours, theirs := tcp(t)
	go tls.Client(theirs, plainClient(nil)).Handshake()
	defer func() {
		if p := recover(); p == nil || !strings.Contains(fmt.Sprint(p), "broken") || s.Computing() != 0 {
			t.Errorf("recovered %v, %d slots are taken", p, s.Computing())
		}
	}()
	s.Handshake(context.Background(), ours, 0)
}

// A crowd counts how many sign at once, and makes it likely that many would.
type crowd struct {
	crypto.Signer
	now, most atomic.Int32
}

func (c *crowd) Sign(r io.Reader, msg []byte, opts crypto.SignerOpts) ([]byte, error) {
	n := c.now.Add(1)
	defer c.now.Add(-1)
	for m := c.most.Load(); n > m && !c.most.CompareAndSwap(m, n); m = c.most.Load() {
	}
	for range 10 {
		runtime.Gosched()
	}
	return c.Signer.Sign(r, msg, opts)
}

// TestServer_Handshake_Flood: under a flood of handshakes no more compute at once
// than may, and a connection that is open already is answered all the while.
func TestServer_Handshake_Flood(t *testing.T) {
	const slots, clients, each = 2, 32, 8
	s, outcomes := newServer(t, slots)
	c := &crowd{}
	s.LendKey(func(k crypto.Signer) crypto.Signer { c.Signer = k; return c })
	ours, theirs := tcp(t)
	go io.Copy(ours, ours)
	quiet := roundTrips(t, theirs, func(n int) bool { return n < 200 })

	var flood sync.WaitGroup
	var left atomic.Int32
	left.Store(clients)
	began := time.Now()
	for i := range clients {
		flood.Go(func() {
			defer left.Add(-1)
			var change func(*tls.Config)
			if i%2 == 0 {
				change = retried
			}
			for range each {
				ours, theirs := tcp(t)
				done := serve(s, ours)
				err := tls.Client(theirs, plainClient(change)).Handshake()
				if r := <-done; err != nil || r.err != nil {
					t.Error(err, r.err)
				}
				ours.Close()
				theirs.Close()
			}
		})
	}
	loud := roundTrips(t, theirs, func(int) bool { return left.Load() > 0 })
	flood.Wait()
	t.Logf("%.0f handshakes/s, both sides; an open connection's round trip: alone median %v, 99th %v, 100th %v; in the flood (%d) %v, %v, %v",
		clients*each/time.Since(began).Seconds(), quiet[len(quiet)/2], quiet[len(quiet)*99/100], quiet[len(quiet)-1],
		len(loud), loud[len(loud)/2], loud[len(loud)*99/100], loud[len(loud)-1])
	if most := c.most.Load(); most > slots || s.Computing() != 0 || outcomes.n[channel.Done] != clients*each {
		t.Errorf("%d computed at once, %d slots are taken, counted %v", most, s.Computing(), outcomes.n)
	}
}

// roundTrips returns how long an echo took, sorted.
func roundTrips(t *testing.T, c net.Conn, more func(n int) bool) (all []time.Duration) {
	b := make([]byte, 1)
	for more(len(all)) {
		began := time.Now()
		if _, err := c.Write(b); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, b); err != nil {
			t.Fatal(err)
		}
		all = append(all, time.Since(began))
	}
	slices.Sort(all)
	return all
}
