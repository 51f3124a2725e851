package daemon

import (
	"log/slog"

	"cmtpd/internal/account"
	"cmtpd/internal/address"
	"cmtpd/internal/control"
	"cmtpd/internal/crypt"
	"cmtpd/internal/discovery"
	"cmtpd/internal/federation"
	"cmtpd/internal/queue"
	"cmtpd/internal/spool"
	"cmtpd/internal/trust"
)

// elsewhere is what sessions know of the servers of other domains. It implements
// session.Elsewhere.
type elsewhere struct {
	*federation.Peers
	*federation.Keys
	*queue.Queue
}

// openQueue makes what delivers mail for other servers, and asks them for keys. Nothing is
// dialled before the daemon serves.
func (d *daemon) openQueue() error {
	c, counts := d.cfg.Delivery, d.metrics.Deliveries()
	finder := discovery.New(d.cfg, discovery.Options{})
	peers := federation.New(federation.Config{
		Domains: d.cfg.Domains, Key: d.identity, Former: publicKeys(d.formers), Finder: finder, Aside: finder.Aside(), Trust: d.trust,
		Tested: d.metrics.EnforceTested, Log: d.log,
	})
	keys := federation.NewKeys(federation.KeysConfig{Peers: peers, Size: c.KeyCache, Life: c.KeyCacheTime})
	q, err := queue.New(queue.Config{
		Store: queue.Spool{Spool: d.spool}, Mailbox: spool.MailboxID(account.Outgoing), Log: d.log,
		Deliverer:  federation.NewDeliverer(peers, d.spool, d.cfg.Hostname.String()),
		Reporter:   federation.NewReports(peers, d.spool, &d.names),
		Observer:   counts,
		Forget:     forget(finder, keys),
		FirstRetry: c.RetryMin, LastRetry: c.RetryMax, MaxAge: c.MaxAge, DelayNotice: c.DelayNotice,
		Workers: c.MaxConnections, PerDomain: c.MaxConnectionsPerDomain,
	})
	if err != nil {
		return err
	}
	d.elsewhere = &elsewhere{peers, keys, q}
	d.metrics.ShowQueue(q, counts)
	d.serving = append(d.serving, q.Run)
	return nil
}

// forget returns what has a destination looked for anew.
func forget(finder *discovery.Finder, keys *federation.Keys) func(string) {
	return func(domain string) {
		if d, err := address.ParseDomain(domain); err == nil {
			finder.Forget(d)
			keys.Forget(d)
		}
	}
}

// decisions are what the operator decides about other servers' keys: the mail that waited for that is tried at once.
type decisions struct {
	control.Trust
	queue *queue.Queue
	log   *slog.Logger
}

// Accept implements control.Trust.
func (d decisions) Accept(domain address.Domain, f trust.Fingerprint) error {
	return d.after(domain, d.Trust.Accept(domain, f))
}

// Pin implements control.Trust.
func (d decisions) Pin(domain address.Domain, key trust.Public) error {
	return d.after(domain, d.Trust.Pin(domain, key))
}

// Forget implements control.Trust.
func (d decisions) Forget(domain address.Domain) error {
	return d.after(domain, d.Trust.Forget(domain))
}

func (d decisions) after(domain address.Domain, err error) error {
	if err != nil {
		return err
	}
	if _, err := d.queue.RetryDomain(domain.String()); err != nil {
		d.log.Warn("mail to a domain is not tried at once", "domain", domain, "error", err)
	}
	return nil
}

func publicKeys(keys []*crypt.PrivateKey) (public []crypt.PublicKey) {
	for _, k := range keys {
		public = append(public, k.Public())
	}
	return public
}
