package daemon_test

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"cmtpd/internal/cmtptest"
	"cmtpd/internal/config"
	"cmtpd/internal/durable"
	"cmtpd/internal/keyfile"
)

// A watched daemon has a listener for who watches.
type watched struct {
	addrs []net.Addr
	base  string // URL, without a path
	log   *syncLog
	stop  func() error
}

// syncLog is a log that is read while it is written.
type syncLog struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *syncLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *syncLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func watch(t *testing.T, edit func(*config.Config)) *watched {
	t.Helper()
	cfg := configuration(t)
	cfg.Metrics.Listen = cmtptest.Loopback() + ":0"
	if edit != nil {
		edit(cfg)
	}
	w := &watched{log: new(syncLog)}
	w.addrs, w.stop = run(t, cfg, slog.New(slog.NewTextHandler(w.log, nil)))
	_, behind, _ := strings.Cut(w.log.String(), "msg=metrics address=")
	w.base = "http://" + strings.Fields(behind)[0]
	return w
}

// ask returns the status and the body of an answer.
func (w *watched) ask(t *testing.T, method, path, host string) (int, string, http.Header) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, w.base+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = host
	answer, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	b, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, string(b), answer.Header
}

// until asks until the answer is wanted: a daemon says that it serves a moment before it does.
func (w *watched) until(t *testing.T, path string, code int, words string) {
	t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		got, body, _ := w.ask(t, "GET", path, "")
		if got == code && strings.Contains(body, words) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s is answered %d, %q", path, got, body)
		}
	}
}

// Ready is who can take mail: not without room for it.
func TestReady_LowDisk(t *testing.T) {
	const most = 1 << 40 // that may be asked for
	if free, err := durable.FreeSpace(t.TempDir()); err != nil || free > most {
		t.Skip("this machine has more room than can be asked for: ", free, err)
	}
	full := watch(t, func(c *config.Config) { c.Limits.MinFreeSpace = most })
	full.until(t, "/readyz", 503, "low disk: ")
	if code, body, _ := full.ask(t, "GET", "/", ""); code != 200 || !strings.Contains(body, `<h1 class="bad">low disk</h1>`) {
		t.Errorf("the page is answered %d, %s", code, body)
	}
	if err := full.stop(); err != nil {
		t.Error(err)
	}
}

