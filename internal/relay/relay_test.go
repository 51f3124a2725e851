package relay_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"cmtpd/internal/config"
	"cmtpd/internal/netbuf"
	"cmtpd/internal/relay"
)

// A backend is a mail server that the test plays.
type backend struct {
	*net.TCPListener
	t *testing.T
}

func newBackend(t *testing.T) *backend {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return &backend{l.(*net.TCPListener), t}
}

// accept returns the next session's connection.
func (b *backend) accept() *net.TCPConn {
	b.t.Helper()
	b.SetDeadline(time.Now().Add(10 * time.Second))
	c, err := b.AcceptTCP()
	if err != nil {
		b.t.Fatal(err)
	}
	return limit(b.t, c)
}

func limit(t *testing.T, c *net.TCPConn) *net.TCPConn {
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return c
}

// wrapped is a conn that no loop can take, so that it is pumped.
type wrapped struct{ net.Conn }

func (w wrapped) CloseWrite() error { return w.Conn.(*net.TCPConn).CloseWrite() }

// A served session runs in r.Serve; its client end is the test's.
type served struct {
	*net.TCPConn
	done chan struct{}
}

// serve starts a session in which first has been read already.
func serve(ctx context.Context, t *testing.T, r *relay.Relay, wrap bool, first string) served {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	nc, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if wrap {
		nc = wrapped{nc}
	}
	c := &netbuf.Conn{Conn: nc, In: netbuf.NewReader(nc), ID: "TEST",
		Client: netip.MustParseAddrPort("192.0.2.7:1000"), Local: netip.MustParseAddrPort("198.51.100.1:25")}
	io.WriteString(client, first)
	for len(c.In.Buffered()) < len(first) {
		if err := c.In.Fill(); err != nil {
			t.Fatal(err)
		}
	}
	s := served{limit(t, client.(*net.TCPConn)), make(chan struct{})}
	go func() {
		defer close(s.done)
		r.Serve(ctx, c)
		c.In.Release()
		nc.Close()
	}()
	t.Cleanup(func() { client.Close(); <-s.done })
	return s
}

func readAll(t *testing.T, r io.Reader) string {
	t.Helper()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatalf("after %.60q: %v", b, err)
	}
	return string(b)
}

func expect(t *testing.T, r io.Reader, want string) {
	t.Helper()
	b := make([]byte, len(want))
	if n, err := io.ReadFull(r, b); err != nil || string(b) != want {
		t.Fatalf("read %q, %v, want %q", b[:n], err, want)
	}
}

// bothWays runs f for a session in a loop and for one that is pumped.
func bothWays(t *testing.T, f func(t *testing.T, b *backend, cfg relay.Config, wrap bool)) {
	for _, wrap := range []bool{false, true} {
		name := "loop"
		if wrap {
			name = "pump"
		}
		t.Run(name, func(t *testing.T) {
			b := newBackend(t)
			f(t, b, relay.Config{Hostname: "mail.example", Backend: b.Addr().String(), Proxy: config.ProxyNone}, wrap)
		})
	}
}

// TestRelay_Serve: the backend hears nothing before the last line of its
// greeting, then every byte once, and its own bytes reach the client.
func TestRelay_Serve(t *testing.T) {
	bothWays(t, func(t *testing.T, b *backend, cfg relay.Config, wrap bool) {
		r := relay.New(cfg)
		const first = "EHLO client\r\nMAIL FROM:<>\r\nRC"
		s := serve(context.Background(), t, r, wrap, first)
		m := b.accept()
		io.WriteString(m, "220-mail.example\r\n220-not")
		io.WriteString(m, "hing\r\n")
		m.SetReadDeadline(time.Now().Add(30 * time.Millisecond))
		if n, err := m.Read(make([]byte, 1)); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("before the greeting's end the backend read %d bytes, %v", n, err)
		}
		m.SetReadDeadline(time.Now().Add(10 * time.Second))
		io.WriteString(m, "220 ready\r\nand more in one segment")
		expect(t, m, first)
		expect(t, s, "and more in one segment")
		io.WriteString(m, "250-mail.example\r\n250 STARTTLS\r\n")
		expect(t, s, "250-mail.example\r\n250 STARTTLS\r\n")
		for _, c := range "PT TO:<a@b>\r\n" {
			io.WriteString(s, string(c))
		}
		expect(t, m, "PT TO:<a@b>\r\n")
		io.WriteString(m, "221 bye\r\n")
		m.Close()
		if got := readAll(t, s); got != "221 bye\r\n" {
			t.Errorf("at the end the client read %q", got)
		}
		s.Close()
		<-s.done
		if st := r.Stats(); st.Passed != 1 || st.Open != 0 || st.TimedOut != 0 {
			t.Errorf("counted %+v", st)
		}
	})
}

