package discovery_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"reflect"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"cmtpd/internal/discovery"
)

// A plan says how a pretended network answers for an address.
type plan struct {
	after time.Duration
	err   error // nil: a connection; errNever: none before the context ends
}

var errNever = errors.New("never")

// A network pretends to connect, and writes down what happened when.
type network struct {
	start time.Time
	plans map[string]plan

	mu    sync.Mutex
	conns map[string]*conn // under mu
	tried []string         // under mu: address and how long after the start
	open  int              // under mu: tries that have not returned
}

type conn struct {
	net.Conn
	closed bool
}

func (c *conn) Close() error {
	c.closed = true
	return nil
}

func (n *network) dial(ctx context.Context, network, address string) (net.Conn, error) {
	n.mu.Lock()
	n.tried = append(n.tried, fmt.Sprint(strings.TrimSuffix(address, ":25"), " ", time.Since(n.start)))
	n.open++
	n.mu.Unlock()
	defer func() {
		n.mu.Lock()
		n.open--
		n.mu.Unlock()
	}()
	p := n.plans[address]
	if p.err == errNever {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	select {
	case <-time.After(p.after):
	case <-ctx.Done():
		if p.err != nil || p.after < time.Hour {
			return nil, ctx.Err()
		}
	}
	if p.err != nil {
		return nil, p.err
	}
	c := new(conn)
	n.mu.Lock()
	n.conns[address] = c
	n.mu.Unlock()
	return c, nil
}

func server(tb testing.TB, s string) discovery.Server {
	tb.Helper()
	var preference uint16
	var addr string
	if _, err := fmt.Sscanf(s, "%d %s", &preference, &addr); err != nil {
		tb.Fatal(err)
	}
	return discovery.Server{Host: "mx.example.org", Preference: preference, Addr: netip.AddrPortFrom(netip.MustParseAddr(addr), 25)}
}

func TestDialer_Dial(t *testing.T) {
	refused := syscall.ECONNREFUSED
	for _, c := range []struct {
		name    string
		servers []string // preference and address
		plans   map[string]plan
		want    string // who wins, or ""
		after   time.Duration
		tried   []string
		failed  int
	}{
		{"the first", []string{"1 192.0.2.1", "1 192.0.2.2"}, map[string]plan{"192.0.2.1:25": {after: 249 * time.Millisecond}},
			"192.0.2.1:25", 249 * time.Millisecond, []string{"192.0.2.1 0s"}, 0},
		{"the second is faster", []string{"1 192.0.2.1", "1 192.0.2.2"}, map[string]plan{"192.0.2.1:25": {err: errNever}, "192.0.2.2:25": {after: time.Second}},
			"192.0.2.2:25", 1250 * time.Millisecond, []string{"192.0.2.1 0s", "192.0.2.2 250ms"}, 0},
		{"the first wins all the same", []string{"1 192.0.2.1", "1 192.0.2.2"}, map[string]plan{"192.0.2.1:25": {after: 300 * time.Millisecond}, "192.0.2.2:25": {after: time.Second}},
			"192.0.2.1:25", 300 * time.Millisecond, []string{"192.0.2.1 0s", "192.0.2.2 250ms"}, 0},
		{"a refusal is not waited past", []string{"1 192.0.2.1", "1 192.0.2.2", "1 192.0.2.3"}, map[string]plan{
			"192.0.2.1:25": {after: 10 * time.Millisecond, err: refused}, "192.0.2.2:25": {after: 10 * time.Millisecond, err: refused}, "192.0.2.3:25": {},
		}, "192.0.2.3:25", 20 * time.Millisecond, []string{"192.0.2.1 0s", "192.0.2.2 10ms", "192.0.2.3 20ms"}, 0},
		{"a worse one waits for the better", []string{"1 192.0.2.1", "2 192.0.2.2"}, map[string]plan{"192.0.2.1:25": {after: 29 * time.Second}, "192.0.2.2:25": {}},
			"192.0.2.1:25", 29 * time.Second, []string{"192.0.2.1 0s"}, 0},
		{"a worse one when the better is silent", []string{"1 192.0.2.1", "1 192.0.2.2", "2 192.0.2.3"},
			map[string]plan{"192.0.2.1:25": {err: errNever}, "192.0.2.2:25": {err: errNever}, "192.0.2.3:25": {}},
			"192.0.2.3:25", 30250 * time.Millisecond, []string{"192.0.2.1 0s", "192.0.2.2 250ms", "192.0.2.3 30.25s"}, 0},
		{"none", []string{"1 192.0.2.1", "2 192.0.2.2"}, map[string]plan{"192.0.2.1:25": {err: refused}, "192.0.2.2:25": {err: errNever}},
			"", 30 * time.Second, []string{"192.0.2.1 0s", "192.0.2.2 0s"}, 2},
		{"no servers", nil, nil, "", 0, nil, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var servers []discovery.Server
				for _, s := range c.servers {
					servers = append(servers, server(t, s))
				}
				n := &network{start: time.Now(), plans: c.plans, conns: make(map[string]*conn)}
				d := discovery.Dialer{DialContext: n.dial}
				got, winner, err := d.Dial(t.Context(), servers)
				if after := time.Since(n.start); after != c.after || n.open != 0 {
					t.Errorf("it took %s, want %s; %d tries are left", after, c.after, n.open)
				}
				if !reflect.DeepEqual(n.tried, c.tried) {
					t.Errorf("tried %q, want %q", n.tried, c.tried)
				}
				if c.want != "" {
					if err != nil || winner.Addr.String() != c.want || got != n.conns[c.want] || n.conns[c.want].closed {
						t.Errorf("got %v, %v, %v", got, winner, err)
					}
					return
				}
				var failed *discovery.DialError
				if got != nil || !errors.As(err, &failed) || !failed.Temporary() || len(failed.Attempts) != c.failed {
					t.Fatalf("got %v, %v", got, err)
				}
				for _, a := range failed.Attempts {
					if !strings.Contains(err.Error(), a.Server.Addr.String()) {
						t.Errorf("%v does not name %s", err, a.Server.Addr)
					}
				}
				if c.failed > 0 && !errors.Is(err, refused) {
					t.Errorf("%v is no refusal", err)
				}
			})
		})
	}
}

