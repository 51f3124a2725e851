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

// TestConn_Farewell: the last words arrive although the peer has sent much
// that was never read.
func TestConn_Farewell(t *testing.T) {
	ours, theirs := pair(t, "tcp")
	c := &netbuf.Conn{Conn: ours, In: netbuf.NewReader(ours)}
	theirs.Write(bytes.Repeat([]byte("x"), 50_000))
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
	theirs.Close()
	<-done
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