// TestRelay_Serve_HalfClose: either side may say its last first.
func TestRelay_Serve_HalfClose(t *testing.T) {
	bothWays(t, func(t *testing.T, b *backend, cfg relay.Config, wrap bool) {
		r := relay.New(cfg)
		for _, clientFirst := range []bool{true, false} {
			s := serve(context.Background(), t, r, wrap, "QUIT\r\n")
			m := b.accept()
			io.WriteString(m, "220 ready\r\n")
			expect(t, m, "QUIT\r\n")
			first, second := m, s.TCPConn
			if clientFirst {
				first, second = second, first
			}
			io.WriteString(first, "last words")
			first.CloseWrite()
			if got := readAll(t, second); got != "last words" {
				t.Fatalf("read %q", got)
			}
			io.WriteString(second, "and mine")
			second.CloseWrite()
			if got := readAll(t, first); got != "and mine" {
				t.Fatalf("read %q", got)
			}
			<-s.done
		}
	})
}

// TestRelay_Serve_Bulk sends much both ways at once, in pieces of many sizes, to
// readers that pause: buffers fill, splicing begins and ends, nothing is lost.
func TestRelay_Serve_Bulk(t *testing.T) {
	bothWays(t, func(t *testing.T, b *backend, cfg relay.Config, wrap bool) {
		r := relay.New(cfg)
		var all sync.WaitGroup
		for range 4 {
			s := serve(context.Background(), t, r, wrap, "BDAT 1\r\n")
			m := b.accept()
			io.WriteString(m, "220 ready\r\n")
			expect(t, m, "BDAT 1\r\n")
			for i, ends := range [][2]*net.TCPConn{{s.TCPConn, m}, {m, s.TCPConn}} {
				sum := make(chan [32]byte, 1)
				all.Go(func() { sum <- sendMuch(ends[0], uint64(i), 12<<20) })
				all.Go(func() {
					got := sha256.New()
					slow(got, ends[1])
					if want := <-sum; !bytes.Equal(got.Sum(nil), want[:]) {
						t.Errorf("direction %d: other bytes arrived than were sent", i)
					}
				})
			}
		}
		all.Wait()
	})
}

// sendMuch writes about n pseudo-random bytes in small and large pieces, then
// half-closes, and returns their digest.
func sendMuch(c *net.TCPConn, seed uint64, n int) (sum [32]byte) {
	rnd := rand.New(rand.NewPCG(seed, 1))
	h := sha256.New()
	piece := make([]byte, 1<<20)
	for sent := 0; sent < n; {
		size := 1 + rnd.IntN(100)
		if rnd.IntN(3) > 0 {
			size = 1 + rnd.IntN(len(piece))
		}
		for i := 0; i < size; i += 997 {
			piece[i] = byte(rnd.Uint32())
		}
		h.Write(piece[:size])
		c.Write(piece[:size])
		sent += size
	}
	c.CloseWrite()
	h.Sum(sum[:0])
	return sum
}

// slow copies and yields now and then.
func slow(w io.Writer, r io.Reader) {
	buf := make([]byte, 200_000)
	for {
		n, err := r.Read(buf)
		w.Write(buf[:n])
		if err != nil {
			return
		}
		if n == len(buf) {
			runtime.Gosched()
		}
	}
}

