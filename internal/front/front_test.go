package front_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"cmtpd/internal/front"
)

const greeting = "220 mail.example ESMTP CMTP ready\r\n"

// echo is a handler that sends "<name> <client> <local>\n" and then all it gets.
type echo string

func (name echo) Serve(_ context.Context, c *front.Conn) {
	io.WriteString(c, string(name)+" "+c.Client.String()+" "+c.Local.String()+"\n")
	io.Copy(c, onlyReader{c.In})
}

type onlyReader struct{ io.Reader }

// handlerFunc is a function as a handler.
type handlerFunc func(context.Context, *front.Conn)

func (f handlerFunc) Serve(ctx context.Context, c *front.Conn) { f(ctx, c) }

// start serves on a loopback port until the test ends.
func start(t *testing.T, cfg front.Config, smtp, cmtp front.Handler, cmtpOnly bool) (*front.Server, string) {
	t.Helper()
	cfg.Hostname, cfg.IsCMTP = "mail.example", isCMTP
	s := front.New(cfg, smtp, cmtp)
	l, err := front.Listen(context.Background(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(context.Background(), l, cmtpOnly) }()
	t.Cleanup(func() {
		shutdown(t, s)
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return s, l.Addr().String()
}

// shutdown ends all sessions, idle or not, and waits for their handlers.
func shutdown(t *testing.T, s *front.Server) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := s.Shutdown(ctx); err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("Shutdown: %v", err)
	}
}

func dial(t *testing.T, addr string) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return c.(*net.TCPConn)
}

func readLine(t *testing.T, r *bufio.Reader) string {
	t.Helper()
	line, err := r.ReadString('\n')
	if err != nil {
		t.Fatalf("no line, %q: %v", line, err)
	}
	return line
}

// greeted dials and reads the greeting.
func greeted(t *testing.T, addr string) (*net.TCPConn, *bufio.Reader) {
	t.Helper()
	c := dial(t, addr)
	r := bufio.NewReader(c)
	if line := readLine(t, r); line != greeting {
		t.Fatalf("greeted with %q", line)
	}
	return c, r
}

// all reads to the end, which must be a clean one.
func all(t *testing.T, r io.Reader) string {
	t.Helper()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatalf("after %q: %v", b, err)
	}
	return string(b)
}

// TestServer_Dispatch sends a session in different segments: the right handler
// gets every byte, in order, once.
func TestServer_Dispatch(t *testing.T) {
	_, addr := start(t, front.Config{}, echo("smtp"), echo("cmtp"), false)
	for _, tt := range []struct{ name, protocol, session string }{
		{"SMTP", "smtp", "EHLO a\r\nMAIL FROM:<>\r\n"},
		{"CMTP", "cmtp", "OHAI\x00\r\nNOOP\x00"},
		{"CMTP MAIL", "cmtp", "MAIL\x00\x00\x00\x00\x01"},
		{"SMTP MAIL", "smtp", "MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n"},
		{"much at once", "smtp", "BDAT 9000\r\n" + strings.Repeat("x", 9000)},
	} {
		segments := map[string]func(io.Writer){
			"at once": func(w io.Writer) { io.WriteString(w, tt.session) },
			"byte by byte": func(w io.Writer) {
				for i := range min(len(tt.session), 64) {
					w.Write([]byte{tt.session[i]})
				}
				io.WriteString(w, tt.session[min(len(tt.session), 64):])
			},
		}
		for how, send := range segments {
			t.Run(tt.name+" "+how, func(t *testing.T) {
				c, r := greeted(t, addr)
				send(c)
				c.CloseWrite()
				if got := readLine(t, r); got != tt.protocol+" "+c.LocalAddr().String()+" "+addr+"\n" {
					t.Errorf("handled by %q", got)
				}
				if got := all(t, r); got != tt.session {
					t.Errorf("the handler got %d bytes %.40q, want %d", len(got), got, len(tt.session))
				}
			})
		}
	}
}

