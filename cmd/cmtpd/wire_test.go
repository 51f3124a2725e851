package main_test

import (
	"bufio"
	"errors"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"cmtpd/internal/cmtp"
	"cmtpd/internal/cmtptest"
)

const (
	hostname = "mx." + cmtptest.Domain
	greeting = "220 " + hostname + " ESMTP CMTP ready\r\n"
	version  = "CMTP/0.01 CMTP/1 cmtpd/"
)

// A wire is a client that says exactly what a test has it say.
type wire struct {
	*net.TCPConn
	in *bufio.Reader
}

// dialFrom connects from an address of loopback to a listener.
func dialFrom(t *testing.T, from, to string) *wire {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: time.Minute}
	c, err := d.DialContext(t.Context(), "tcp", to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(time.Minute))
	return &wire{c.(*net.TCPConn), bufio.NewReader(c)}
}

// greeted connects to a shared port and reads the greeting.
func greeted(t *testing.T, to string) *wire {
	t.Helper()
	c := dialFrom(t, "127.0.0.1", to)
	c.line(t, greeting)
	return c
}

// send writes each segment by itself.
func (c *wire) send(t *testing.T, segments ...string) {
	t.Helper()
	for _, s := range segments {
		if _, err := io.WriteString(c, s); err != nil {
			t.Fatalf("sending %q: %v", s, err)
		}
	}
}

// line reads a line that begins with want.
func (c *wire) line(t *testing.T, want string) {
	t.Helper()
	c.until(t, '\n', want)
}

// str reads a CMTP string that begins with want.
func (c *wire) str(t *testing.T, want string) {
	t.Helper()
	c.until(t, 0, want)
}

func (c *wire) until(t *testing.T, end byte, want string) {
	t.Helper()
	if got, err := c.in.ReadString(end); err != nil || !strings.HasPrefix(got, want) {
		t.Fatalf("the answer is %q, %v; want %q", got, err, want)
	}
}

// success and failure read the reply to MAIL.
func (c *wire) success(t *testing.T) {
	t.Helper()
	if _, err := cmtp.ReadWord(c.in); err != nil {
		t.Fatalf("the answer to MAIL: %v", err)
	}
}

func (c *wire) failure(t *testing.T) {
	t.Helper()
	if _, err := cmtp.ReadWord(c.in); !errors.Is(err, cmtp.ErrFailure) {
		t.Fatalf("the answer is %v, want FAILURE", err)
	}
}

// end reads the end of the connection, which nothing comes before.
func (c *wire) end(t *testing.T) {
	t.Helper()
	if rest, err := io.ReadAll(c.in); err != nil || len(rest) > 0 {
		t.Fatalf("before the end came %q, %v", rest, err)
	}
}

// reset ends the connection as a crashed or hostile client does.
func (c *wire) reset(t *testing.T) {
	t.Helper()
	if err := c.SetLinger(0); err != nil {
		t.Fatal(err)
	}
	c.Close()
}

// gone reports whether err is that of a connection that the other side refused
// or reset.
func gone(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, io.EOF)
}