// TestRelay_Serve_Reset: when one side is gone, so is the other.
func TestRelay_Serve_Reset(t *testing.T) {
	bothWays(t, func(t *testing.T, b *backend, cfg relay.Config, wrap bool) {
		r := relay.New(cfg)
		for _, clientGone := range []bool{true, false} {
			s := serve(context.Background(), t, r, wrap, "DATA\r\n")
			m := b.accept()
			io.WriteString(m, "220 ready\r\n")
			expect(t, m, "DATA\r\n")
			gone, left := m, s.TCPConn
			if clientGone {
				gone, left = left, gone
			}
			gone.SetLinger(0)
			gone.Close()
			if _, err := io.ReadAll(left); errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatal("the other side was not told")
			}
			<-s.done
		}
		if st := r.Stats(); st.TimedOut != 0 || st.Open != 0 {
			t.Errorf("counted %+v", st)
		}
	})
}

const unavailable = "421 4.3.2 mail.example has no mail server at present, try again later\r\n"

// TestRelay_Serve_NoBackend: what the client hears when there is no session to
// be had, as the answer to its first command, and then the end.
func TestRelay_Serve_NoBackend(t *testing.T) {
	for _, tt := range []struct{ name, greeting, want string }{
		{"421", "421 4.3.2 later\r\n", "421 4.3.2 later\r\n"},
		{"554 in two lines", "554-no\r\n554 not you\r\n", "554-no\r\n554 not you\r\n"},
		{"silence", "", unavailable},
		{"no end of line", "220 ready", unavailable},
		{"no last line", "220-ready\r\n", unavailable},
		{"endless line", "220 " + strings.Repeat("a", 1025), unavailable},
		{"endless lines", strings.Repeat("220-a\r\n", 1000), unavailable},
		{"two codes", "220-a\r\n554 b\r\n", unavailable},
		{"another protocol", "SSH-2.0-server\r\n", unavailable},
		{"bare LF", "220 ready\n", unavailable},
		{"not a greeting", "250 ok\r\n", unavailable},
		{"Exim, which expects no header", "554 SMTP synchronization error\r\n", unavailable},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBackend(t)
			r := relay.New(relay.Config{Hostname: "mail.example", Backend: b.Addr().String(), Proxy: config.ProxyNone, ConnectTimeout: 100 * time.Millisecond})
			s := serve(context.Background(), t, r, false, "EHLO a\r\nMAIL FROM:<>\r\n")
			m := b.accept()
			io.WriteString(m, tt.greeting)
			got := readAll(t, s)
			if got != tt.want {
				t.Errorf("the client heard %q", got)
			}
			s.Close()
			<-s.done
			st := r.Stats()
			if down := tt.want == unavailable; down != (st.Unavailable == 1) || down == (st.Refused == 1) || st.Passed != 0 {
				t.Errorf("counted %+v", st)
			}
		})
	}
}

func TestRelay_Serve_BackendDown(t *testing.T) {
	b := newBackend(t)
	b.Close()
	r := relay.New(relay.Config{Hostname: "mail.example", Backend: b.Addr().String(), Proxy: config.ProxyNone})
	s := serve(context.Background(), t, r, false, "EHLO a\r\n")
	if got := readAll(t, s); got != unavailable {
		t.Errorf("the client heard %q", got)
	}
}

// TestRelay_Serve_BackendByName: a backend may have a name.
func TestRelay_Serve_BackendByName(t *testing.T) {
	b := newBackend(t)
	_, port, _ := net.SplitHostPort(b.Addr().String())
	r := relay.New(relay.Config{Backend: "localhost:" + port, Proxy: config.ProxyNone})
	s := serve(context.Background(), t, r, false, "QUIT\r\n")
	m := b.accept()
	io.WriteString(m, "220 ready\r\n")
	expect(t, m, "QUIT\r\n")
	m.Close()
	readAll(t, s)
}

