// Package daemon makes the server out of its parts: it opens the data, starts
// what listens, and stops it all in order. It is the only package that knows
// every concrete type.
//
// It guarantees that nothing listens before everything behind it is ready, and
// that a stop that is asked for loses nothing: listeners close first, sessions
// finish their message, the spool is closed last.
package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"cmtpd/internal/account"
	"cmtpd/internal/channel"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/config"
	"cmtpd/internal/control"
	"cmtpd/internal/crypt"
	"cmtpd/internal/datadir"
	"cmtpd/internal/durable"
	"cmtpd/internal/front"
	"cmtpd/internal/guess"
	"cmtpd/internal/identity"
	"cmtpd/internal/keyfile"
	"cmtpd/internal/limit"
	"cmtpd/internal/mailbox"
	"cmtpd/internal/metrics"
	"cmtpd/internal/service"
	"cmtpd/internal/session"
	"cmtpd/internal/spool"
	"cmtpd/internal/status"
	"cmtpd/internal/trust"
	"cmtpd/internal/version"
)

// wireVersion is what OHAI answers (docs/protocol.md, Version string).
const wireVersion = "CMTP/0.01 CMTP/1 cmtpd/" + version.Number

const (
	// acceptPatience is how long a connection may take to be handed on, which waits for
	// nobody, before the loop that does so counts as stuck.
	acceptPatience = 10 * time.Second
	// afterGrace is how long a stop may take beside the grace of the sessions.
	afterGrace = 15 * time.Second
	// defaultReloadPatience lets a mail server look both strangers up in DNS in vain.
	defaultReloadPatience = 30 * time.Second
)

// A daemon is the running server.
type daemon struct {
	cfg       *config.Config                // as it started, with the sockets that there are
	now       atomic.Pointer[config.Config] // what of it is in force
	options   Options
	log       *slog.Logger
	identity  *crypt.PrivateKey
	formers   []*crypt.PrivateKey // that it had before
	lock      interface{ Close() error }
	guesses   *guess.Budget
	accounts  *account.Store
	trust     *trust.Store
	spool     *spool.Spool
	boxes     *mailbox.Mailboxes
	room      atomic.Pointer[room] // for what is not to fill the spool's disk
	elsewhere *elsewhere
	names     names
	channels  *channel.Server
	abroad    *session.Abroad
	sending   *session.Sending
	logins    *limit.Rate // LOGINs of a network
	starts    *limit.Rate // STARTTLS of one
	smtp      handler
	putOff    atomic.Bool // the last SMTP session did not reach the mail server behind
	cmtp      handler
	metrics   *metrics.Metrics
	front     *front.Server
	broken    chan error // the spool has stopped; one is enough
	listens   []net.Listener
	listening control.Listeners
	serving   []func(context.Context) error // what runs until it is stopped

	began    time.Time
	phase    phase
	troubles *status.Troubles
}

// Options are what a daemon can do without.
type Options struct {
	// Ready is called, if not nil, once everything listens, with the addresses of the
	// shared port.
	Ready func([]net.Addr)
	// Load reads the configuration anew, for each value of Reload. They are both nil or
	// both not.
	Load   func() (*config.Config, error)
	Reload <-chan os.Signal
	// ReloadPatience is how long a reload waits for another mail server behind to answer; 0 is 30 seconds.
	ReloadPatience time.Duration
	// Level is set to what the configuration says, if not nil: the log's.
	Level *slog.LevelVar
	// Manager is who has started the daemon; nil is nobody.
	Manager *service.Manager
	// FS is what the spool is on; nil is durable.OS.
	FS durable.FS
}