// A connection that is made too late is closed.
func TestDialer_Dial_Late(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{start: time.Now(), conns: make(map[string]*conn), plans: map[string]plan{
			"192.0.2.1:25": {after: time.Hour}, // connects just as it is told to stop
			"192.0.2.2:25": {},
		}}
		d := discovery.Dialer{DialContext: n.dial}
		_, winner, err := d.Dial(t.Context(), []discovery.Server{server(t, "1 192.0.2.1"), server(t, "1 192.0.2.2")})
		if err != nil || winner.Addr.String() != "192.0.2.2:25" {
			t.Fatalf("got %v, %v", winner, err)
		}
		if late := n.conns["192.0.2.1:25"]; late == nil || !late.closed || n.conns["192.0.2.2:25"].closed {
			t.Errorf("the late connection: %+v", late)
		}
	})
}

// The end of the context ends every try at once.
func TestDialer_Dial_Canceled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{start: time.Now(), conns: make(map[string]*conn), plans: map[string]plan{
			"192.0.2.1:25": {err: errNever}, "192.0.2.2:25": {err: errNever}, "192.0.2.3:25": {err: errNever},
		}}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		d := discovery.Dialer{DialContext: n.dial, Overlap: 600 * time.Millisecond}
		_, _, err := d.Dial(ctx, []discovery.Server{server(t, "1 192.0.2.1"), server(t, "1 192.0.2.2"), server(t, "2 192.0.2.3")})
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(n.start) != time.Second || n.open != 0 || len(n.tried) != 2 || n.tried[1] != "192.0.2.2 600ms" {
			t.Errorf("got %v after %s, tried %q", err, time.Since(n.start), n.tried)
		}
	})
}

// With a real network: an address where nobody listens, then one where somebody
// does.
func TestDialer_Dial_Loopback(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone.Close()
	servers := []discovery.Server{
		{Host: "gone.example.org", Addr: netip.MustParseAddrPort(gone.Addr().String())},
		{Host: "mx.example.org", Addr: netip.MustParseAddrPort(l.Addr().String())},
	}
	c, winner, err := new(discovery.Dialer).Dial(t.Context(), servers)
	if err != nil || winner != servers[1] || c.RemoteAddr().String() != l.Addr().String() {
		t.Fatalf("got %v, %v", winner, err)
	}
	c.Close()
	if _, _, err := new(discovery.Dialer).Dial(t.Context(), servers[:1]); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("nobody listens: %v", err)
	}
}