// TestServer_Neither: other protocols get one line, which arrives although the
// client had more to say, and then the end.
func TestServer_Neither(t *testing.T) {
	s, addr := start(t, front.Config{}, echo("smtp"), echo("cmtp"), false)
	cases := []string{
		"GET / HTTP/1.1\r\nHost: mail.example\r\n\r\n" + strings.Repeat("MAIL FROM:<>\r\n", 2000),
		"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
		"PROXY TCP4 192.0.2.1 192.0.2.2 1 25\r\nEHLO x\r\n",
		"EHLO " + strings.Repeat("a", 1019),
		"EHLO\x00",
	}
	for _, in := range cases {
		c, r := greeted(t, addr)
		io.WriteString(c, in)
		if got := all(t, r); !strings.HasPrefix(got, "500 5.5.2 ") || strings.Count(got, "\r\n") != 1 {
			t.Errorf("%.20q was answered %q", in, got)
		}
		c.Close()
	}
	shutdown(t, s)
	if st := s.Stats(); st.Neither != uint64(len(cases)) || st.SMTP+st.CMTP != 0 {
		t.Errorf("counted %+v", st)
	}
}

func TestServer_Silence(t *testing.T) {
	s, addr := start(t, front.Config{Limits: front.Limits{FirstCommandTimeout: 50 * time.Millisecond}}, echo("smtp"), echo("cmtp"), false)
	for _, in := range []string{"", "EHL", "EHLO x"} {
		c, r := greeted(t, addr)
		io.WriteString(c, in)
		if got := all(t, r); !strings.HasPrefix(got, "421 4.4.2 mail.example ") {
			t.Errorf("after %q: %q", in, got)
		}
	}
	shutdown(t, s)
	if st := s.Stats(); st.Silent != 3 {
		t.Errorf("counted %+v", st)
	}
}

// TestServer_Vanish: a client that goes away or resets ends quietly.
func TestServer_Vanish(t *testing.T) {
	var log bytes.Buffer
	s, addr := start(t, front.Config{Log: slog.New(slog.NewTextHandler(&log, nil))}, echo("smtp"), echo("cmtp"), false)
	c, _ := greeted(t, addr)
	io.WriteString(c, "EHLO")
	c.Close()
	c, _ = greeted(t, addr)
	c.SetLinger(0)
	c.Close()
	for s.Stats().Silent < 2 {
		runtime.Gosched()
	}
	shutdown(t, s)
	if st := s.Stats(); st.Silent != 2 || st.Open != 0 {
		t.Errorf("counted %+v", st)
	}
	if n := strings.Count(log.String(), "\n"); n != 2 || strings.Count(log.String(), " silent=1 ") != 2 {
		t.Errorf("logged %s", log.String())
	}
}

func TestServer_CMTPOnly(t *testing.T) {
	_, addr := start(t, front.Config{Limits: front.Limits{MaxPerAddress: 1}}, echo("smtp"), echo("cmtp"), true)
	c := dial(t, addr)
	r := bufio.NewReader(c)
	if got := readLine(t, r); !strings.HasPrefix(got, "cmtp ") {
		t.Fatalf("begins with %q", got)
	}
	if got := all(t, dial(t, addr)); got != "" {
		t.Errorf("one connection too many was told %q", got)
	}
	io.WriteString(c, "GET / HTTP/1.1\r\n")
	c.CloseWrite()
	if got := all(t, r); got != "GET / HTTP/1.1\r\n" {
		t.Errorf("the handler got %q", got)
	}
}

// TestServer_MaxConnections: the limit is reached, one more is refused, and one
// that leaves makes room.
func TestServer_MaxConnections(t *testing.T) {
	left := make(chan struct{})
	leave := handlerFunc(func(context.Context, *front.Conn) { left <- struct{}{} })
	s, addr := start(t, front.Config{Limits: front.Limits{MaxConnections: 3}}, leave, leave, false)
	first, _ := greeted(t, addr)
	greeted(t, addr)
	greeted(t, addr)
	const more = 100
	before := runtime.NumGoroutine()
	refused := make([]*net.TCPConn, more)
	for i := range refused {
		refused[i] = dial(t, addr)
	}
	for _, c := range refused {
		if got := all(t, c); !strings.HasPrefix(got, "421 4.7.0 mail.example ") {
			t.Fatalf("one too many was told %q", got)
		}
	}
	if n := runtime.NumGoroutine() - before; n > 10 {
		t.Errorf("%d refused connections left %d goroutines", more, n)
	}
	io.WriteString(first, "QUIT\r\n")
	<-left
	for s.Stats().Open == 3 {
		runtime.Gosched()
	}
	greeted(t, addr)
	if st := s.Stats(); st.Accepted != more+4 || st.RefusedTotal != more || st.Open != 3 {
		t.Errorf("counted %+v", st)
	}
}

