package config

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"cmtpd/internal/address"

	"github.com/BurntSushi/toml"
)

// Bounds of single values. They refuse what can only be a slip of the pen.
const (
	minMessageSize = 1 * KiB
	maxMessageSize = 1 * TiB
	// maxNeededRate is the fastest that a message of the largest size may have to
	// come, per second, to fit into a session.
	maxNeededRate = 16 * MiB
	// maxLargeMessage is the longest message that the spool's log itself takes.
	maxLargeMessage = 4 * MiB
	maxConnections  = 1 << 20
	// maxMailboxSize is more than any disk has.
	maxMailboxSize  = 1024 * TiB
	minDNSTimeout   = 100 * time.Millisecond
	maxDNSTimeout   = time.Minute
	minScrubEvery   = time.Second
	maxScrubEvery   = 366 * 24 * time.Hour
	maxKeyCache     = 1 << 20
	minKnownDomains = 16 // of which strangers get half
	maxKnownDomains = 1 << 24
	maxKeyCacheTime = 24 * time.Hour
	maxRate         = 1 << 20 // of whatever, and the most of it at once
	// maxDeliveries and the one for a domain are the most connections to other servers that can be meant.
	maxDeliveries          = 1 << 14
	maxDeliveriesPerDomain = 256
	minRetry               = time.Second
	maxQueueAge            = 366 * 24 * time.Hour
	// maxHandshakes is more than any machine has processors.
	maxHandshakes = 1 << 12
	// maxGuesses is the most attempts in an hour, and at once, that can be meant.
	maxGuesses = 1 << 20
	// maxSocketPath is what fits into a sockaddr_un on Linux, without its NUL.
	maxSocketPath = 107
)

// Validate checks everything that can be known without the machine: values
// alone, and values against one another. The error is an *Error without files
// and lines. What Parse returns is valid.
func (c *Config) Validate() error { return newError(c.problems()) }

func (c *Config) problems() []Problem {
	v := &validator{c: c}
	v.names()
	v.listen()
	v.smtp()
	v.others()
	v.limits()
	v.aliases()
	return v.found
}

type validator struct {
	c     *Config
	found []Problem
}

func (v *validator) add(key, format string, args ...any) {
	v.found = append(v.found, Problem{Key: key, Text: fmt.Sprintf(format, args...)})
}

func (v *validator) names() {
	c := v.c
	if c.Hostname.IsZero() {
		v.add("hostname", "set it to this machine's full name")
	}
	if len(c.Domains) == 0 {
		v.add("domains", `required: the mail domains of this server, such as ["example.org"]`)
	}
	for i, d := range c.Domains {
		if d.IsZero() {
			v.add("domains", "value %d of the list is empty", i+1)
		} else if slices.Contains(c.Domains[:i], d) {
			v.add("domains", "%s stands in the list twice", d)
		}
	}
	switch {
	case !filepath.IsAbs(c.DataDir) || strings.ContainsRune(c.DataDir, 0):
		v.add("data_dir", "%q is no absolute path", c.DataDir)
	case len(c.ControlSocket()) > maxSocketPath:
		v.add("data_dir", "its path is too long: that of the socket in it has %d bytes, at most %d are possible", len(c.ControlSocket()), maxSocketPath)
	}
	if !c.Postmaster.IsZero() {
		v.local("postmaster", c.Postmaster)
	}
	v.positive("shutdown_grace", c.ShutdownGrace)
}

// local reports an address of no domain of ours. Without any domain it is
// silent: what is wrong then has been said.
func (v *validator) local(key string, a address.Address) {
	if a.Account.IsZero() || len(v.c.Domains) > 0 && !v.c.IsLocal(a.Domain) {
		v.add(key, "%s is no address of a domain in domains", a)
	}
}

