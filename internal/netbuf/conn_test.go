package netbuf_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"cmtpd/internal/netbuf"
)

func TestConn_Stop(t *testing.T) {
	everyKind(t, func(t *testing.T, ours, theirs net.Conn) {
		c := &netbuf.Conn{Conn: ours, In: netbuf.NewReader(ours)}
		c.SetIdle(true)
		failed := make(chan error, 1)
		go func() { failed <- c.In.Fill() }()
		c.Stop()
		if err := <-failed; !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("Fill of an idle connection: %v", err)
		}
		// A handler that was busy all the while sets its next deadline, and
		// only then learns of it.
		c.SetIdle(false)
		c.SetReadDeadline(time.Now().Add(10 * time.Second))
		go theirs.Write([]byte("x"))
		if err := c.In.Fill(); err != nil {
			t.Fatalf("Fill of a busy connection: %v", err)
		}
		c.SetIdle(true)
		if err := c.In.Fill(); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("Fill once idle: %v", err)
		}
	})
}

// A counter counts what is read from a connection.
type counter struct {
	net.Conn
	n int
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.n += n
	return n, err
}

// TestConn_Farewell: the last words arrive although the peer has sent much that
// was never read, and goes on: that is read to its end, since no kernel has to
// keep what it has received when a reset comes.
func TestConn_Farewell(t *testing.T) {
	ours, theirs := pair(t, "tcp")
	in := &counter{Conn: ours}
	c := &netbuf.Conn{Conn: ours, In: netbuf.NewReader(in)}
	const before, after = 50_000, 500_000
	theirs.Write(bytes.Repeat([]byte("x"), before))
	done := make(chan struct{})
	go func() {
		c.Farewell([]byte("500 no\r\n"))
		c.Close()
		close(done)
	}()
	got, err := io.ReadAll(theirs)
	if err != nil || string(got) != "500 no\r\n" {
		t.Fatalf("arrived %q, %v", got, err)
	}
	if _, err := theirs.Write(make([]byte, after)); err != nil {
		t.Errorf("a peer that is still sending meets %v", err)
	}
	theirs.Close()
	<-done
	if in.n != before+after {
		t.Errorf("%d bytes of %d were read behind the last words", in.n, before+after)
	}
}

// TestConn_Farewell_Bounded: a peer that never stops does not hold it.
func TestConn_Farewell_Bounded(t *testing.T) {
	ours, theirs := pair(t, "tcp")
	c := &netbuf.Conn{Conn: ours, In: netbuf.NewReader(ours)}
	sent := make(chan error, 1)
	go func() {
		for {
			if _, err := theirs.Write(make([]byte, 1<<16)); err != nil {
				sent <- err
				return
			}
		}
	}()
	c.Farewell([]byte("500 no\r\n"))
	c.Close()
	<-sent
}

// TestConn_Wake: a read on an idle connection ends, whether it waits yet or not, and what comes later is
// read as ever. A busy one is not disturbed before it is idle.
func TestConn_Wake(t *testing.T) {
	ours, theirs := pair(t, "tcp")
	c := &netbuf.Conn{Conn: ours, In: netbuf.NewReader(ours)}
	if c.Woken() || c.Stopping() {
		t.Error("it is woken from the start")
	}
	fill := func(idle bool) error {
		c.SetReadDeadline(time.Now().Add(time.Minute))
		if idle {
			c.SetIdle(true)
			defer c.SetIdle(false)
		}
		return c.In.Fill()
	}
	c.Wake()
	if err := fill(true); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("woken before: %v", err)
	}
	if !c.Woken() || c.Woken() {
		t.Error("a wake is told once")
	}
	done := make(chan error)
	go func() { done <- fill(true) }()
	for ended := false; !ended; { // it may not wait yet, and then is woken before
		c.Wake()
		select {
		case err := <-done:
			ended = true
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("woken while it waits: %v", err)
			}
		default:
		}
	}
	c.Wake()
	theirs.Write([]byte("x"))
	if err := fill(false); err != nil {
		t.Errorf("a busy connection: %v", err)
	}
	c.In.Discard(1)
	c.Woken()
	theirs.Write([]byte("y"))
	if err := fill(true); err != nil || string(c.In.Buffered()) != "y" {
		t.Errorf("afterwards: %q, %v", c.In.Buffered(), err)
	}
}
