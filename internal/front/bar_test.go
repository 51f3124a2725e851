package front_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"cmtpd/internal/cmtptest"
	"cmtpd/internal/front"
	"cmtpd/internal/sockfilter"
)

func from(text string) netip.AddrPort { return netip.AddrPortFrom(netip.MustParseAddr(text), 1) }

// inMemory is a listener that nobody can set anything of.
type inMemory struct{ net.Listener }

func (inMemory) Addr() net.Addr { return &net.TCPAddr{} }

// Each listener knows who is barred, and for how long.
func TestBar(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		knows := make(map[net.Listener]string) // under mu
		b := front.NewBar(slog.New(slog.DiscardHandler), func(l net.Listener, all []netip.Prefix) error {
			slices.SortFunc(all, netip.Prefix.Compare)
			mu.Lock()
			defer mu.Unlock()
			knows[l] = fmt.Sprint(all)
			return nil
		})
		one, other := &inMemory{}, &inMemory{}
		want := func(text, otherText string) {
			t.Helper()
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			if knows[one] != text || knows[other] != otherText {
				t.Errorf("at %v one drops %s and the other %s, not %s and %s", time.Now().Second(), knows[one], knows[other], text, otherText)
			}
		}
		b.Add(one)
		want("[]", "") // what may have been there before is gone
		b.Put(from("192.0.2.1"), 10*time.Second)
		want("[192.0.2.1/32]", "")
		time.Sleep(4 * time.Second)
		b.Put(from("2001:db8::1"), 10*time.Second)
		b.Put(from("::ffff:192.0.2.1"), 10*time.Second) // it is there already
		b.Add(other)
		want("[192.0.2.1/32 2001:db8::/64]", "[192.0.2.1/32 2001:db8::/64]")
		if !b.Has(netip.MustParseAddr("192.0.2.1")) || !b.Has(netip.MustParseAddr("2001:db8::2")) || b.Has(netip.MustParseAddr("192.0.2.2")) {
			t.Error("it does not know who is barred")
		}
		if s := b.Stats(); s.Barred != 2 || s.BarredTotal != 2 {
			t.Errorf("%+v", s)
		}
		time.Sleep(6*time.Second - time.Nanosecond)
		want("[192.0.2.1/32 2001:db8::/64]", "[192.0.2.1/32 2001:db8::/64]")
		time.Sleep(time.Nanosecond)
		want("[2001:db8::/64]", "[2001:db8::/64]")
		b.Remove(other)
		want("[2001:db8::/64]", "[]")
		b.Put(netip.AddrPort{}, time.Second)
		time.Sleep(4 * time.Second)
		want("[]", "[]")
		b.Put(from("192.0.2.1"), time.Hour)
		b.Stop()
		want("[]", "[]")
		b.Put(from("192.0.2.1"), time.Hour)
		b.Add(other)
		want("[]", "[]")
		if s := b.Stats(); s.Barred != 0 || s.BarredTotal != 3 {
			t.Errorf("%+v", s)
		}
	})
}

// There are no more than can be dropped, and further ones are as before.
func TestBar_Most(t *testing.T) {
	most := 0
	b := front.NewBar(slog.New(slog.DiscardHandler), func(_ net.Listener, all []netip.Prefix) error {
		most = max(most, len(all))
		return nil
	})
	defer b.Stop()
	b.Add(&inMemory{})
	last := netip.MustParseAddr("192.0.2.0")
	for range sockfilter.MaxNetworks + 1 {
		last = last.Next()
		b.Put(netip.AddrPortFrom(last, 1), time.Hour)
	}
	if most != sockfilter.MaxNetworks || b.Has(last) || !b.Has(last.Prev()) {
		t.Errorf("%d are barred, the last of them: %v", most, b.Has(last))
	}
}

// Where nothing can be dropped the log says so, once.
func TestBar_Unable(t *testing.T) {
	var log bytes.Buffer
	b := front.NewBar(slog.New(slog.NewTextHandler(&log, nil)), func(_ net.Listener, all []netip.Prefix) error {
		if len(all) == 0 {
			return nil
		}
		return errors.ErrUnsupported
	})
	defer b.Stop()
	b.Add(&inMemory{})
	b.Put(from("192.0.2.1"), time.Hour)
	b.Put(from("192.0.2.2"), time.Hour)
	if n := strings.Count(log.String(), `msg="the kernel does not drop a flood's packets"`); n != 1 {
		t.Errorf("it was told %d times:\n%s", n, &log)
	}
}

// dialFrom connects from a loopback address.
func dialFrom(addr, ip string) (*net.TCPConn, error) {
	d := net.Dialer{Timeout: time.Minute, LocalAddr: &net.TCPAddr{IP: net.ParseIP(ip)}}
	c, err := d.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), nil
}

// needFilters leaves a test out where the kernel lets root alone filter a socket, and nobody is root.
func needFilters(t *testing.T) {
	l, err := front.Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	err = sockfilter.Drop(l.(*net.TCPListener), []netip.Prefix{netip.MustParsePrefix("192.0.2.1/32")})
	if errors.Is(err, fs.ErrPermission) && os.Geteuid() != 0 {
		cmtptest.LeaveOut(t, err.Error())
	}
}