func (v *validator) listen() {
	l := v.c.Listen
	if len(l.Addresses)+len(l.CMTPOnly) == 0 {
		v.add("listen.addresses", "there is no address to listen on, neither here nor in cmtp_only")
	}
	for _, list := range []struct {
		key       string
		addresses []string
		earlier   []string
	}{
		{"listen.addresses", l.Addresses, nil},
		{"listen.cmtp_only", l.CMTPOnly, l.Addresses},
	} {
		for i, a := range list.addresses {
			port, err := checkHostPort(a, true)
			if err != nil {
				v.add(list.key, "%v", err)
			} else if port != 0 && (slices.Contains(list.addresses[:i], a) || slices.Contains(list.earlier, a)) {
				v.add(list.key, "%q is listened on already", a)
			}
		}
	}
	for _, p := range l.ProxyFrom {
		switch {
		case !p.IsValid() || p != p.Masked():
			v.add("listen.proxy_from", "%q is no network", p)
		case p.Bits() == 0:
			v.add("listen.proxy_from", "%s is everybody: any client could claim any address", p)
		}
	}
}

func (v *validator) smtp() {
	s := v.c.SMTP
	oneOf(v, "smtp.mode", s.Mode, Relay, Refuse)
	oneOf(v, "smtp.relay_check", s.RelayCheck, RefuseBackend, WarnBackend)
	v.positive("smtp.connect_timeout", s.ConnectTimeout)
	v.positive("smtp.idle_timeout", s.IdleTimeout)
	v.positive("smtp.session_timeout", s.SessionTimeout)
	if s.Backend != "" {
		v.backend(s.Backend)
	} else if s.Mode == Relay {
		v.add("smtp.backend", `required with smtp.mode = "relay": host:port of the mail server behind this one`)
	}
	if s.ProxyProtocol != "" {
		oneOf(v, "smtp.proxy_protocol", s.ProxyProtocol, ProxyV1, ProxyV2, ProxyNone)
	} else if s.Mode == Relay {
		v.add("smtp.proxy_protocol", `required with smtp.mode = "relay", and you must choose: "v1" or "v2" as the mail server expects it, or "none". `+
			"Without the PROXY protocol every client looks to the mail server like this host, and one that trusts its own host becomes an open relay")
	}
}

// backend refuses a mail server that cannot be one, and one that is ourselves.
func (v *validator) backend(backend string) {
	port, err := checkHostPort(backend, false)
	if err != nil {
		v.add("smtp.backend", "%v", err)
		return
	}
	host, _, _ := net.SplitHostPort(backend)
	if host == "" {
		v.add("smtp.backend", "%q names no host", backend)
		return
	}
	ip, _ := netip.ParseAddr(host)
	for _, l := range slices.Concat(v.c.Listen.Addresses, v.c.Listen.CMTPOnly) {
		lport, err := checkHostPort(l, true)
		if err != nil || lport != port {
			continue
		}
		lhost, _, _ := net.SplitHostPort(l)
		lip, _ := netip.ParseAddr(lhost)
		everywhere := lhost == "" || lip.IsUnspecified()
		if lhost == host || everywhere && (host == "localhost" || ip.IsLoopback()) {
			v.add("smtp.backend", "%q is cmtpd itself, which listens on %q: sessions would run in a circle", backend, l)
			return
		}
	}
}

// metrics: who can connect is asked nothing, so a slip of the pen must not open it to everybody.
func (v *validator) metrics() {
	listen := v.c.Metrics.Listen
	if listen == "" {
		return
	}
	if _, err := checkHostPort(listen, true); err != nil {
		v.add("metrics.listen", "%v", err)
		return
	}
	host, _, _ := net.SplitHostPort(listen)
	ip, _ := netip.ParseAddr(host)
	if !v.c.Metrics.AllowRemote && host != "localhost" && !ip.IsLoopback() {
		v.add("metrics.listen", "%q is not a loopback address, such as \"127.0.0.1:9125\", and what is there is protected by no password; if others are kept away from it, say metrics.allow_remote = true", listen)
	}
}

func (v *validator) others() {
	c := v.c
	v.dns()
	v.delivery()
	v.metrics()
	if e := c.Spool.ScrubEvery; e < minScrubEvery || e > maxScrubEvery {
		v.add("spool.scrub_every", "%s is not between %s and %s", e, minScrubEvery, maxScrubEvery)
	}
	if l := c.Accounts.InvitationLife; l < MinInvitationLife || l > MaxInvitationLife {
		v.add("accounts.invitation_life", "%s is not between %s and %s", l, MinInvitationLife, MaxInvitationLife)
	}
	oneOf(v, "log.level", c.Log.Level, LogDebug, LogInfo, LogWarn, LogError)
	oneOf(v, "log.format", c.Log.Format, LogText, LogJSON)
}

