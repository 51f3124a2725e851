package channel_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"runtime"
	"testing"

	"cmtpd/internal/channel"
	"cmtpd/internal/netbuf"
)

// TestConn_IdleMemory has many channels speak, then wait for more, and compares
// them with as many connections without TLS. crypto/tls keeps the buffer that held
// the largest record so far, which after a long request is more than 32 KiB.
func TestConn_IdleMemory(t *testing.T) {
	const conns = 200
	s, _ := newServer(t, 0)
	for _, tt := range []struct{ request, bound int64 }{{30, 16 << 10}, {2 << 20, 60 << 10}} {
		t.Run(fmt.Sprint("after ", tt.request, " bytes"), func(t *testing.T) {
			asIs := func(c net.Conn) (net.Conn, error) { return c, nil }
			plain := idle(t, conns, tt.request, asIs, asIs)
			private := idle(t, conns, tt.request,
				func(c net.Conn) (net.Conn, error) { return s.Handshake(context.Background(), c, 0) },
				func(c net.Conn) (net.Conn, error) { return channel.Client(context.Background(), c, 0, 0) })
			t.Logf("bytes of heap and stack for each connection, both ends, the server's with a goroutine: %d, without TLS %d", private, plain)
			if private-plain > tt.bound && !raceEnabled {
				t.Errorf("TLS costs an idle connection %d bytes", private-plain)
			}
		})
	}
}

// idle returns how many bytes each of n connections holds once it has answered a
// request and waits for the next.
func idle(t *testing.T, n int, request int64, server, client func(net.Conn) (net.Conn, error)) int64 {
	ends := make([]net.Conn, 0, 2*n)
	done := make(chan error, n)
	before := inUse()
	for range n {
		ours, theirs := tcp(t)
		go func() { done <- answer(ours, request, server) }()
		c, err := client(theirs)
		if err != nil {
			t.Fatal(err)
		}
		ends = append(ends, ours, c)
		if _, err := io.CopyN(c, zeros{}, request); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, make([]byte, 100)); err != nil {
			t.Fatal(err)
		}
	}
	each := (int64(inUse()) - int64(before)) / int64(n)
	for _, c := range ends {
		c.Close()
	}
	for range n {
		<-done
	}
	runtime.KeepAlive(ends)
	return each
}

// answer answers every request with 100 bytes.
func answer(c net.Conn, request int64, wrap func(net.Conn) (net.Conn, error)) error {
	c, err := wrap(c)
	if err != nil {
		return err
	}
	for in := netbuf.NewReader(c); ; {
		if err := in.Fill(); err != nil {
			return err
		}
		if _, err := io.CopyN(io.Discard, in, request); err != nil {
			return err
		}
		if _, err := c.Write(make([]byte, 100)); err != nil {
			return err
		}
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func inUse() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC() // the second empties the pools' victim caches
	runtime.ReadMemStats(&m)
	return m.HeapAlloc + m.StackInuse
}