// TestServer_MaxPerAddress counts the real clients behind one load balancer: an
// IPv4 address, or an IPv6 /64, in whichever form it is written.
func TestServer_MaxPerAddress(t *testing.T) {
	cfg := front.Config{Limits: front.Limits{MaxPerAddress: 2, ProxyFrom: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}}
	s, addr := start(t, cfg, echo("smtp"), echo("cmtp"), false)
	try := func(client string, want string) *net.TCPConn {
		t.Helper()
		family := "TCP4"
		local := "198.51.100.1"
		if strings.Contains(client, ":") {
			family, local = "TCP6", "2001:db8:f::1"
		}
		c := dial(t, addr)
		io.WriteString(c, "PROXY "+family+" "+client+" "+local+" 1000 25\r\n")
		if got := readLine(t, bufio.NewReader(c)); !strings.HasPrefix(got, want) {
			t.Errorf("%s was told %q, want %q", client, got, want)
		}
		return c
	}
	c := try("192.0.2.1", "220 ")
	try("192.0.2.1", "220 ")
	try("192.0.2.1", "421 4.7.0 ")
	try("::ffff:192.0.2.1", "421 4.7.0 ")
	try("192.0.2.2", "220 ")
	try("2001:db8:0:1::1", "220 ")
	try("2001:db8:0:1::2", "220 ")
	try("2001:db8:0:1:ffff::3", "421 4.7.0 ")
	try("2001:db8:0:2::1", "220 ")
	if st := s.Stats(); st.RefusedAddress != 3 || st.RefusedTotal != 0 {
		t.Errorf("counted %+v", st)
	}
	c.Close()
	for s.Stats().Silent == 0 {
		runtime.Gosched()
	}
	for s.Stats().Open > 5 {
		runtime.Gosched()
	}
	try("192.0.2.1", "220 ")
}

// proxyV2 is a version 2 header in hex, after its signature.
// TestServer_Rate: as many connections as come at once may, one after the other; one more is refused,
// and other addresses are not.
func TestServer_Rate(t *testing.T) {
	s, addr := start(t, front.Config{Limits: front.Limits{Rate: 1, Burst: 3}}, echo("SMTP"), echo("CMTP"), false)
	try := func(local, want string) {
		t.Helper()
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(local)}, Timeout: 10 * time.Second}
		c, err := d.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if line := readLine(t, bufio.NewReader(c)); !strings.HasPrefix(line, want) {
			t.Errorf("from %s: %q", local, line)
		}
	}
	for range 3 {
		try("127.0.0.2", "220 ")
	}
	try("127.0.0.2", "421 4.7.0 mail.example has had too many connections from your address lately")
	try("127.0.0.3", "220 ")
	if st := s.Stats(); st.RefusedRate != 1 || st.RefusedAddress != 0 || st.RefusedTotal != 0 {
		t.Errorf("counted %+v", st)
	}
}

func proxyV2(rest string) string {
	b, err := hex.DecodeString(strings.ReplaceAll(rest, " ", ""))
	if err != nil {
		panic(err)
	}
	return "\r\n\r\n\x00\r\nQUIT\n" + string(b)
}