// Who connects without waiting to be refused is not heard for a while. Who was connected, and others, do not notice. A
// socket that outlives the server, as the service manager's do, hears everybody again.
func TestServer_Bars(t *testing.T) {
	needFilters(t)
	var log bytes.Buffer
	s, addr := start(t, front.Config{Limits: front.Limits{MaxPerAddress: 1, FloodPause: time.Hour}, Log: slog.New(slog.NewTextHandler(&log, nil))},
		echo("smtp"), echo("cmtp"), false)
	first, _ := greeted(t, addr)
	l := s.Listener(t)
	first.Close()
	outlives, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	defer outlives.Close()
	const bad = "127.3.0.1"
	held, err := dialFrom(addr, bad)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	in := bufio.NewReader(held)
	readLine(t, in) // the greeting, so it is counted
	// Each connection is reset at once. When the kernel drops a packet, the one that it was for waits.
	waiting := make(chan error, 1)
	stop := make(chan struct{})
	go func() {
		for {
			c, err := dialFrom(addr, bad)
			if err != nil {
				waiting <- err
				return
			}
			c.SetLinger(0)
			c.Close()
			select {
			case <-stop:
				waiting <- nil
				return
			default:
			}
		}
	}()
	for stats := s.Stats(); stats.Barred == 0 || stats.Dropped == 0; stats = s.Stats() {
		select {
		case err := <-waiting:
			t.Fatal(err)
		default:
			runtime.Gosched()
		}
	}
	good, err := dialFrom(addr, "127.3.0.2")
	if err != nil {
		t.Fatal(err)
	}
	defer good.Close()
	if line := readLine(t, bufio.NewReader(good)); line != greeting {
		t.Errorf("another was greeted with %q", line)
	}
	held.Write([]byte("EHLO held\r\n"))
	if line := readLine(t, in); !strings.HasPrefix(line, "smtp "+bad) {
		t.Errorf("who was there before was answered %q", line)
	}
	select {
	case err := <-waiting:
		t.Fatalf("who is barred: %v", err)
	default:
	}
	stats := s.Stats()
	if stats.Barred != 1 || stats.BarredTotal != 1 {
		t.Errorf("%+v", stats)
	}
	close(stop) // only now: what was dropped first may have been of a connection that was there already
	shutdown(t, s)
	if err := <-waiting; err != nil {
		t.Errorf("after the end: %v", err)
	}
	if !strings.Contains(log.String(), `msg="clients were barred" barred=1 last=`+bad) {
		t.Errorf("the log has\n%s", &log)
	}
}

// A filter that another process left behind on a socket of the service manager is gone.
func TestServer_Bars_Left(t *testing.T) {
	needFilters(t)
	l, err := front.Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := sockfilter.Drop(l.(*net.TCPListener), []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}); err != nil {
		t.Fatal(err)
	}
	s := front.New(front.Config{Hostname: "mail.example", IsCMTP: isCMTP}, echo("smtp"), echo("cmtp"))
	served := make(chan error, 1)
	go func() { served <- s.Serve(t.Context(), l, false) }()
	greeted(t, l.Addr().String())
	shutdown(t, s)
	if err := <-served; err != nil {
		t.Error(err)
	}
}

// Who has an IPv6 network in common with a load balancer is not barred: the kernel would drop what that one brings, too.
func TestServer_Bars_Neighbour(t *testing.T) {
	for _, tt := range []struct {
		name      string
		proxyFrom []netip.Prefix
		barred    bool
	}{
		{"Neighbour", []netip.Prefix{netip.MustParsePrefix("192.0.2.1/32"), netip.MustParsePrefix("::2/128")}, false},
		{"Stranger", []netip.Prefix{netip.MustParsePrefix("192.0.2.1/32"), netip.MustParsePrefix("2001:db8::2/128")}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l, err := front.Listen(t.Context(), "[::1]:0")
			if err != nil {
				t.Fatal(err)
			}
			s := front.New(front.Config{Hostname: "mail.example", IsCMTP: isCMTP,
				Limits: front.Limits{MaxPerAddress: 1, FloodPause: time.Hour, ProxyFrom: tt.proxyFrom}}, echo("smtp"), echo("cmtp"))
			s.LetWait(time.Hour)
			served := make(chan error, 1)
			go func() { served <- s.Serve(t.Context(), l, false) }()
			dial := func() {
				c, err := dialFrom(l.Addr().String(), "::1")
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { c.Close() })
			}
			dial() // is let in
			const crowd = front.DoorstepRoom + 1
			for range crowd {
				dial()
			}
			done := func() bool { return s.Stats().Barred == 1 }
			if !tt.barred {
				dial() // one more is counted when the one before it has had all that comes of it
				done = func() bool { return s.Stats().RefusedAddress == crowd+1 }
			}
			for !done() {
				runtime.Gosched()
			}
			if n := s.Stats().Barred; (n == 1) != tt.barred {
				t.Errorf("%d are barred", n)
			}
			shutdown(t, s)
			if err := <-served; err != nil {
				t.Error(err)
			}
		})
	}
}
