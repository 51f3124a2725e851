package front_test

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"cmtpd/internal/front"
)

// undropped is what a kernel says that takes no filter from us.
func undropped(net.Listener, []netip.Prefix) error { return fs.ErrPermission }

// Connections of who is barred are closed on the way to the next of anybody else, as many in a row as may be.
func TestBar_Accept(t *testing.T) {
	const bad = "127.3.0.1"
	for _, tt := range []struct {
		name    string
		barred  int
		through int // of the barred, to those who accept
	}{
		{"none", 0, 0},
		{"some", 3, 0},
		{"all but one of as many as may be", front.SiftAtOnce - 1, 0},
		{"as many as may be", front.SiftAtOnce, 0},
		{"one more", front.SiftAtOnce + 1, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := front.NewBar(slog.New(slog.DiscardHandler), undropped)
			defer b.Stop()
			l, err := front.Listen(t.Context(), "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			b.Add(l)
			b.Put(from(bad), time.Hour)
			var conns []*net.TCPConn
			for range tt.barred {
				c, err := dialFrom(l.Addr().String(), bad)
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				conns = append(conns, c)
			}
			good, err := dialFrom(l.Addr().String(), "127.0.0.1")
			if err != nil {
				t.Fatal(err)
			}
			defer good.Close()
			for range tt.through {
				if c, err := b.Accept(l); err != nil || !strings.HasPrefix(c.RemoteAddr().String(), bad+":") {
					t.Fatalf("%v, %v", c, err)
				}
			}
			c, err := b.Accept(l)
			if err != nil || c.RemoteAddr().String() != good.LocalAddr().String() {
				t.Fatalf("%v, %v", c, err)
			}
			defer c.Close()
			if s := b.Stats(); s.RefusedFlood != uint64(tt.barred-tt.through) || s.Accepted != s.RefusedFlood {
				t.Errorf("%+v", s)
			}
			for i, c := range conns[:tt.barred-tt.through] {
				c.SetDeadline(time.Now().Add(time.Minute))
				if n, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
					t.Fatalf("connection %d of who is barred reads %d bytes, %v", i, n, err)
				}
			}
			isOurs(t, c)
			if _, err := good.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
				t.Error(err)
			}
		})
	}
}

// isOurs checks that a connection is as those that Listen's listeners accept: TCP, without probes.
func isOurs(t *testing.T, c net.Conn) {
	t.Helper()
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		t.Fatalf("it is a %T", c)
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) {
		if on, err := syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_KEEPALIVE); err != nil || on != 0 {
			t.Errorf("SO_KEEPALIVE is %d, %v", on, err)
		}
		if on, err := syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_NODELAY); err != nil || on != 1 {
			t.Errorf("TCP_NODELAY is %d, %v", on, err)
		}
	})
}

// Where the kernel drops nothing, who floods is kept out all the same, others are served, and a stop waits for nobody.
func TestServer_Bars_Unfiltered(t *testing.T) {
	var log bytes.Buffer
	const bad = "127.3.0.1"
	s, addr := start(t, front.Config{Limits: front.Limits{MaxPerAddress: 1, FloodPause: time.Hour}, Log: slog.New(slog.NewTextHandler(&log, nil))},
		echo("smtp"), echo("cmtp"), false)
	s.DropBy(undropped)
	held, err := dialFrom(addr, bad)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	stop := make(chan struct{})
	var flood sync.WaitGroup
	for range 4 {
		flood.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				c, err := dialFrom(addr, bad)
				if err != nil {
					t.Error(err)
					return
				}
				c.SetLinger(0)
				c.Close()
			}
		})
	}
	for stats := s.Stats(); stats.Barred == 0 || stats.RefusedFlood < 1000; stats = s.Stats() {
		runtime.Gosched()
	}
	for range 20 {
		good, err := dialFrom(addr, "127.3.0.2")
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, len(greeting))
		if _, err := io.ReadFull(good, b); err != nil || string(b) != greeting {
			t.Errorf("another was greeted with %q, %v", b, err)
		}
		good.Close()
		for s.Stats().Open > 1 { // but who is held
			runtime.Gosched()
		}
	}
	close(stop)
	flood.Wait()
	shutdown(t, s)
	if !strings.Contains(log.String(), "the kernel does not drop a flood's packets") {
		t.Errorf("the log has\n%s", &log)
	}
}
