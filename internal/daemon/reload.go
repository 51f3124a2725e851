package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"

	"cmtpd/internal/account"
	"cmtpd/internal/address"
	"cmtpd/internal/channel"
	"cmtpd/internal/config"
	"cmtpd/internal/front"
	"cmtpd/internal/guess"
	"cmtpd/internal/mailbox"
	"cmtpd/internal/netbuf"
	"cmtpd/internal/session"
)

// A handler serves each session with what is in force when it begins.
type handler struct{ now atomic.Pointer[front.Handler] }

// Serve implements front.Handler.
func (h *handler) Serve(ctx context.Context, c *netbuf.Conn) { (*h.now.Load()).Serve(ctx, c) }

// names are the account.Directory that is in force. They implement session.Directory
// and federation.Users.
type names struct {
	now atomic.Pointer[account.Directory]
}

func (n *names) set(accounts *account.Store, c *config.Config) {
	n.now.Store(&account.Directory{Store: accounts, Domains: c.Domains, Aliases: c.Aliases, Postmaster: c.Postmaster})
}

// Domain implements session.Directory.
func (n *names) Domain(name string) (address.Domain, error) { return n.now.Load().Domain(name) }

// Resolve implements session.Directory.
func (n *names) Resolve(name, domain string) (*account.Account, error) {
	return n.now.Load().Resolve(name, domain)
}

// Login implements session.Directory.
func (n *names) Login(user string) (*account.Account, error) { return n.now.Load().Login(user) }

// Account implements session.Directory.
func (n *names) Account(at address.Address) (*account.Account, error) {
	return n.now.Load().Account(at)
}

// config returns the configuration that is in force.
func (d *daemon) config() *config.Config { return d.now.Load() }

// enforce takes c into force, for all that begins from then on. What can fail is made before
// anything is changed.
func (d *daemon) enforce(ctx context.Context, c *config.Config) error {
	if err := checkFiles(c); err != nil {
		return err
	}
	smtp, err := d.smtpHandler(ctx, c)
	if err != nil {
		return err
	}
	channels, err := d.channelServer(c)
	if err != nil {
		return err
	}
	l := c.Limits
	d.channels = channels
	d.names.set(d.accounts, c)
	d.guesses.SetRates(guessRates(c))
	d.boxes.SetLimits(mailboxLimits(c))
	d.abroad.SetLimits(abroadLimits(c))
	d.sending.SetLimits(sendingLimits(c))
	d.logins.Set(l.LoginRate, l.LoginBurst)
	d.starts.Set(l.StartTLSRate, l.StartTLSBurst)
	d.room.Store(newRoom(c.SpoolDir(), uint64(l.MinFreeSpace)))
	cmtp := front.Handler(d.cmtpHandler(c))
	d.smtp.now.Store(&smtp)
	d.cmtp.now.Store(&cmtp)
	d.now.Store(c)
	return nil
}

// channelServer returns what sets up private channels: the one that there is, as long as
// it is as c says, since its slots bound what all sessions compute together.
func (d *daemon) channelServer(c *config.Config) (*channel.Server, error) {
	if d.channels != nil && c.Limits.HandshakeTimeout == d.config().Limits.HandshakeTimeout && c.Limits.MaxHandshakes == d.config().Limits.MaxHandshakes {
		return d.channels, nil
	}
	return channel.NewServer(channel.Config{
		Key: d.identity, Timeout: c.Limits.HandshakeTimeout, MaxHandshakes: c.Limits.MaxHandshakes, Observer: d.metrics,
	})
}

// guessRates, mailboxLimits, abroadLimits, sendingLimits and frontLimits return what c says of each.
func guessRates(c *config.Config) guess.Rates {
	l := c.Limits
	return guess.Rates{Rate: l.GuessRate, Burst: l.GuessBurst, NetworkRate: l.GuessNetworkRate, NetworkBurst: l.GuessNetworkBurst}
}

func mailboxLimits(c *config.Config) mailbox.Limits {
	l := c.Limits
	return mailbox.Limits{Size: int64(l.MailboxSize), MaxWaits: l.MaxWaits, MaxWaitsAccount: l.MaxWaitsAccount,
		MarkRate: l.MarkRate, MarkBurst: l.MarkBurst}
}

