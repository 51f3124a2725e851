package channel_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"testing"

	"cmtpd/internal/channel"
)

// A countingConn counts writes, and can fail them after some bytes.
type countingConn struct {
	net.Conn
	writes atomic.Int32
	bytes  atomic.Int64
	fails  atomic.Bool
}

var errWrite = errors.New("the write fails")

func (c *countingConn) Write(p []byte) (int, error) {
	c.writes.Add(1)
	if c.fails.Load() {
		n, _ := c.Conn.Write(p[:len(p)/2])
		c.bytes.Add(int64(n))
		return n, errWrite
	}
	n, err := c.Conn.Write(p)
	c.bytes.Add(int64(n))
	return n, err
}

// counted returns both ends of a channel, and what is below the server's.
func counted(t *testing.T) (server, client *channel.Conn, below *countingConn) {
	t.Helper()
	s, _ := newServer(t, 0)
	ours, theirs := tcp(t)
	below = &countingConn{Conn: ours}
	done := make(chan error, 1)
	go func() {
		var err error
		server, err = s.Handshake(context.Background(), below, 0)
		done <- err
	}()
	client, err := channel.Client(context.Background(), theirs, 0, 0)
	if err := errors.Join(err, <-done); err != nil {
		t.Fatal(err)
	}
	return server, client, below
}

// Records of what is written at once share the writes below, as far as there is room, and arrive as they were written.
func TestConn_Write_Together(t *testing.T) {
	server, client, below := counted(t)
	first := 300 << 10 // crypto/tls' first records are short
	for _, tt := range []struct{ size, writes int }{{first, 20}, {1, 1}, {16 << 10, 1}, {16<<10 + 1, 1}, {64 << 10, 1}, {64<<10 + 1, 2}, {200 << 10, 4}} {
		data := bytes.Repeat([]byte{byte(tt.size), byte(tt.size >> 8), 7}, tt.size/3+1)[:tt.size]
		before := below.writes.Load()
		sent := make(chan error, 1)
		go func() {
			n, err := server.Write(data)
			if n != len(data) && err == nil {
				err = io.ErrShortWrite
			}
			sent <- err
		}()
		got := make([]byte, tt.size)
		if _, err := io.ReadFull(client, got); err != nil || !bytes.Equal(got, data) {
			t.Fatalf("%d bytes do not arrive: %v", tt.size, err)
		}
		if err := <-sent; err != nil {
			t.Fatal(err)
		}
		if n := int(below.writes.Load() - before); n > tt.writes {
			t.Errorf("%d bytes took %d writes, not %d", tt.size, n, tt.writes)
		}
	}
}

// After a write that failed within a record nothing follows it: what did would be taken for an altered record.
func TestConn_Write_Fails(t *testing.T) {
	server, _, below := counted(t)
	below.fails.Store(true)
	if n, err := server.Write(make([]byte, 60<<10)); !errors.Is(err, errWrite) || n != 0 {
		t.Fatalf("%d, %v", n, err)
	}
	below.fails.Store(false)
	before := below.bytes.Load()
	for _, size := range []int{1, 60 << 10} {
		if _, err := server.Write(make([]byte, size)); !errors.Is(err, errWrite) {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
	server.CloseWrite()
	if n := below.bytes.Load() - before; n != 0 {
		t.Errorf("%d bytes follow", n)
	}
}
