package daemon_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"cmtpd/internal/account"
	"cmtpd/internal/address"
	"cmtpd/internal/config"
	"cmtpd/internal/control"
	"cmtpd/internal/crypt"
	"cmtpd/internal/daemon"
	"cmtpd/internal/durable"
	"cmtpd/internal/service"
	"cmtpd/internal/xzibit"
)

// What a built cmtpd does is tested in cmd/cmtpd; here is what a process cannot
// show: that Run leaves nothing behind in its own.

func configuration(t *testing.T) *config.Config {
	t.Helper()
	domain, err := address.ParseDomain("example.org")
	if err != nil {
		t.Fatal(err)
	}
	cfg := config.Default()
	cfg.Hostname, cfg.Domains, cfg.DataDir = domain, []address.Domain{domain}, filepath.Join(t.TempDir(), "data")
	cfg.Listen.Addresses, cfg.Limits.MaxConnections, cfg.Limits.MinFreeSpace = []string{"127.0.0.1:0"}, 100, config.MiB
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	return cfg
}

// run runs a daemon until it serves, and then until stop is called.
func run(t *testing.T, cfg *config.Config, log *slog.Logger) (addrs []net.Addr, stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ready, ended := make(chan []net.Addr, 1), make(chan error, 1)
	go func() { ended <- daemon.Run(ctx, cfg, log, daemon.Options{Ready: func(a []net.Addr) { ready <- a }}) }()
	select {
	case addrs = <-ready:
	case err := <-ended:
		t.Fatal(err)
	case <-time.After(time.Minute):
		t.Fatal("it is not ready")
	}
	return addrs, func() error {
		cancel()
		return <-ended
	}
}

// free fails unless a daemon could take the data and the port.
func free(t *testing.T, cfg *config.Config, addr string) {
	t.Helper()
	lock, err := durable.OS.Lock(cfg.LockFile())
	if err != nil {
		t.Fatalf("the data: %v", err)
	}
	lock.Close()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatalf("the port: %v", err)
	}
	l.Close()
}

// TestRun: it listens when it says so, and a stop gives all of it back.
func TestRun(t *testing.T) {
	cfg := configuration(t)
	var head string
	for i := range 2 {
		var log bytes.Buffer
		addrs, stop := run(t, cfg, slog.New(slog.NewTextHandler(&log, nil)))
		c, err := net.Dial("tcp", addrs[0].String())
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		if _, err := durable.OS.Lock(cfg.LockFile()); !errors.Is(err, durable.ErrLocked) {
			t.Fatalf("while it runs the data can be locked: %v", err)
		}
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		free(t, cfg, addrs[0].String())
		if i == 0 {
			head = last(t, log.String(), "hash=")
		} else if again := last(t, log.String(), "hash="); again != head {
			t.Errorf("the spool's head was %s and is %s", head, again)
		}
	}
}

// last returns the word behind the last key in a log.
func last(t *testing.T, log, key string) string {
	t.Helper()
	i := strings.LastIndex(log, key)
	if i < 0 {
		t.Fatalf("there is no %s in\n%s", key, log)
	}
	return strings.Fields(log[i:])[0]
}

// TestRun_PortTaken: what fails to start leaves neither a lock nor a listener, the
// other port's included, and was never ready.
func TestRun_PortTaken(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	other, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	other.Close()
	cfg := configuration(t)
	for _, where := range []string{"listen", "metrics"} {
		t.Run(where, func(t *testing.T) {
			cfg := *cfg
			cfg.Listen.Addresses = []string{other.Addr().String()}
			if where == "metrics" {
				cfg.Metrics.Listen = taken.Addr().String()
			} else {
				cfg.Listen.Addresses = append(cfg.Listen.Addresses, taken.Addr().String())
			}
			err := daemon.Run(t.Context(), &cfg, slog.New(slog.DiscardHandler), daemon.Options{Ready: func([]net.Addr) { t.Error("ready") }})
			if !errors.Is(err, syscall.EADDRINUSE) {
				t.Fatalf("got %v", err)
			}
			free(t, &cfg, other.Addr().String())
		})
	}
}

// Whoever asks on the socket, an address of another domain, or an alias, becomes no user and is not invited.
func TestRun_ForeignUsers(t *testing.T) {
	cfg := configuration(t)
	parse := func(s string) address.Address {
		a, err := address.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	cfg.Aliases = map[address.Address]address.Address{parse("info@example.org"): parse("alice@example.org")}
	_, stop := run(t, cfg, slog.New(slog.DiscardHandler))
	users := control.Dial(cfg.ControlSocket())
	for text, want := range map[string]error{"alice@example.org": nil, "alice@example.com": account.ErrForeign, "info@example.org": account.ErrReserved} {
		addr := parse(text)
		if _, err := users.Invite(addr, false, time.Hour); !errors.Is(err, want) {
			t.Errorf("inviting %s: %v, want %v", text, err, want)
		}
		key, err := crypt.GenerateKey()
		if err != nil {
			t.Fatal(err)
		}
		sealed, err := xzibit.Seal(&xzibit.Keyring{Keys: []xzibit.KeyPair{{Key: key}}}, text, []byte("x"), xzibit.Params{Time: 1, MemoryKiB: 8, Threads: 1})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := users.Add(account.NewRegistration(addr, key, time.Now(), sealed)); !errors.Is(err, want) {
			t.Errorf("adding %s: %v, want %v", text, err, want)
		}
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// A tellingFS calls read when a segment of the spool is opened to be read.
type tellingFS struct {
	durable.FS
	read func()
}

func (f tellingFS) Open(path string) (durable.File, error) {
	if strings.HasSuffix(path, ".seg") {
		f.read()
	}
	return f.FS.Open(path)
}

// TestRun_StopAtStart: a stop that is asked for while the spool is read, or while a silent mail server is asked, does not wait for
// either, is no failure, and leaves everything to the next start.
func TestRun_StopAtStart(t *testing.T) {
	cfg := configuration(t)
	_, stop := run(t, cfg, slog.New(slog.DiscardHandler))
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	silent, asked := silence(t)
	waiting := behind(cfg, silent, config.ProxyV1)
	waiting.SMTP.ConnectTimeout = time.Hour
	for name, cfg := range map[string]*config.Config{"spool": cfg, "backend": waiting} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			o := daemon.Options{Ready: func([]net.Addr) { t.Error("it serves") }}
			var told []string
			o.Manager = &service.Manager{Notify: func(state string) error { told = append(told, state); return nil }}
			if cfg == waiting {
				go func() { <-asked; cancel() }()
			} else {
				o.FS = tellingFS{durable.OS, cancel}
			}
			var log bytes.Buffer
			if err := daemon.Run(ctx, cfg, slog.New(slog.NewTextHandler(&log, nil)), o); err != nil {
				t.Error(err)
			}
			if !strings.Contains(log.String(), `msg="the start is given up: a stop was asked for"`) || strings.Contains(log.String(), "level=ERROR") {
				t.Errorf("logged\n%s", &log)
			}
			if all := strings.Join(told, "\n"); !strings.Contains(all, "STOPPING=1") || strings.Contains(all, "READY=1") {
				t.Errorf("the service manager was told\n%s", all)
			}
		})
	}
	addrs, stop := run(t, cfg, slog.New(slog.DiscardHandler))
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	free(t, cfg, addrs[0].String())
}