// Run serves until ctx ends, and then shuts down in order. So it does when ctx ends before it serves.
func Run(ctx context.Context, cfg *config.Config, log *slog.Logger, o Options) error {
	troubles := new(status.Troubles)
	log = slog.New(troubles.Handler(log.Handler()))
	d := &daemon{cfg: withSockets(cfg, o.Manager), options: o, log: log, metrics: metrics.New(version.Number),
		broken: make(chan error, 1), began: time.Now(), troubles: troubles}
	d.now.Store(d.cfg)
	defer d.close()
	if err := d.cfg.Validate(); err != nil {
		return fmt.Errorf("with the service manager's sockets: %w", err)
	}
	d.tellSockets(cfg)
	o.Manager.Status("reading the spool")
	if err := d.open(ctx); err != nil {
		return d.givenUp(ctx, err)
	}
	addrs, err := d.listen(ctx)
	if err != nil {
		return d.givenUp(ctx, err)
	}
	log.Info("serving", "hostname", cfg.Hostname.String(), "addresses", addrs, "smtp", string(cfg.SMTP.Mode),
		"key", d.identity.Public().String(), "spool_head", d.spool.Head().Number)
	o.Manager.Ready(d.status())
	if o.Ready != nil {
		o.Ready(addrs)
	}
	return d.serve(ctx)
}

// givenUp returns nil for the end of a start that a stop was asked for in, and any other error as it is.
func (d *daemon) givenUp(ctx context.Context, err error) error {
	if ctx.Err() == nil || !errors.Is(err, ctx.Err()) {
		return err
	}
	d.log.Info("the start is given up: a stop was asked for")
	d.options.Manager.Stopping(afterGrace, "giving up the start")
	return nil
}

// status says in a few words what the daemon does while it serves.
func (d *daemon) status() string {
	return fmt.Sprintf("serving %s at %s, SMTP: %s", d.cfg.Domains[0], strings.Join(d.cfg.Listen.Addresses, ", "), d.config().SMTP.Mode)
}

// feedWatchdog feeds the service manager's watchdog.
func (d *daemon) feedWatchdog(ctx context.Context) error {
	return d.options.Manager.Watch(ctx,
		service.Probe{What: "taking connections", Ask: func(context.Context) error { return d.front.Alive(acceptPatience) }},
		service.Probe{What: "storing messages", Ask: d.spool.Probe})
}

// open opens the data: the lock before all, so that nothing is touched that
// another daemon has.
func (d *daemon) open(ctx context.Context) (err error) {
	if err := datadir.Own(d.cfg.DataDir); err != nil {
		return err
	}
	if d.lock, err = durable.OS.Lock(d.cfg.LockFile()); errors.Is(err, durable.ErrLocked) {
		return fmt.Errorf("%w; is another cmtpd running on %s?", err, d.cfg.DataDir)
	} else if err != nil {
		return fmt.Errorf("locking the data directory: %w", err)
	}
	if err := identity.NotLost(d.cfg); err != nil {
		return err
	}
	if d.identity, err = d.key(d.cfg.KeyFile(), "identity"); err != nil {
		return err
	}
	if d.formers, err = keyfile.Former(d.cfg.KeyFile()); err != nil {
		return err
	}
	// A key of the spool says from then on that there is a log: see identity.NotLost.
	if err := durable.MkdirAll(durable.OS, spool.LogDir(d.cfg.SpoolDir()), 0o700); err != nil {
		return err
	}
	spoolKey, err := d.key(d.cfg.SpoolKeyFile(), "spool")
	if err != nil {
		return err
	}
	d.makeMailboxes(spoolKey.Public())
	if err := d.openAccounts(); err != nil {
		return err
	}
	if d.trust, err = trust.Open(d.cfg.TrustDir(), trust.Options{FS: durable.OS, Log: d.log, MaxDomains: d.cfg.Delivery.KnownDomains}); err != nil {
		return err
	}
	d.metrics.ShowTrust(d.trust)
	d.spool, err = spool.OpenContext(ctx, d.cfg.SpoolDir(), spool.Options{
		FS: cmp.Or(d.options.FS, durable.OS), Key: spoolKey, Identity: d.identity, Former: d.former, Now: time.Now, Log: d.log,
		LargeThreshold: int64(d.cfg.Limits.LargeMessage), MemoryBudget: int64(d.cfg.Limits.MessageMemory),
		Flushed: d.metrics.Flushed, Changed: d.boxes.Changed,
	})
	if err != nil {
		return fmt.Errorf("opening the spool: %w", err)
	}
	d.boxes.Use(d.spool)
	return d.openQueue()
}

