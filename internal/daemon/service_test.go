package daemon_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"cmtpd/internal/cmtptest"
	"cmtpd/internal/config"
	"cmtpd/internal/daemon"
	"cmtpd/internal/durable"
	"cmtpd/internal/service"
)

// A holding file system is the machine's, whose flushes of files hang when it is told to.
type holding struct {
	durable.FS
	hold atomic.Bool
	held chan struct{} // takes one for each that hangs
	free chan struct{} // closed: they go on
}

type holdingFile struct {
	durable.File
	fs *holding
}

func (h *holding) OpenWrite(path string) (durable.File, error) {
	f, err := h.FS.OpenWrite(path)
	return holdingFile{f, h}, err
}

func (f holdingFile) Sync() error {
	if f.fs.hold.Load() {
		f.fs.held <- struct{}{}
		<-f.fs.free
	}
	return f.File.Sync()
}

// manage runs a daemon under a service manager that gives it sockets and gets its notices, until stop is called.
func manage(t *testing.T, cfg *config.Config, m *service.Manager, o daemon.Options) (log *journal, stop func() error) {
	t.Helper()
	log = newJournal()
	m.Log = slog.New(slog.NewTextHandler(log, nil))
	ready, ended := make(chan struct{}), make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	o.Manager, o.Ready = m, func([]net.Addr) { close(ready) }
	go func() { ended <- daemon.Run(ctx, cfg, m.Log, o) }()
	select {
	case <-ready:
	case err := <-ended:
		t.Fatal(err)
	}
	t.Cleanup(cancel)
	return log, func() error {
		cancel()
		return <-ended
	}
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// TestRun_Watchdog: it is fed as long as messages can be stored. While a flush hangs it is not, and what
// hangs is in the log.
func TestRun_Watchdog(t *testing.T) {
	cfg := configuration(t)
	fsys := &holding{FS: durable.OS, held: make(chan struct{}, 100), free: make(chan struct{})}
	told := make(chan string) // nobody is fed unless the test takes note
	ctx, cancel := context.WithCancel(t.Context())
	m := &service.Manager{Watchdog: 30 * time.Millisecond, Sockets: []service.Socket{{Name: daemon.SharedSockets, Listener: listen(t)}}}
	m.Notify = func(state string) error {
		if state == "WATCHDOG=1" {
			select {
			case told <- state:
			case <-ctx.Done():
			}
		}
		return nil
	}
	log, stop := manage(t, cfg, m, daemon.Options{FS: fsys})
	for range 3 {
		<-told
	}
	fsys.hold.Store(true)
	sent := make(chan error, 1)
	go func() {
		sent <- cmtptest.Deliver(t.Context(), m.Sockets[0].Addr().String(), &cmtptest.Letter{Parts: []cmtptest.Noise{{Length: 100}}})
	}()
	<-fsys.held
	// A round that began before may still end well.
	for fed := 0; strings.Count(log.all(), "the watchdog is not fed") < 3; {
		select {
		case <-told:
			if fed++; fed > 1 {
				t.Fatal("it is fed while nothing can be stored")
			}
		case <-log.grown():
		}
	}
	log.line(t, 0, "level=ERROR", "the watchdog is not fed", "storing messages")
	fsys.hold.Store(false)
	close(fsys.free)
	<-told
	log.line(t, 0, "the watchdog is fed again")
	if err := <-sent; err != nil {
		t.Errorf("the message that waited: %v", err)
	}
	cancel()
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// TestRun_Sockets: those of the service manager are served, in the place of what is configured for the
// same list, which the log tells where it is another; a list without any is opened.
func TestRun_Sockets(t *testing.T) {
	shared, alone := listen(t), listen(t)
	for name, tt := range map[string]struct {
		configured []string
		sockets    []service.Socket
		other      string // CMTP alone, of the configuration
		warns      string
	}{
		"the same": {[]string{shared.Addr().String()}, []service.Socket{{Name: daemon.SharedSockets, Listener: shared}}, "", ""},
		"another":  {[]string{"127.0.0.1:1"}, []service.Socket{{Name: daemon.CMTPOnlySockets, Listener: alone}, {Name: daemon.SharedSockets, Listener: listen(t)}}, "", "127.0.0.1:1"},
		"one list": {[]string{"127.0.0.1:1"}, []service.Socket{{Name: daemon.SharedSockets, Listener: listen(t)}}, "127.0.0.1:0", "127.0.0.1:1"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := configuration(t)
			cfg.Listen.Addresses = tt.configured
			if tt.other != "" {
				cfg.Listen.CMTPOnly = []string{tt.other}
			}
			log, stop := manage(t, cfg, &service.Manager{Sockets: tt.sockets}, daemon.Options{})
			for _, s := range tt.sockets {
				at := s.Addr().String()
				if s.Name == daemon.SharedSockets {
					expect(t, "a shared socket", dialogue(t, at, "QUIT\r\n"), "220 example.org")
				}
				log.line(t, 0, "msg=listening", "address="+at)
			}
			if tt.other != "" {
				log.line(t, 0, "msg=listening", "cmtp_only=true")
			}
			const place = "take the place of what is configured"
			if tt.warns == "" && strings.Contains(log.all(), place) {
				t.Errorf("logged\n%s", log.all())
			} else if tt.warns != "" {
				log.line(t, 0, "level=WARN", place, "key=listen.addresses", "configured="+tt.warns)
			}
			if err := stop(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestRun_Sockets_Wrong: sockets that cannot be served keep the daemon from starting, with an error that says why.
func TestRun_Sockets_Wrong(t *testing.T) {
	path := t.TempDir() + "/s"
	local, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	cfg := configuration(t)
	m := &service.Manager{Sockets: []service.Socket{{Name: daemon.SharedSockets, Listener: local}}}
	if err := daemon.Run(t.Context(), cfg, slog.New(slog.DiscardHandler), daemon.Options{Manager: m}); err == nil || !strings.Contains(err.Error(), "expected host:port") {
		t.Errorf("a local socket: %v", err)
	}
	tcp := listen(t)
	cfg.SMTP.Mode, cfg.SMTP.Backend, cfg.SMTP.ProxyProtocol = config.Relay, tcp.Addr().String(), config.ProxyV1
	m = &service.Manager{Sockets: []service.Socket{{Name: daemon.SharedSockets, Listener: tcp}}}
	err = daemon.Run(t.Context(), cfg, slog.New(slog.DiscardHandler), daemon.Options{Manager: m})
	if _, ok := errors.AsType[*config.Error](err); !ok || !strings.Contains(err.Error(), "in a circle") {
		t.Errorf("a socket that is the mail server behind: %v", err)
	}
}

// TestRun_Notices: the service manager is told when all listens, of reloads, and of the stop.
func TestRun_Notices(t *testing.T) {
	cfg := configuration(t)
	told := make(chan string, 100)
	m := &service.Manager{Notify: func(state string) error { told <- state; return nil },
		Sockets: []service.Socket{{Name: daemon.SharedSockets, Listener: listen(t)}}}
	d := newReloadedBy(t, cfg, m)
	next := func(words ...string) {
		t.Helper()
		if state := <-told; !hasAll(state, words) {
			t.Errorf("told %q, want %q", state, words)
		}
	}
	next("STATUS=reading the spool")
	next("READY=1", "STATUS=serving example.org at 127.0.0.1:", "SMTP: refuse")
	expect(t, "a reload, with sockets that the file does not name", d.give(t, cfg, nil), "changed=0 waiting_for_restart=0")
	next("RELOADING=1", "MONOTONIC_USEC=")
	next("READY=1", "STATUS=serving example.org")
	d.give(t, nil, errors.New("no file"))
	next("RELOADING=1")
	next("READY=1", "the last reload was refused")
	if err := d.stop(); err != nil {
		t.Error(err)
	}
	next("STOPPING=1", "EXTEND_TIMEOUT_USEC=45000000", "for 30s at most")
	next("STATUS=closing the spool")
}