// dns wants a resolver that is trusted to be named, and by its address: the
// system's list is DHCP's to change, and a name somebody else's to answer.
func (v *validator) dns() {
	d := v.c.DNS
	if d.Resolver != "" {
		if _, err := checkHostPort(d.Resolver, false); err != nil {
			v.add("dns.resolver", "%v", err)
		}
	}
	if _, err := netip.ParseAddrPort(d.Resolver); d.Trusted && err != nil {
		v.add("dns.trusted", `needs dns.resolver to be the address of the one that is trusted, such as "127.0.0.1:53"`)
	}
	if d.Timeout < minDNSTimeout || d.Timeout > maxDNSTimeout {
		v.add("dns.timeout", "%s is not between %s and %s", d.Timeout, minDNSTimeout, maxDNSTimeout)
	}
	for key, zone := range map[string]address.Domain{"dns.broken_zone": d.BrokenZone, "dns.signed_zone": d.SignedZone} {
		if zone.IsZero() {
			v.add(key, "it is empty: name a zone, or leave the setting out")
		}
	}
}

func (v *validator) delivery() {
	d := v.c.Delivery
	v.between("delivery.known_domains", d.KnownDomains, minKnownDomains, maxKnownDomains)
	v.between("delivery.key_cache", d.KeyCache, 1, maxKeyCache)
	if t := d.KeyCacheTime; t < time.Second || t > maxKeyCacheTime {
		v.add("delivery.key_cache_time", "%s is not between %s and %s", t, time.Second, maxKeyCacheTime)
	}
	v.between("delivery.port", d.Port, 1, 65535)
	v.between("delivery.max_connections", d.MaxConnections, 1, maxDeliveries)
	v.between("delivery.max_connections_per_domain", d.MaxConnectionsPerDomain, 1, maxDeliveriesPerDomain)
	for _, t := range []struct {
		key   string
		value time.Duration
		least time.Duration
	}{
		{"delivery.retry_min", d.RetryMin, minRetry},
		{"delivery.retry_max", d.RetryMax, max(minRetry, d.RetryMin)},
		{"delivery.delay_notice", d.DelayNotice, minRetry},
		{"delivery.max_age", d.MaxAge, max(minRetry, d.RetryMax)},
	} {
		if t.value < t.least || t.value > maxQueueAge {
			v.add(t.key, "%s is not between %s and %s", t.value, t.least, maxQueueAge)
		}
	}
}