func TestServer_Proxy(t *testing.T) {
	cfg := front.Config{Limits: front.Limits{ProxyFrom: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}}}
	_, addr := start(t, cfg, echo("smtp"), echo("cmtp"), false)
	const self = "self"
	for _, tt := range []struct{ name, header, want string }{
		{"v1 IPv4", "PROXY TCP4 192.0.2.1 198.51.100.1 1000 25\r\n", "192.0.2.1:1000 198.51.100.1:25"},
		{"v1 IPv6", "PROXY TCP6 2001:db8::1 2001:db8::2 1000 25\r\n", "[2001:db8::1]:1000 [2001:db8::2]:25"},
		{"v1 unknown", "PROXY UNKNOWN\r\n", self},
		{"v2 IPv4", proxyV2("21 11 000c c0000201 c6336401 03e8 0019"), "192.0.2.1:1000 198.51.100.1:25"},
		{"v2 IPv4 with a TLV", proxyV2("21 11 0010 c0000201 c6336401 03e8 0019 04 0001 00"), "192.0.2.1:1000 198.51.100.1:25"},
		{"v2 IPv6", proxyV2("21 21 0024 20010db8000000000000000000000001 20010db8000000000000000000000002 03e8 0019"), "[2001:db8::1]:1000 [2001:db8::2]:25"},
		{"v2 local", proxyV2("20 00 0000"), self},
		{"v2 local with addresses", proxyV2("20 11 000c c0000201 c6336401 03e8 0019"), self},
	} {
		for _, step := range []int{1, 1000} {
			t.Run(tt.name, func(t *testing.T) {
				c := dial(t, addr)
				for b := []byte(tt.header + "NOOP\x00"); len(b) > 0; b = b[min(step, len(b)):] {
					c.Write(b[:min(step, len(b))])
				}
				c.CloseWrite()
				want := tt.want
				if want == self {
					want = c.LocalAddr().String() + " " + addr
				}
				if got := all(t, c); got != greeting+"cmtp "+want+"\nNOOP\x00" {
					t.Errorf("the session was %q", got)
				}
			})
		}
	}
}

// TestServer_Proxy_Bad: a connection that has to bring a PROXY header and does
// not is closed without a word.
func TestServer_Proxy_Bad(t *testing.T) {
	cfg := front.Config{Limits: front.Limits{ProxyFrom: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}}, ProxyTimeout: 200 * time.Millisecond}
	s, addr := start(t, cfg, echo("smtp"), echo("cmtp"), false)
	bad := []string{
		"",
		"EHLO x\r\n",
		"PROXY TCP4 192.0.2.1",
		"PROXY TCP4 192.0.2.1 198.51.100.1 1000 99999\r\n",
		"PROXY TCP4 nobody 198.51.100.1 1000 25\r\n",
		"PROXY " + strings.Repeat("x", 102),
		proxyV2("31 11 000c c0000201 c6336401 03e8 0019"),
		proxyV2("21 11 ffff c0000201"),
	}
	for _, in := range bad {
		c := dial(t, addr)
		io.WriteString(c, in)
		if got, err := io.ReadAll(c); len(got) > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%q was answered %q, %v", in, got, err)
		}
	}
	shutdown(t, s)
	if st := s.Stats(); st.BadProxy != uint64(len(bad)) {
		t.Errorf("counted %+v", st)
	}
}

// FuzzProxyHeader: a header is taken off with exactly its own bytes, or the
// connection ends.
func FuzzProxyHeader(f *testing.F) {
	const corpus = "testdata/fuzz/FuzzProxyHeader"
	if seeds, err := os.ReadDir(corpus); err != nil || len(seeds) == 0 {
		f.Fatalf("no seeds in %s (%v)", corpus, err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		const rest = "MAIL FROM:<>\r\n"
		n, err := front.ProxyLength(b)
		if err != nil || n == 0 || n > len(b) {
			return
		}
		left, client, err := front.ReadProxy(append(bytes.Clone(b[:n]), rest...))
		if err != nil {
			return
		}
		if string(left) != rest {
			t.Fatalf("%q left of %q", left, rest)
		}
		if a := client.Addr(); a.Is4In6() || a.Zone() != "" {
			t.Fatalf("client %v is not in normal form", client)
		}
	})
}

// failing is a listener whose Accept gives the errors, one after the other.
type failing struct {
	mu   sync.Mutex
	errs []error
}

func (l *failing) Accept() (net.Conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	err := l.errs[0]
	l.errs = l.errs[1:]
	return nil, err
}
func (l *failing) Close() error   { return nil }
func (l *failing) Addr() net.Addr { return &net.TCPAddr{} }