// TestRelay_Serve_Proxy: the header is the first that the backend reads, and has
// the client's own address.
func TestRelay_Serve_Proxy(t *testing.T) {
	for version, want := range map[config.ProxyProtocol]string{
		config.ProxyV1: "PROXY TCP4 192.0.2.7 198.51.100.1 1000 25\r\n",
		config.ProxyV2: "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\xc0\x00\x02\x07\xc6\x33\x64\x01\x03\xe8\x00\x19",
	} {
		b := newBackend(t)
		r := relay.New(relay.Config{Backend: b.Addr().String(), Proxy: version})
		s := serve(context.Background(), t, r, false, "QUIT\r\n")
		m := b.accept()
		expect(t, m, want)
		io.WriteString(m, "220 ready\r\n")
		expect(t, m, "QUIT\r\n")
		m.Close()
		readAll(t, s)
	}
}

// TestRelay_Serve_NoAddress: a client without an address is not passed on, since
// the backend would take it for this host. The backend does not even hear of it.
func TestRelay_Serve_NoAddress(t *testing.T) {
	somebody := netip.MustParseAddrPort("192.0.2.1:1000")
	for _, p := range []config.ProxyProtocol{config.ProxyV1, config.ProxyV2, ""} {
		for name, known := range map[string]struct{ client, local netip.AddrPort }{
			"either": {}, "client": {local: somebody}, "local": {client: somebody},
		} {
			t.Run(string(p)+" without "+name, func(t *testing.T) {
				b := newBackend(t)
				r := relay.New(relay.Config{Hostname: "mail.example", Backend: b.Addr().String(), Proxy: p, ConnectTimeout: time.Second})
				ours, theirs := net.Pipe()
				go func() {
					r.Serve(context.Background(), &netbuf.Conn{Conn: ours, In: netbuf.NewReader(ours), Client: known.client, Local: known.local})
					ours.Close()
				}()
				if got := readAll(t, theirs); got != unavailable {
					t.Errorf("the client heard %q", got)
				}
				b.SetDeadline(time.Now().Add(50 * time.Millisecond)) // who has connected waits in the queue by now
				if _, err := b.Accept(); !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("the backend was called: %v", err)
				}
			})
		}
	}
}

// TestRelay_Serve_Timeouts: a session that does nothing, or lasts too long, or
// whose server is stopped, is cut on both sides.
func TestRelay_Serve_Timeouts(t *testing.T) {
	bothWays(t, func(t *testing.T, b *backend, cfg relay.Config, wrap bool) {
		idle, long := cfg, cfg
		idle.IdleTimeout = 30 * time.Millisecond
		long.SessionTimeout = 60 * time.Millisecond
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		for _, tt := range []struct {
			name     string
			cfg      relay.Config
			ctx      context.Context
			busy     bool
			timedOut uint64
		}{
			{"idle", idle, context.Background(), false, 1},
			{"long", long, context.Background(), true, 1},
			{"stopped", cfg, ctx, false, 0},
		} {
			t.Run(tt.name, func(t *testing.T) {
				var ended relay.End
				tt.cfg.Ended = func(e relay.End) { ended = e }
				r := relay.New(tt.cfg)
				s := serve(tt.ctx, t, r, wrap, "NOOP\r\n")
				m := b.accept()
				io.WriteString(m, "220 ready\r\n")
				expect(t, m, "NOOP\r\n")
				if tt.busy {
					go func() {
						for {
							if _, err := m.Write([]byte("250 ok\r\n")); err != nil {
								return
							}
						}
					}()
				} else if tt.timedOut == 0 {
					cancel()
				}
				if _, err := io.Copy(io.Discard, s); errors.Is(err, os.ErrDeadlineExceeded) {
					t.Error("the client was not told")
				}
				<-s.done
				if st := r.Stats(); st.TimedOut != tt.timedOut {
					t.Errorf("counted %+v", st)
				}
				if ended.Outcome != relay.Outcome(tt.name) || ended.Up != 6 || ended.Took <= 0 {
					t.Errorf("ended with %+v", ended)
				}
			})
		}
	})
}