// While the mail server behind is away CMTP is served, and who watches is told that SMTP is not.
func TestReady_SMTPWaits(t *testing.T) {
	l, err := net.Listen("tcp", net.JoinHostPort(cmtptest.Loopback(), "0"))
	if err != nil {
		t.Fatal(err)
	}
	backend := l.Addr().String()
	l.Close()
	w := watch(t, func(c *config.Config) {
		c.SMTP.Mode, c.SMTP.Backend, c.SMTP.ProxyProtocol, c.SMTP.RelayCheck = config.Relay, backend, config.ProxyV1, config.WarnBackend
	})
	defer w.stop()
	w.until(t, "/readyz", 200, "ready: ") // it may front what it cannot ask
	visit := func() {
		c, err := net.Dial("tcp", w.addrs[0].String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		io.WriteString(c, "QUIT\r\n")
		io.Copy(io.Discard, c)
	}
	visit()
	w.until(t, "/readyz", 200, "SMTP waits: CMTP is served.")
	w.until(t, "/", 200, `<h1 class="fair">SMTP waits</h1>`)
	cmtptest.NewBackendAt(t, backend, false)
	visit()
	w.until(t, "/readyz", 200, "ready: ")
}

// So it is with one that greets and goes.
func TestReady_SMTPWaits_Gone(t *testing.T) {
	l, err := net.Listen("tcp", net.JoinHostPort(cmtptest.Loopback(), "0"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			io.WriteString(c, "220 mail.example\r\n")
			in := bufio.NewReader(c)
			in.ReadString('\n') // the header
			in.ReadString('\n')
			c.Close()
		}
	}()
	w := watch(t, func(c *config.Config) {
		c.SMTP.Mode, c.SMTP.Backend, c.SMTP.ProxyProtocol, c.SMTP.RelayCheck = config.Relay, l.Addr().String(), config.ProxyV1, config.WarnBackend
	})
	defer w.stop()
	w.until(t, "/readyz", 200, "ready: ")
	c, err := net.Dial("tcp", w.addrs[0].String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, "EHLO client.example\r\n")
	if heard, err := io.ReadAll(c); err != nil || !strings.Contains(string(heard), "\r\n421 4.3.2 ") {
		t.Errorf("the client heard %q, %v", heard, err)
	}
	w.until(t, "/readyz", 200, "SMTP waits: CMTP is served.")
	if _, body, _ := w.ask(t, "GET", "/metrics", ""); !strings.Contains(body, `cmtpd_sessions_total{outcome="unavailable",protocol="smtp"} 1`) {
		t.Error("it is not counted as unavailable")
	}
}

// Who was asked to stop is not ready, though it is alive.
func TestReady_Stopping(t *testing.T) {
	w := watch(t, nil)
	w.until(t, "/readyz", 200, "ready: ")
	c, err := net.Dial("tcp", w.addrs[0].String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, "NOOP\x00MAIL\x00") // and no more of it: the session is not over
	if _, err := io.ReadFull(c, make([]byte, len("220 example.org ESMTP CMTP ready\r\nCMTP"))); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- w.stop() }()
	w.until(t, "/readyz", 503, "stopping: ")
	w.until(t, "/healthz", 200, "ok")
	w.until(t, "/", 200, `<h1 class="bad">stopping</h1>`)
	c.Close()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// Nothing can be changed or made from here, and a name of somebody else's leads nowhere.
func TestWatchers(t *testing.T) {
	w := watch(t, func(c *config.Config) { c.Hostname = c.Domains[0] })
	defer w.stop()
	w.until(t, "/readyz", 200, "ready: ")
	for host, want := range map[string]int{
		"": 200, "localhost": 200, "LOCALHOST.:9125": 200, "127.0.0.1:1": 200, "[::1]": 200, "[::1]:9125": 200, "192.0.2.1": 200, "example.org:9125": 200,
		"evil.example": 421, "localhost.evil.example:9125": 421, "127.0.0.1.evil.example": 421, "www.example.org": 421,
	} {
		for _, path := range []string{"/", "/metrics", "/healthz", "/readyz"} {
			code, _, header := w.ask(t, "GET", path, host)
			if code != want || code == 200 && (header.Get("X-Content-Type-Options") != "nosniff" || header.Get("Cross-Origin-Resource-Policy") != "same-origin") {
				t.Errorf("%s of %q: %d, want %d; %v", path, host, code, want, header)
			}
		}
	}
	for _, path := range []string{"/", "/metrics", "/healthz", "/readyz"} {
		if code, _, _ := w.ask(t, "POST", path, ""); code != 405 {
			t.Errorf("POST %s: %d", path, code)
		}
	}
	if code, _, _ := w.ask(t, "GET", "/debug/pprof/", ""); code != 404 {
		t.Errorf("another path: %d", code)
	}
	code, body, header := w.ask(t, "GET", "/", "")
	if code != 200 || !strings.HasPrefix(header.Get("Content-Security-Policy"), "default-src 'none'; ") {
		t.Errorf("%d, %v", code, header)
	}
	for _, want := range []string{"<h1 class=\"good\">ready</h1>", "example.org", "Fingerprint", "Connections now", "None since the start."} {
		if !strings.Contains(body, want) {
			t.Errorf("the page has no %q:\n%s", want, body)
		}
	}
}

// For who looks at the page no secret key is read: what it says of the former ones is what was read at the start.
func TestWatchers_NoKeys(t *testing.T) {
	var path string
	w := watch(t, func(c *config.Config) {
		path = c.KeyFile()
		if err := os.MkdirAll(c.DataDir, 0o700); err != nil {
			t.Fatal(err)
		}
		k, _, err := keyfile.LoadOrCreate(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path, keyfile.FormerPath(path, k.Public())); err != nil {
			t.Fatal(err)
		}
	})
	defer w.stop()
	for _, damage := range []bool{false, true} {
		if damage {
			all, err := filepath.Glob(path + "*")
			if err != nil || len(all) != 2 {
				t.Fatal(all, err)
			}
			for _, file := range all {
				if err := os.WriteFile(file, nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}
		if _, body, _ := w.ask(t, "GET", "/", ""); !strings.Contains(body, `Former keys</th><td><span class="">1<`) {
			t.Errorf("damage %v: it shows\n%s", damage, body)
		}
	}
}

// Who watches has 16 connections. One more ends the one that has asked nothing for the longest, and not the one that is
// being answered.
func TestWatchers_Cap(t *testing.T) {
	w := watch(t, nil)
	defer w.stop()
	w.until(t, "/readyz", 200, "ready: ")
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	var all []net.Conn
	come := func() {
		t.Helper()
		c, err := net.Dial("tcp", strings.TrimPrefix(w.base, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		c.SetDeadline(time.Now().Add(time.Minute))
		all = append(all, c)
	}
	asks := func(c net.Conn) {
		t.Helper()
		io.WriteString(c, "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
		answer, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, answer.Body)
	}
	for range 16 {
		come()
		asks(all[len(all)-1])
	}
	asks(all[0])
	for range 2 { // in silence
		come()
	}
	for _, c := range all[1:3] {
		if n, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("one of those that are silent for the longest has %d bytes, %v", n, err)
		}
	}
	w.until(t, "/healthz", 200, "ok")
	for _, c := range append(all[4:16], all[0]) {
		asks(c)
	}
}
