package daemon_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"cmtpd/internal/account"
	"cmtpd/internal/address"
	"cmtpd/internal/client"
	"cmtpd/internal/cmtptest"
	"cmtpd/internal/config"
	"cmtpd/internal/control"
	"cmtpd/internal/crypt"
	"cmtpd/internal/daemon"
	"cmtpd/internal/service"
	"cmtpd/internal/xzibit"
)

// A journal is a log whose lines can be waited for.
type journal struct {
	mu   sync.Mutex
	text strings.Builder // under mu
	more chan struct{}   // under mu: closed and replaced when the text grows
}

func newJournal() *journal { return &journal{more: make(chan struct{})} }

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.text.Write(p)
	close(j.more)
	j.more = make(chan struct{})
	return len(p), nil
}

// line returns the first line behind the text's first from bytes that has all of the words.
func (j *journal) line(t *testing.T, from int, words ...string) string {
	t.Helper()
	patience := time.After(time.Minute)
	for {
		j.mu.Lock()
		text, more := j.text.String()[from:], j.more
		j.mu.Unlock()
		for line := range strings.Lines(text) {
			if hasAll(line, words) {
				return line
			}
		}
		select {
		case <-more:
		case <-patience:
			t.Fatalf("there is no line with %q in\n%s", words, text)
		}
	}
}

func hasAll(line string, words []string) bool {
	for _, w := range words {
		if !strings.Contains(line, w) {
			return false
		}
	}
	return true
}

func (j *journal) all() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}

// grown returns what is closed when there is another line.
func (j *journal) grown() <-chan struct{} {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.more
}

func (j *journal) length() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Len()
}

// A reloaded daemon is one whose configuration the test changes.
type reloaded struct {
	journal *journal
	level   *slog.LevelVar
	addr    string
	stop    func() error

	hup  chan os.Signal
	mu   sync.Mutex
	next *config.Config // under mu
	err  error          // under mu: of the next reading
}

func newReloaded(t *testing.T, cfg *config.Config) *reloaded {
	t.Helper()
	return newReloadedBy(t, cfg, nil)
}

// newReloadedBy is newReloaded under a service manager.
func newReloadedBy(t *testing.T, cfg *config.Config, m *service.Manager) *reloaded {
	t.Helper()
	return newReloadedWith(t, cfg, daemon.Options{Manager: m})
}

// newReloadedWith is newReloaded with options of which it sets those that it needs.
func newReloadedWith(t *testing.T, cfg *config.Config, o daemon.Options) *reloaded {
	t.Helper()
	r := &reloaded{journal: newJournal(), level: new(slog.LevelVar), hup: make(chan os.Signal), next: cfg}
	ready, ended := make(chan []net.Addr, 1), make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	log := slog.New(slog.NewTextHandler(r.journal, &slog.HandlerOptions{Level: r.level}))
	o.Ready, o.Load, o.Reload, o.Level = func(a []net.Addr) { ready <- a }, r.load, r.hup, r.level
	go func() { ended <- daemon.Run(ctx, cfg, log, o) }()
	select {
	case addrs := <-ready:
		r.addr = addrs[0].String()
	case err := <-ended:
		t.Fatal(err)
	}
	r.stop = func() error {
		cancel()
		return <-ended
	}
	t.Cleanup(cancel)
	return r
}

func (r *reloaded) load() (*config.Config, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.next, r.err
}

// give has the daemon reload, and returns what it logged until it was done.
func (r *reloaded) give(t *testing.T, cfg *config.Config, err error) string {
	t.Helper()
	r.mu.Lock()
	r.next, r.err = cfg, err
	r.mu.Unlock()
	from := r.journal.length()
	r.hup <- syscall.SIGHUP
	r.journal.line(t, from, "the configuration was ", "reloaded")
	r.journal.mu.Lock()
	defer r.journal.mu.Unlock()
	return r.journal.text.String()[from:]
}

