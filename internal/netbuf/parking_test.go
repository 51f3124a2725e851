package netbuf_test

import (
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"cmtpd/internal/netbuf"
)

// A connection parks when its peer has sent nothing, before it waits, and not while bytes are there.
func TestParking(t *testing.T) {
	everyKind(t, func(t *testing.T, ours, theirs net.Conn) {
		parked := make(chan struct{}, 100)
		c := netbuf.Parking(ours, func() { parked <- struct{}{} })
		_, socket := ours.(interface{ CloseWrite() error })
		b := make([]byte, 1)
		if socket { // a pipe has no room for what nobody reads yet
			theirs.Write([]byte("abc"))
			for i := range 3 {
				if n, err := c.Read(b); n != 1 || err != nil || b[0] != "abc"[i] {
					t.Fatalf("read %d %q, %v", n, b, err)
				}
			}
			if len(parked) > 0 {
				t.Errorf("it parked %d times though there was something to read", len(parked))
			}
		}
		read := make(chan error)
		go func() {
			_, err := c.Read(b)
			read <- err
		}()
		<-parked
		theirs.Write([]byte("d"))
		if err := <-read; err != nil || b[0] != 'd' {
			t.Errorf("after waiting: %q, %v", b, err)
		}
		c.SetReadDeadline(time.Now())
		if _, err := c.Read(b); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("past the deadline: %v", err)
		}
		c.SetReadDeadline(time.Now().Add(10 * time.Second))
		if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
			t.Errorf("CloseWrite: %v", err)
		}
		if socket {
			if n, err := theirs.Read(b); n != 0 || err != io.EOF {
				t.Errorf("the peer reads %d, %v", n, err)
			}
		}
		theirs.Close()
		if n, err := c.Read(b); n != 0 || err != io.EOF {
			t.Errorf("at the end: %d, %v", n, err)
		}
		ours.Close()
		if _, err := c.Read(b); !errors.Is(err, net.ErrClosed) && !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("of a closed one: %v", err)
		}
	})
}