func TestServer_Serve_AcceptErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		final := errors.New("final")
		full := &net.OpError{Op: "accept", Err: os.NewSyscallError("accept4", syscall.EMFILE)}
		l := &failing{errs: []error{full, full, full, final}}
		began := time.Now()
		err := front.New(front.Config{}, nil, nil).Serve(context.Background(), l, false)
		if !errors.Is(err, final) {
			t.Errorf("Serve: %v", err)
		}
		if took := time.Since(began); took != 35*time.Millisecond {
			t.Errorf("waited %v for three temporary errors, want 5+10+20 ms", took)
		}
	})
}

func TestServer_Serve_ContextEnds(t *testing.T) {
	s := front.New(front.Config{}, echo("smtp"), echo("cmtp"))
	l, err := front.Listen(context.Background(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := s.Serve(ctx, l, false); err != nil {
		t.Errorf("Serve: %v", err)
	}
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the listener is open: %v", err)
	}
}

// TestServer_Shutdown: who has not begun is told so, who is idle ends, who is
// busy is waited for and ends once idle.
func TestServer_Shutdown(t *testing.T) {
	busy, finish := make(chan struct{}), make(chan struct{})
	session := handlerFunc(func(ctx context.Context, c *front.Conn) {
		c.In.Release()
		for ctx.Err() == nil {
			c.SetIdle(true)
			err := c.In.Fill()
			c.SetIdle(false)
			if err != nil {
				io.WriteString(c, "bye\n")
				return
			}
			busy <- struct{}{}
			<-finish
			c.In.Release()
		}
	})
	s, addr := start(t, front.Config{}, session, session, false)
	_, silent := greeted(t, addr)
	idle, idleIn := greeted(t, addr)
	io.WriteString(idle, "NOOP\x00")
	working, workingIn := greeted(t, addr)
	io.WriteString(working, "NOOP\x00")
	for s.Stats().CMTP < 2 {
		runtime.Gosched()
	}
	io.WriteString(working, "x")
	<-busy
	done := make(chan error, 1)
	go func() { done <- s.Shutdown(context.Background()) }()
	if got := all(t, silent); !strings.HasPrefix(got, "421 4.3.2 mail.example ") {
		t.Errorf("before its first command it was told %q", got)
	}
	if got := all(t, idleIn); got != "bye\n" {
		t.Errorf("the idle session ended with %q", got)
	}
	select {
	case <-done:
		t.Fatal("Shutdown did not wait for the busy session")
	default:
	}
	close(finish)
	if got := all(t, workingIn); got != "bye\n" {
		t.Errorf("the busy session ended with %q", got)
	}
	if err := <-done; err != nil {
		t.Errorf("Shutdown: %v", err)
	}
	if c, err := net.Dial("tcp", addr); err == nil {
		c.Close()
		t.Error("the port is still open")
	}
}

// TestServer_Shutdown_Cut: a session that does not end is cut.
func TestServer_Shutdown_Cut(t *testing.T) {
	ended := make(chan error, 1)
	stubborn := handlerFunc(func(ctx context.Context, c *front.Conn) {
		<-ctx.Done()
		c.In.Release()
		ended <- c.In.Fill()
	})
	s, addr := start(t, front.Config{}, stubborn, stubborn, false)
	c, r := greeted(t, addr)
	io.WriteString(c, "NOOP\x00")
	for s.Stats().CMTP == 0 {
		runtime.Gosched()
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if err := s.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Shutdown: %v", err)
	}
	select {
	case err := <-ended:
		if !errors.Is(err, net.ErrClosed) {
			t.Errorf("the handler's conn: %v", err)
		}
	default:
		t.Error("Shutdown returned before the handler")
	}
	io.ReadAll(r)
}

// TestServer_Panic: one session's bug is not the others' end.
func TestServer_Panic(t *testing.T) {
	var log bytes.Buffer
	bug := handlerFunc(func(context.Context, *front.Conn) { panic("a bug") })
	s, addr := start(t, front.Config{Log: slog.New(slog.NewTextHandler(&log, nil))}, bug, echo("cmtp"), false)
	c, r := greeted(t, addr)
	io.WriteString(c, "NOOP\r\n")
	all(t, r)
	c, r = greeted(t, addr)
	io.WriteString(c, "NOOP\x00")
	readLine(t, r)
	c.Close()
	shutdown(t, s)
	if !strings.Contains(log.String(), "a bug") || !strings.Contains(log.String(), "stack=") {
		t.Errorf("logged %q", log.String())
	}
}