// makeMailboxes makes what shows users their part of the spool.
func (d *daemon) makeMailboxes(key crypt.PublicKey) {
	d.boxes = mailbox.New(mailbox.Config{Key: key, Limits: mailboxLimits(d.cfg),
		Unlimited: []spool.MailboxID{spool.MailboxID(account.Outgoing)},
		Room:      func(bytes uint64) error { return d.room.Load().take(bytes) },
		Failed:    func(err error) { tell(d.broken, err) }})
	d.metrics.ShowMailboxes(d.boxes)
}

// openAccounts opens what is kept of the users. Of one that is removed, the guesses are
// forgotten.
func (d *daemon) openAccounts() (err error) {
	d.guesses, err = guess.Open(d.cfg.GuessesDir(), guess.Options{FS: durable.OS, Log: d.log, Rates: guessRates(d.cfg)})
	if err != nil {
		return err
	}
	forget := func(id account.ID) {
		if err := d.guesses.Forget([16]byte(id)); err != nil {
			d.log.Warn("the guesses at a removed account are still there", "account", id, "err", err)
		}
	}
	d.accounts, err = account.Open(account.Options{Dir: d.cfg.AccountsDir(), Invitations: d.cfg.InvitationsDir(), FS: durable.OS,
		Signer: d.identity, Now: time.Now, OnRemove: forget,
		OnChange: func(id account.ID) { d.boxes.Tell(spool.MailboxID(id)) }})
	d.names.set(d.accounts, d.cfg)
	return err
}

// key loads a key or makes it at the first start.
func (d *daemon) key(path, what string) (*crypt.PrivateKey, error) {
	key, created, err := keyfile.LoadOrCreate(path)
	if err != nil {
		return nil, err
	}
	if created {
		d.log.Info("made a key", "what", what, "file", path, "key", key.Public().String())
	}
	return key, nil
}

// former loads an identity key that the server had before it was rotated.
func (d *daemon) former(key crypt.PublicKey) (*crypt.PrivateKey, error) {
	return keyfile.LoadFormer(d.cfg.KeyFile(), key)
}

// listen opens every listener, so that serve cannot fail for a port in use.
func (d *daemon) listen(ctx context.Context) ([]net.Addr, error) {
	limits := d.cfg.Limits
	d.abroad = session.NewAbroad(abroadLimits(d.cfg), time.Now)
	d.sending = session.NewSending(sendingLimits(d.cfg), time.Now)
	d.logins = limit.NewRate(limits.LoginRate, limits.LoginBurst, time.Now)
	d.starts = limit.NewRate(limits.StartTLSRate, limits.StartTLSBurst, time.Now)
	if err := d.enforce(ctx, d.cfg); err != nil {
		return nil, err
	}
	d.front = front.New(front.Config{
		Hostname: d.cfg.Hostname.String(), IsCMTP: func(verb string) bool { return cmtp.IsVerb([]byte(verb)) },
		Limits: frontLimits(d.cfg), Log: d.log, Ended: d.metrics.Unspoken,
	}, &d.smtp, &d.cmtp)
	d.serving = append(d.serving, d.reloads, d.feedWatchdog)
	d.metrics.ShowFront(d.front)
	d.metrics.ShowSpool(d.spool, d.cfg.SpoolDir(), func() uint64 { return uint64(d.config().Limits.MinFreeSpace) })
	d.metrics.ShowReady(d.state)
	d.serving = append(d.serving, func(ctx context.Context) error { return d.spool.Scrub(ctx, d.cfg.Spool.ScrubEvery) })
	addrs, err := d.listenMail(ctx)
	if err != nil {
		return nil, err
	}
	return addrs, errors.Join(d.listenControl(), d.listenMetrics(ctx))
}