func (v *validator) limits() {
	l := v.c.Limits
	v.size("limits.max_message_size", l.MaxMessageSize, minMessageSize, maxMessageSize)
	v.between("limits.max_connections", l.MaxConnections, 1, maxConnections)
	v.between("limits.max_connections_per_address", l.MaxConnectionsPerAddress, 1, maxConnections)
	v.positive("limits.flood_pause", l.FloodPause)
	v.positive("limits.command_timeout", l.CommandTimeout)
	v.positive("limits.session_timeout", l.SessionTimeout)
	v.size("limits.min_rate", l.MinRate, 1, maxNeededRate)
	v.positive("limits.message_grace", l.MessageGrace)
	v.positive("limits.handshake_timeout", l.HandshakeTimeout)
	v.size("limits.large_message", l.LargeMessage, 1, maxLargeMessage)
	v.size("limits.message_memory", l.MessageMemory, 1, maxMessageSize)
	v.size("limits.min_free_space", l.MinFreeSpace, 1, maxMessageSize)
	v.between("limits.login_rate", l.LoginRate, 1, maxRate)
	v.between("limits.login_burst", l.LoginBurst, 1, maxRate)
	v.between("limits.connection_rate", l.ConnectionRate, 1, maxRate)
	v.between("limits.connection_burst", l.ConnectionBurst, 1, maxRate)
	v.between("limits.starttls_rate", l.StartTLSRate, 1, maxRate)
	v.between("limits.starttls_burst", l.StartTLSBurst, 1, maxRate)
	v.between("limits.max_handshakes", l.MaxHandshakes, 1, maxHandshakes)
	v.size("limits.mailbox_size", l.MailboxSize, minMessageSize, maxMailboxSize)
	v.between("limits.max_waits", l.MaxWaits, 1, maxConnections)
	v.between("limits.max_waits_account", l.MaxWaitsAccount, 1, maxConnections)
	v.between("limits.mark_rate", l.MarkRate, 1, maxRate)
	v.between("limits.mark_burst", l.MarkBurst, 1, maxRate)
	v.between("limits.mail_rate", l.MailRate, 1, maxRate)
	v.between("limits.mail_burst", l.MailBurst, 1, maxRate)
	v.size("limits.mail_per_day", l.MailPerDay, minMessageSize, maxMailboxSize)
	v.between("limits.lookup_rate", l.LookupRate, 1, maxRate)
	v.between("limits.lookup_burst", l.LookupBurst, 1, maxRate)
	v.between("limits.new_domains_rate", l.NewDomainsRate, 1, maxRate)
	v.between("limits.new_domains_burst", l.NewDomainsBurst, 1, maxRate)
	v.between("limits.guess_rate", l.GuessRate, 1, maxGuesses)
	v.between("limits.guess_burst", l.GuessBurst, 1, maxGuesses)
	v.between("limits.guess_network_rate", l.GuessNetworkRate, 1, maxGuesses)
	v.between("limits.guess_network_burst", l.GuessNetworkBurst, 1, maxGuesses)
	if l.SessionTimeout > 0 {
		if need := float64(l.MaxMessageSize) / l.SessionTimeout.Seconds(); need > float64(maxNeededRate) {
			v.add("limits.session_timeout", "%s is too short for a message of max_message_size (%s): it would have to come at %.0f MiB a second",
				l.SessionTimeout, l.MaxMessageSize, need/float64(MiB))
		}
	}
}

func (v *validator) aliases() {
	sorted := slices.SortedFunc(maps.Keys(v.c.Aliases), func(a, b address.Address) int {
		return strings.Compare(a.String(), b.String())
	})
	for _, a := range sorted {
		key := toml.Key{"aliases", a.String()}.String()
		v.local(key, a)
		v.local(key, v.c.Aliases[a])
		more := true
		for at, n := a, 0; more && n <= MaxAliasDepth; n++ {
			at, more = v.c.alias(at)
		}
		if more {
			v.add(key, "it leads through more than %d aliases, or in a circle", MaxAliasDepth)
		}
	}
}

func (v *validator) positive(key string, d time.Duration) {
	if d <= 0 {
		v.add(key, "%s is no duration above zero", d)
	}
}

func (v *validator) between(key string, n, least, most int) {
	if n < least || n > most {
		v.add(key, "%d is not between %d and %d", n, least, most)
	}
}

func (v *validator) size(key string, n, least, most ByteSize) {
	if n < least || n > most {
		v.add(key, "%s is not between %s and %s", n, least, most)
	}
}

func oneOf[T ~string](v *validator, key string, value T, allowed ...T) {
	if slices.Contains(allowed, value) {
		return
	}
	quoted := make([]string, len(allowed))
	for i, a := range allowed {
		quoted[i] = strconv.Quote(string(a))
	}
	v.add(key, "%q is none of %s", value, strings.Join(quoted, ", "))
}

// checkHostPort returns the port of host:port. The host is empty, an IP address
// (IPv6 in brackets) or a name; a port of 0 stands only for listening.
func checkHostPort(s string, listen bool) (port uint16, err error) {
	host, p, err := net.SplitHostPort(s)
	if err != nil {
		return 0, fmt.Errorf(`expected host:port, such as "127.0.0.1:2525" or "[::1]:2525"; found %q`, s)
	}
	n, err := strconv.ParseUint(p, 10, 16)
	if err != nil || n == 0 && !listen {
		return 0, fmt.Errorf("%q is no port number in %q", p, s)
	}
	if _, err := netip.ParseAddr(host); err != nil && host != "" {
		if _, err := address.ParseDomain(host); err != nil {
			return 0, fmt.Errorf("the host in %q: %w", s, err)
		}
	}
	return uint16(n), nil
}