func abroadLimits(c *config.Config) session.AbroadLimits {
	l := c.Limits
	return session.AbroadLimits{Lookups: l.LookupRate, LookupBurst: l.LookupBurst, NewDomains: l.NewDomainsRate, NewDomainBurst: l.NewDomainsBurst}
}

func sendingLimits(c *config.Config) session.SendingLimits {
	return session.SendingLimits{Messages: c.Limits.MailRate, Burst: c.Limits.MailBurst, Day: int64(c.Limits.MailPerDay)}
}

func frontLimits(c *config.Config) front.Limits {
	return front.Limits{MaxConnections: c.Limits.MaxConnections, MaxPerAddress: c.Limits.MaxConnectionsPerAddress,
		Rate: c.Limits.ConnectionRate, Burst: c.Limits.ConnectionBurst, FloodPause: c.Limits.FloodPause,
		FirstCommandTimeout: c.Limits.CommandTimeout, ProxyFrom: c.Listen.ProxyFrom}
}

// reloads reloads the configuration each time that it is asked to.
func (d *daemon) reloads(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-d.options.Reload:
		}
		for d.reloadUntilNext(ctx) {
		}
	}
}

// reloadUntilNext reloads, and gives that up when it is asked to reload again: the file has changed, and the mail
// server that is being asked may be the one that was wrong. It reports whether that is so.
func (d *daemon) reloadUntilNext(ctx context.Context) (again bool) {
	this, giveUp := context.WithCancel(ctx)
	defer giveUp()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		d.reload(this)
	}()
	select {
	case <-ended:
		return false
	case <-d.options.Reload:
		giveUp()
		<-ended
		return true
	}
}

// reload reads the configuration anew, takes into force what can change, and tells
// the log of each key. One with an error changes nothing; nor does one whose ctx ends before
// the mail server behind has answered.
func (d *daemon) reload(ctx context.Context) {
	d.options.Manager.Reloading()
	next, err := d.options.Load()
	var changes []config.Change
	if err == nil {
		next = withSockets(next, d.options.Manager)
		changes = d.config().Changes(next)
		err = d.enforceLive(ctx, next)
	}
	if err != nil && ctx.Err() != nil {
		d.log.Info("a reload is given up: another was asked for, or a stop")
		return
	}
	if err != nil {
		d.metrics.Reloaded(false, 0)
		for _, text := range problemsOf(err) {
			d.log.Error("the configuration is wrong", "problem", text)
		}
		d.log.Error("the configuration was not reloaded: what was in force stays in force")
		d.options.Manager.Ready(d.status() + "; the last reload was refused, see the log")
		return
	}
	if level, after := d.options.Level, next.Log.Level.Level(); level != nil {
		level.Set(min(level.Level(), after)) // what follows is told if either of them tells it
		defer level.Set(after)
	}
	waiting := 0
	for _, c := range changes {
		attrs := []any{"key", c.Key, "old", c.Old, "new", c.New}
		how := slog.LevelInfo
		if c.Default { // meant, or of a file that was cut off, which is still a whole one
			attrs = append(attrs, "default", true)
			how = slog.LevelWarn
		}
		if c.Live {
			d.log.Log(ctx, how, "a setting has changed", attrs...)
			continue
		}
		waiting++
		d.log.Warn("a setting has changed in the file, and waits for a restart", attrs...)
	}
	d.metrics.Reloaded(true, waiting)
	d.log.Info("the configuration was reloaded", "changed", len(changes)-waiting, "waiting_for_restart", waiting)
	status := d.status()
	if waiting > 0 {
		status += fmt.Sprintf("; changed settings that wait for a restart: %d", waiting)
	}
	d.options.Manager.Ready(status)
}

// enforceLive takes of next into force what can change. Together with what cannot, it may be wrong.
func (d *daemon) enforceLive(ctx context.Context, next *config.Config) error {
	merged := d.config().Reloaded(next)
	if err := merged.Validate(); err != nil {
		return fmt.Errorf("as long as only a restart takes the rest of the file into force: %w", err)
	}
	if err := d.enforce(ctx, merged); err != nil {
		return err
	}
	d.front.SetLimits(frontLimits(merged))
	return nil
}

// problemsOf returns a line for each thing that is wrong.
func problemsOf(err error) (lines []string) {
	list, ok := err.(*config.Error) // and nothing around it
	if !ok {
		return []string{err.Error()}
	}
	for _, p := range list.Problems {
		lines = append(lines, p.String())
	}
	return lines
}
