package sockfilter_test

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"cmtpd/internal/cmtptest"
	"cmtpd/internal/sockfilter"
)

// A door is a listener, and what comes to it.
type door struct {
	*net.TCPListener
	came chan netip.AddrPort
}

func listen(t *testing.T, address string) door {
	var lc net.ListenConfig
	lc.SetMultipathTCP(false) // of which the kernel takes no filter
	l, err := lc.Listen(t.Context(), "tcp", address)
	if err != nil && strings.HasPrefix(address, "[") {
		cmtptest.LeaveOut(t, "this machine has no IPv6: "+err.Error())
	}
	if err != nil {
		t.Fatal(err)
	}
	d := door{l.(*net.TCPListener), make(chan netip.AddrPort, 16)}
	t.Cleanup(func() { d.Close() })
	go func() {
		for {
			c, err := d.Accept()
			if err != nil {
				return
			}
			a := c.RemoteAddr().(*net.TCPAddr).AddrPort()
			d.came <- netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
			go func() {
				defer c.Close()
				io.Copy(c, c) // an echo
			}()
		}
	}()
	return d
}

// drop has networks dropped, or says why it can't be tested.
func (d door) drop(t *testing.T, networks ...string) {
	t.Helper()
	var all []netip.Prefix
	for _, n := range networks {
		all = append(all, netip.MustParsePrefix(n))
	}
	if err := sockfilter.Drop(d, all); errors.Is(err, fs.ErrPermission) && os.Geteuid() != 0 {
		cmtptest.LeaveOut(t, err.Error())
	} else if err != nil {
		t.Fatal(err)
	}
}

// comes connects from an address, and fails the test unless that is accepted.
func (d door) comes(t *testing.T, to, from string) net.Conn {
	t.Helper()
	c := <-d.tries(to, from)
	if c.err != nil {
		t.Fatalf("from %s: %v", from, c.err)
	}
	t.Cleanup(func() { c.Close() })
	if at := <-d.came; at.String() != c.LocalAddr().String() {
		t.Fatalf("%s came, and %s was awaited", at, c.LocalAddr())
	}
	return c
}

type tried struct {
	net.Conn
	err error
}

// tries begins to connect from an address.
func (d door) tries(to, from string) <-chan tried {
	done := make(chan tried, 1)
	_, port, _ := net.SplitHostPort(d.Addr().String())
	go func() {
		dialer := net.Dialer{Timeout: time.Minute, LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
		c, err := dialer.Dial("tcp", net.JoinHostPort(to, port))
		done <- tried{c, err}
	}()
	return done
}

// awaitDrop returns when more packets were dropped than before.
func (d door) awaitDrop(t *testing.T, before uint32) {
	t.Helper()
	for {
		n, err := sockfilter.Dropped(d)
		if err != nil {
			t.Fatal(err)
		}
		if n > before {
			return
		}
		runtime.Gosched()
	}
}

func (d door) dropped(t *testing.T) uint32 {
	t.Helper()
	n, err := sockfilter.Dropped(d)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// Who is dropped waits, and comes in when he is not dropped any more; nobody else notices, nor does who is there
// already.
func TestDrop(t *testing.T) {
	for _, c := range []struct{ name, listen, to, bad, good, network string }{
		{"an address of IPv4", "127.0.0.1:0", "127.0.0.1", "127.3.0.1", "127.3.0.2", "127.3.0.1/32"},
		{"a network of IPv4", "127.0.0.1:0", "127.0.0.1", "127.3.0.9", "127.4.0.9", "127.3.0.0/16"},
		{"IPv4 at a socket of both", "[::]:0", "127.0.0.1", "127.3.0.1", "127.3.0.2", "127.3.0.1/32"},
		{"a network of IPv6", "[::]:0", "::1", "::1", "", "::/64"},
		{"an address of IPv6", "[::1]:0", "::1", "::1", "", "::1/128"},
		{"a network between words", "[::1]:0", "::1", "::1", "", "::/100"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			d := listen(t, c.listen)
			if c.good == "" && strings.HasPrefix(c.listen, "[::1]") {
				c.good = "::1"
				d.drop(t, "::2/128", "127.0.0.0/8", "::1:0:0/96", "::1:0:0:0:0/64") // none of them is it
				d.comes(t, c.to, c.good).Close()
			}
			there := d.comes(t, c.to, c.bad)
			d.drop(t, "192.0.2.1/32", c.network, "2001:db8::/64")
			before := d.dropped(t)
			waiting := d.tries(c.to, c.bad)
			d.awaitDrop(t, before)
			if c.good != "" && c.good != "::1" {
				d.comes(t, c.to, c.good)
			} else if c.listen == "[::]:0" {
				d.comes(t, "127.0.0.1", "127.0.0.1")
			}
			if _, err := there.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(there, make([]byte, 1)); err != nil {
				t.Errorf("who was there before is not heard: %v", err)
			}
			select {
			case w := <-waiting:
				t.Fatalf("who was to be dropped: %v", w.err)
			default:
			}
			d.drop(t)
			w := <-waiting
			if w.err != nil {
				t.Fatal(w.err)
			}
			w.Close()
			if at := <-d.came; at.String() != w.LocalAddr().String() {
				t.Errorf("%s came", at)
			}
			d.drop(t) // none is not too few
		})
	}
}

// The last of as many networks as there can be is dropped, and one more is refused.
func TestDrop_Most(t *testing.T) {
	d := listen(t, "[::]:0")
	networks := make([]string, 0, sockfilter.MaxNetworks)
	for i := range sockfilter.MaxNetworks - 2 {
		networks = append(networks, fmt.Sprintf("2001:db8:%x::1/128", i))
	}
	networks = append(networks, "127.3.0.1/32", "::1/128")
	d.drop(t, networks...)
	var waiting []<-chan tried
	for _, from := range []string{"127.3.0.1", "::1"} {
		before := d.dropped(t)
		to := "127.0.0.1"
		if from == "::1" {
			to = from
		}
		waiting = append(waiting, d.tries(to, from))
		d.awaitDrop(t, before)
	}
	d.comes(t, "127.0.0.1", "127.3.0.2")
	err := sockfilter.Drop(d, slices.Repeat([]netip.Prefix{netip.MustParsePrefix("192.0.2.1/32")}, sockfilter.MaxNetworks+1))
	if err == nil || !strings.Contains(err.Error(), "64 are the most") {
		t.Errorf("one too many: %v", err)
	}
	d.drop(t)
	for _, w := range waiting {
		if got := <-w; got.err != nil {
			t.Error(got.err)
		} else {
			got.Close()
		}
	}
}

// A socket that is closed is an error, and no more.
func TestDrop_Closed(t *testing.T) {
	d := listen(t, "127.0.0.1:0")
	d.Close()
	for _, err := range []error{sockfilter.Drop(d, nil), sockfilter.Drop(d, []netip.Prefix{netip.MustParsePrefix("192.0.2.1/32")})} {
		if !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	}
	if _, err := sockfilter.Dropped(d); !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
}