// TestRelay_Serve_NotIdle: bytes in one direction alone keep a session alive.
func TestRelay_Serve_NotIdle(t *testing.T) {
	bothWays(t, func(t *testing.T, b *backend, cfg relay.Config, wrap bool) {
		cfg.IdleTimeout = 200 * time.Millisecond
		r := relay.New(cfg)
		s := serve(context.Background(), t, r, wrap, "NOOP\r\n")
		m := b.accept()
		io.WriteString(m, "220 ready\r\n")
		expect(t, m, "NOOP\r\n")
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for range 30 {
			<-tick.C
			io.WriteString(m, "x")
			expect(t, s, "x")
		}
		s.Close()
		m.Close()
		<-s.done
		if st := r.Stats(); st.TimedOut != 0 {
			t.Errorf("counted %+v", st)
		}
	})
}

// TestRelay_Serve_Leaks: after many sessions no descriptor and no goroutine is left.
func TestRelay_Serve_Leaks(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("counts in /proc")
	}
	b := newBackend(t)
	go func() {
		for {
			m, err := b.Accept()
			if err != nil {
				return
			}
			io.WriteString(m, "220 ready\r\n")
			go func() { io.Copy(m, m); m.Close() }()
		}
	}()
	r := relay.New(relay.Config{Backend: b.Addr().String(), Proxy: config.ProxyNone})
	session := func() {
		s := serve(context.Background(), t, r, false, "NOOP\r\n")
		expect(t, s, "NOOP\r\n")
		payload := bytes.Repeat([]byte("x"), 2<<20)
		go func() { s.Write(payload); s.CloseWrite() }()
		if got := readAll(t, s); got != string(payload) {
			t.Errorf("%d bytes came back", len(got))
		}
		s.Close()
		<-s.done
	}
	session()
	files, goroutines := openFiles(t), runtime.NumGoroutine()
	var all sync.WaitGroup
	for range 20 {
		all.Go(session)
	}
	all.Wait()
	// A loop may keep some pipes, and the echo's end may come a little later.
	deadline := time.Now().Add(5 * time.Second)
	for openFiles(t) > files+2*16 || runtime.NumGoroutine() > goroutines+2 {
		if time.Now().After(deadline) {
			t.Fatalf("%d files and %d goroutines, before it were %d and %d", openFiles(t), runtime.NumGoroutine(), files, goroutines)
		}
		runtime.Gosched()
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	d, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(d)
}

func TestRefuse_Serve(t *testing.T) {
	ours, theirs := net.Pipe()
	go func() {
		relay.Refuse{Hostname: "mail.example"}.Serve(context.Background(), &netbuf.Conn{Conn: ours, In: netbuf.NewReader(ours)})
		ours.Close()
	}()
	if got := readAll(t, theirs); !strings.HasPrefix(got, "521 5.3.2 mail.example ") || !strings.HasSuffix(got, "\r\n") {
		t.Errorf("the client heard %q", got)
	}
}

// FuzzParseReply: how a reply arrives never matters, a reply is whole lines of
// one code within the bounds, and memory is what the reply takes.
func FuzzParseReply(f *testing.F) {
	const corpus = "testdata/fuzz/FuzzParseReply"
	if seeds, err := os.ReadDir(corpus); err != nil || len(seeds) == 0 {
		f.Fatalf("no seeds in %s (%v)", corpus, err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		b = b[:min(len(b), 2*netbuf.Size)]
		n, code, err := relay.ParseReply(b)
		for i := range b {
			pn, pcode, perr := relay.ParseReply(b[:i])
			if pn > 0 && (pn != n || pcode != code) || perr != nil && err == nil {
				t.Fatalf("%d, %d, %v of %d bytes; %d, %d, %v of all", pn, pcode, perr, i, n, code, err)
			}
		}
		if err != nil || n == 0 {
			if n == 0 && err == nil && len(b) >= netbuf.Size {
				t.Fatal("waits for more than the bound")
			}
			return
		}
		lines := bufio.NewScanner(bytes.NewReader(b[:n]))
		last := ""
		for lines.Scan() {
			if last = lines.Text(); last[:3] != string(b[:3]) {
				t.Fatalf("line %q in a reply of %s", last, b[:3])
			}
		}
		if n > netbuf.Size || len(last) > 3 && last[3] != ' ' {
			t.Fatalf("a reply of %d bytes ends with %q", n, last)
		}
	})
}