func (d *daemon) listenControl() error {
	l, err := control.Listen(d.cfg.ControlSocket())
	if err != nil {
		return err
	}
	d.listens = append(d.listens, l)
	srv := control.NewServer(localUsers{d.accounts, &d.names}, d.spool)
	control.HandleTrust(srv, decisions{d.trust, d.elsewhere.Queue, d.log})
	control.HandleQueue(srv, d.elsewhere.Queue)
	control.HandleListeners(srv, d.listening)
	control.Audit(srv, d.log)
	d.serving = append(d.serving, serveHTTP(srv, l))
	return nil
}

// cmtpHandler returns what serves CMTP sessions as c says.
func (d *daemon) cmtpHandler(c *config.Config) *session.Server {
	limits := c.Limits
	return session.New(session.Config{
		Version: wireVersion, MaxMessage: uint64(limits.MaxMessageSize), AcceptPlaintext: limits.AcceptPlaintext,
		AcceptUnproven: limits.AcceptUnprovenSource, PlainLogin: c.Accounts.PlainLogin,
		CommandTimeout: limits.CommandTimeout, SessionTimeout: limits.SessionTimeout,
		MinRate: int64(limits.MinRate), MessageGrace: limits.MessageGrace,
		Key: d.identity, Former: d.formers, Domains: c.Domains, Channel: d.channels,
		Directory: &d.names, Accounts: d.accounts, Guesses: d.guesses, Elsewhere: d.elsewhere, Abroad: d.abroad, Sending: d.sending,
		Store:      &store{d.spool, d.room.Load(), d.boxes, d.broken},
		Mailboxes:  d.boxes,
		AllowLogin: d.logins.Allow,
		AllowTLS:   d.starts.Allow,
		Observer:   d.metrics, Log: d.log, Now: time.Now,
	})
}

// serve runs everything that listens until ctx ends or one of them fails, and
// then stops in order.
func (d *daemon) serve(ctx context.Context) error {
	running, cancel := context.WithCancel(context.Background())
	defer cancel()
	failed := make(chan error, len(d.serving))
	for _, serve := range d.serving {
		go func() { failed <- serve(running) }()
	}
	d.phase.Store(serving)
	var err error
	waiting := len(d.serving)
	select {
	case <-ctx.Done():
		d.log.Info("stopping", "grace", d.config().ShutdownGrace)
	case err = <-d.broken:
		err = fmt.Errorf("the spool cannot be written, and what is on disk is known only after a restart: %w", err)
	case err = <-failed:
		waiting--
		if err == nil {
			err = errors.New("a listener ended")
		}
	}
	d.phase.Store(ending)
	within := d.config().ShutdownGrace
	d.options.Manager.Stopping(within+afterGrace, fmt.Sprintf("waiting for sessions to finish their message, for %v at most", within))
	grace, stop := context.WithTimeout(context.Background(), within)
	defer stop()
	if cut := d.front.Shutdown(grace); cut != nil {
		d.log.Warn("sessions were cut off at the end of the grace", "err", cut)
	}
	d.options.Manager.Status("closing the spool")
	cancel()
	for range waiting {
		err = errors.Join(err, <-failed)
	}
	return err
}

// close gives back what open took, in the reverse order.
func (d *daemon) close() {
	for _, l := range d.listens {
		l.Close() // it is closed already, unless the start has failed
	}
	if m := d.options.Manager; m != nil {
		for _, s := range m.Sockets {
			s.Close() // and so is this
		}
	}
	if d.spool != nil {
		head := d.spool.Head()
		if err := d.spool.Close(); err != nil {
			d.log.Error("closing the spool", "err", err)
		} else {
			d.log.Info("spool closed", "head", head.Number, "hash", fmt.Sprintf("%x", head.Hash))
		}
	}
	if d.guesses != nil {
		if err := d.guesses.Close(); err != nil {
			d.log.Warn("closing the guesses", "err", err)
		}
	}
	if d.lock != nil {
		d.lock.Close()
	}
}