func parsed(t *testing.T, s string) address.Address {
	t.Helper()
	a, err := address.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// addUser makes an account, with a key of its own.
func addUser(t *testing.T, cfg *config.Config, at string) *crypt.PrivateKey {
	t.Helper()
	key, err := crypt.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := xzibit.Seal(&xzibit.Keyring{Keys: []xzibit.KeyPair{{Key: key}}}, at, []byte("x"), xzibit.Params{Time: 1, MemoryKiB: 8, Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := control.Dial(cfg.ControlSocket()).Add(account.NewRegistration(parsed(t, at), key, time.Now(), sealed)); err != nil {
		t.Fatal(err)
	}
	return key
}

// key asks, on a connection of its own, for the key of a name.
func key(t *testing.T, addr, name, domain string) (string, error) {
	t.Helper()
	c, err := new(client.Dialer).Connect(t.Context(), addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	server, err := c.ServerKey()
	if err != nil {
		t.Fatal(err)
	}
	k, err := c.Key(name, domain, server)
	if err != nil {
		return "", err
	}
	return k.String(), nil
}

// dialogue says something on a connection of its own and returns the first two lines of the answer.
func dialogue(t *testing.T, addr, say string) string {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(time.Minute))
	in := bufio.NewReader(c)
	greeting, err := in.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, say); err != nil {
		t.Fatal(err)
	}
	answer, _ := in.ReadString('\n')
	return greeting + answer
}

func metric(t *testing.T, j *journal, name string) string {
	t.Helper()
	at := strings.TrimPrefix(last(t, j.line(t, 0, "msg=metrics"), "address="), "address=")
	resp, err := http.Get("http://" + at + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	in := bufio.NewScanner(resp.Body)
	for in.Scan() {
		if v, ok := strings.CutPrefix(in.Text(), name+" "); ok {
			return v
		}
	}
	t.Fatalf("there is no metric %s", name)
	return ""
}

func expect(t *testing.T, what, got, want string) {
	t.Helper()
	if !strings.Contains(got, want) {
		t.Errorf("%s: got %q, want %q", what, got, want)
	}
}

// TestRun_Reload: what can change counts for all that begins after a reload, each change has a line, and
// what cannot is named and left as it was.
func TestRun_Reload(t *testing.T) {
	cfg := configuration(t)
	cfg.Metrics.Listen = "127.0.0.1:0"
	d := newReloaded(t, cfg)
	alice := addUser(t, cfg, "alice@example.org").Public().String()
	if _, err := key(t, d.addr, "info", "example.org"); err == nil {
		t.Fatal("there is an alias already")
	}
	expect(t, "SMTP", dialogue(t, d.addr, "QUIT\r\n"), "521 ")
	kept, err := new(client.Dialer).Connect(t.Context(), d.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer kept.Close()

	next := *cfg
	next.Aliases = map[address.Address]address.Address{parsed(t, "info@example.org"): parsed(t, "alice@example.org")}
	next.Postmaster = parsed(t, "alice@example.org")
	next.Log.Level = config.LogDebug
	next.Accounts.PlainLogin = false
	next.SMTP.Mode, next.SMTP.Backend, next.SMTP.ProxyProtocol = config.Relay, cmtptest.NewBackend(t, false).Addr, config.ProxyV1
	next.Domains = append(next.Domains, parsed(t, "a@example.net").Domain)
	said := d.give(t, &next, nil)
	for _, want := range []string{
		`level=INFO msg="a setting has changed" key="aliases.\"info@example.org\"" old="" new=alice@example.org`,
		`level=INFO msg="a setting has changed" key=smtp.mode old=refuse new=relay`,
		`level=INFO msg="a setting has changed" key=log.level old=info new=debug`,
		`level=WARN msg="a setting has changed in the file, and waits for a restart" key=domains old=example.org new="example.org, example.net"`,
		`msg="the configuration was reloaded" changed=7 waiting_for_restart=1`,
	} {
		expect(t, "the log", said, want)
	}
	for _, name := range []string{"info", "postmaster"} {
		if k, err := key(t, d.addr, name, "example.org"); k != alice {
			t.Errorf("the key of %s is %s, %v", name, k, err)
		}
	}
	if _, err := key(t, d.addr, "alice", "example.net"); err == nil {
		t.Error("a domain that waits for a restart is served")
	}
	expect(t, "SMTP", dialogue(t, d.addr, "QUIT\r\n"), "221 2.0.0 bye")
	expect(t, "LOGIN", dialogue(t, d.addr, "LOGIN\x00alice\x00OBAI\x00"), "\r\nFAILURE")
	if d.level.Level() != slog.LevelDebug {
		t.Error("the log's level is what it was")
	}
	expect(t, "cmtpd_config_restart_needed", metric(t, d.journal, "cmtpd_config_restart_needed"), "1")

	d.quietly(t, next)

	// What the same file says again is no change, but for what still waits.
	expect(t, "the log", d.give(t, &next, nil), "changed=0 waiting_for_restart=1")
	if _, err := kept.ServerKey(); err != nil {
		t.Errorf("a session from before the reload: %v", err)
	}
	if err := d.stop(); err != nil {
		t.Error(err)
	}
}

// quietly reloads with another level of the log, and back: what follows is told if either of them tells it.
func (d *reloaded) quietly(t *testing.T, next config.Config) {
	t.Helper()
	quiet := next
	quiet.Log.Level = config.LogError
	expect(t, "the log", d.give(t, &quiet, nil), "key=log.level old=debug new=error")
	d.give(t, &quiet, errors.New("no file")) // which is told when the one before is done
	if d.level.Level() != slog.LevelError {
		t.Error("the log's level is what it was")
	}
	expect(t, "the log", d.give(t, &next, nil), "key=log.level old=error new=debug")
}

// TestRun_Reload_Limits: a limit that shrinks counts for who comes, not for who is there.
func TestRun_Reload_Limits(t *testing.T) {
	cfg := configuration(t)
	d := newReloaded(t, cfg)
	kept, err := new(client.Dialer).Connect(t.Context(), d.addr)
	if err != nil {
		t.Fatal(err)
	}
	next := *cfg
	next.Limits.MaxConnectionsPerAddress = 1
	d.give(t, &next, nil)
	expect(t, "a second connection", dialogue(t, d.addr, ""), "421 4.7.0")
	if _, err := kept.ServerKey(); err != nil {
		t.Errorf("a session from before the reload: %v", err)
	}
	kept.Close()
	next.Limits.MaxConnectionsPerAddress = 2
	d.give(t, &next, nil)
	expect(t, "a connection", dialogue(t, d.addr, "QUIT\r\n"), "521 ")
	if err := d.stop(); err != nil {
		t.Error(err)
	}
}

// TestRun_Reload_Bad: a file with an error changes nothing, whether it is wrong by itself, together with what
// only a restart changes, or for what is out there.
func TestRun_Reload_Bad(t *testing.T) {
	cfg := configuration(t)
	cfg.Metrics.Listen = "127.0.0.1:0"
	d := newReloaded(t, cfg)
	good := *cfg
	good.Log.Level = config.LogDebug
	for name, tt := range map[string]struct {
		change func(*config.Config)
		err    error
		said   []string
	}{
		"wrong": {nil, &config.Error{Problems: []config.Problem{{File: "c.toml", Line: 3, Key: "x", Text: "unknown"}, {File: "c.toml", Line: 4, Key: "y", Text: "unknown"}}},
			[]string{`problem="c.toml:3: x: unknown"`, `problem="c.toml:4: y: unknown"`}},
		"gone": {nil, errors.Join(config.ErrRead, os.ErrNotExist), []string{"reading the configuration"}},
		"wrong until a restart": {func(c *config.Config) {
			c.Domains = []address.Domain{parsed(t, "a@example.net").Domain}
			c.Postmaster = parsed(t, "alice@example.net")
		}, nil, []string{"only a restart takes", "postmaster: alice@example.net is no address"}},
		"open relay": {func(c *config.Config) {
			c.SMTP.Mode, c.SMTP.Backend, c.SMTP.ProxyProtocol = config.Relay, cmtptest.NewBackend(t, true).Addr, config.ProxyV1
		}, nil, []string{"would relay"}},
		"too many files": {func(c *config.Config) { c.Limits.MaxConnections = 1 << 40 }, nil, []string{"limits.max_connections"}},
	} {
		t.Run(name, func(t *testing.T) {
			next := good
			if tt.change != nil {
				tt.change(&next)
			}
			said := d.give(t, &next, tt.err)
			for _, want := range append(tt.said, "level=ERROR msg=\"the configuration was not reloaded") {
				expect(t, "the log", said, want)
			}
			expect(t, "cmtpd_config_reload_failed", metric(t, d.journal, "cmtpd_config_reload_failed"), "1")
			expect(t, "SMTP", dialogue(t, d.addr, "QUIT\r\n"), "521 ")
			if d.level.Level() != slog.LevelInfo {
				t.Error("a part of it is in force")
			}
		})
	}
	d.give(t, &good, nil)
	expect(t, "cmtpd_config_reload_failed", metric(t, d.journal, "cmtpd_config_reload_failed"), "0")
	if err := d.stop(); err != nil {
		t.Error(err)
	}
}

// silence is a mail server that takes connections and says nothing. Each goes to the channel.
func silence(t *testing.T) (address string, asked <-chan net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", cmtptest.Loopback()+":0")
	if err != nil {
		t.Fatal(err)
	}
	came := make(chan net.Conn, 16)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { c.Close() })
			came <- c
		}
	}()
	t.Cleanup(func() { l.Close() })
	return l.Addr().String(), came
}

// behind returns a configuration with a mail server behind it.
func behind(cfg *config.Config, backend string, proxy config.ProxyProtocol) *config.Config {
	next := *cfg
	next.SMTP.Mode, next.SMTP.Backend, next.SMTP.ProxyProtocol = config.Relay, backend, proxy
	return &next
}

// TestRun_Reload_Unanswered: a mail server behind that is away, is silent, or expects another header takes nobody's place: what is
// in force goes on to serve. With relay_check = "warn" it is taken, and so is a change of other settings while it is away.
func TestRun_Reload_Unanswered(t *testing.T) {
	silent, _ := silence(t)
	gone, err := net.Listen("tcp", cmtptest.Loopback()+":0")
	if err != nil {
		t.Fatal(err)
	}
	gone.Close()
	good := cmtptest.NewBackend(t, false).Addr // which expects version 1
	cfg := behind(configuration(t), good, config.ProxyV1)
	for name, tt := range map[string]struct {
		backend  string
		proxy    config.ProxyProtocol
		patience time.Duration
		why      string
	}{
		"Away":        {gone.Addr().String(), config.ProxyV1, time.Hour, "connection refused"},
		"Silent":      {silent, config.ProxyV1, 100 * time.Millisecond, "given up after 100ms"},
		"OtherHeader": {good, config.ProxyV2, time.Hour, ""},
	} {
		t.Run(name, func(t *testing.T) {
			d := newReloadedWith(t, cfg, daemon.Options{ReloadPatience: tt.patience})
			expect(t, "SMTP", dialogue(t, d.addr, "NOOP\r\n"), "backend NOOP")
			next := behind(cfg, tt.backend, tt.proxy)
			next.Log.Level = config.LogDebug
			said := d.give(t, next, nil)
			for _, want := range []string{"level=ERROR msg=\"the configuration is wrong\"", "smtp.backend = \\\"" + tt.backend, "smtp.proxy_protocol = \\\"" + string(tt.proxy),
				"does not answer", tt.why, "cmtpd check says", "smtp.relay_check", "the configuration was not reloaded"} {
				expect(t, "the log", said, want)
			}
			if d.level.Level() != slog.LevelInfo {
				t.Error("a part of it is in force")
			}
			expect(t, "SMTP", dialogue(t, d.addr, "NOOP\r\n"), "backend NOOP")
			if err := d.stop(); err != nil {
				t.Error(err)
			}
		})
	}
	d := newReloadedWith(t, cfg, daemon.Options{})
	next := behind(cfg, gone.Addr().String(), config.ProxyV1)
	next.SMTP.RelayCheck = config.WarnBackend
	expect(t, "the log", d.give(t, next, nil), "msg=\"the configuration was reloaded\"")
	expect(t, "SMTP", dialogue(t, d.addr, "NOOP\r\n"), "\r\n421 ")

	later := *next
	later.SMTP.RelayCheck, later.SMTP.IdleTimeout = config.RefuseBackend, 2*next.SMTP.IdleTimeout
	said := d.give(t, &later, nil)
	expect(t, "the log", said, "level=ERROR msg=\"the mail server behind cannot be asked")
	expect(t, "the log", said, "msg=\"the configuration was reloaded\"")
	expect(t, "SMTP", dialogue(t, d.addr, "NOOP\r\n"), "\r\n421 ")
	if err := d.stop(); err != nil {
		t.Error(err)
	}
}

// TestRun_Reload_Again: a reload that asks a silent mail server gives way to the next, and to a stop.
func TestRun_Reload_Again(t *testing.T) {
	silent, asked := silence(t)
	cfg := configuration(t)
	d := newReloadedWith(t, cfg, daemon.Options{ReloadPatience: time.Hour})
	wrong := func() {
		d.mu.Lock()
		d.next = behind(cfg, silent, config.ProxyV1)
		d.next.SMTP.ConnectTimeout = time.Hour
		d.mu.Unlock()
		d.hup <- syscall.SIGHUP
		<-asked
	}
	wrong()
	said := d.give(t, behind(cfg, cmtptest.NewBackend(t, false).Addr, config.ProxyV1), nil)
	expect(t, "the log", said, "level=INFO msg=\"a reload is given up: another was asked for, or a stop\"")
	expect(t, "the log", said, "msg=\"the configuration was reloaded\"")
	if strings.Contains(said, "level=ERROR") {
		t.Errorf("logged %s", said)
	}
	expect(t, "SMTP", dialogue(t, d.addr, "NOOP\r\n"), "backend NOOP")
	wrong()
	if err := d.stop(); err != nil {
		t.Error(err)
	}
	if strings.Contains(d.journal.all(), "was not reloaded") {
		t.Errorf("logged %s", d.journal.all())
	}
}
