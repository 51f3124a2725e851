// Package datadirtest is data directories for tests of what looks at one. It guarantees that they are gone when the
// test is over.
package datadirtest

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"cmtpd/internal/account"
	"cmtpd/internal/address"
	"cmtpd/internal/config"
	"cmtpd/internal/control"
	"cmtpd/internal/durable"
	"cmtpd/internal/keyfile"
	"cmtpd/internal/spool"
	"cmtpd/internal/trust"
)

// Config returns the configuration of a server of example.org and second.example, with a data directory that is not
// there yet. Its path is short, as a socket's has to be.
func Config(tb testing.TB) *config.Config {
	tb.Helper()
	dir, err := os.MkdirTemp("", "cmtpd")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { os.RemoveAll(dir) })
	cfg := config.Default()
	cfg.DataDir = filepath.Join(dir, "data")
	cfg.Domains = []address.Domain{Domain("example.org"), Domain("second.example")}
	return cfg
}

// Domain returns the domain of that name, or panics.
func Domain(name string) address.Domain {
	d, err := address.ParseDomain(name)
	if err != nil {
		panic(err)
	}
	return d
}

// Filled is Config with keys, and a spool with a message. No daemon runs.
func Filled(tb testing.TB) *config.Config {
	tb.Helper()
	cfg := Config(tb)
	if err := os.Mkdir(cfg.DataDir, 0o700); err != nil {
		tb.Fatal(err)
	}
	identity, _, err := keyfile.LoadOrCreate(cfg.KeyFile())
	if err != nil {
		tb.Fatal(err)
	}
	own, _, err := keyfile.LoadOrCreate(cfg.SpoolKeyFile())
	if err != nil {
		tb.Fatal(err)
	}
	s, err := spool.Open(cfg.SpoolDir(), spool.Options{FS: durable.OS, Key: own, Identity: identity})
	if err != nil {
		tb.Fatal(err)
	}
	defer s.Close()
	w := s.NewWriter()
	if _, err := w.Write([]byte("a message")); err != nil {
		tb.Fatal(err)
	}
	if _, err := w.Commit(context.Background(), spool.Entry{Mailbox: spool.MailboxID{1}}); err != nil {
		tb.Fatal(err)
	}
	return cfg
}

// Occupy holds the lock and answers on the socket, as a daemon does whose spool is of, and returns what it has
// in memory. of may be nil where nobody asks for the spool.
func Occupy(tb testing.TB, cfg *config.Config, of control.Spool) (store *account.Store, stop func()) {
	tb.Helper()
	lock, err := durable.OS.Lock(cfg.LockFile())
	if err != nil {
		tb.Fatal(err)
	}
	key, _, err := keyfile.LoadOrCreate(cfg.KeyFile())
	if err != nil {
		tb.Fatal(err)
	}
	store, err = account.Open(account.Options{Dir: cfg.AccountsDir(), Invitations: cfg.InvitationsDir(), FS: durable.OS, Signer: key, Now: time.Now})
	if err != nil {
		tb.Fatal(err)
	}
	l, err := control.Listen(cfg.ControlSocket())
	if err != nil {
		tb.Fatal(err)
	}
	srv, done := control.NewServer(store, of), make(chan error, 1)
	known, err := trust.Open(cfg.TrustDir(), trust.Options{FS: durable.OS})
	if err != nil {
		tb.Fatal(err)
	}
	control.HandleTrust(srv, known)
	go func() { done <- srv.Serve(l) }()
	return store, func() {
		if err := srv.Shutdown(context.Background()); err != nil {
			tb.Error(err)
		}
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			tb.Error(err)
		}
		lock.Close()
	}
}
