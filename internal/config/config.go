// Package config reads cmtpd's configuration: one strict TOML file.
//
// It guarantees that a *Config that it returns is complete and consistent, so
// that nothing listens on half a configuration: every key has a default or is
// required, an unknown key is an error, and all that is wrong with a file comes
// back at once as a list that names file, line and key of each problem.
// Everything that the daemon writes lies under DataDir. The file holds no secret.
//
// configs/cmtpd.toml in the source tree documents every key for operators, and
// a test holds it to this package.
package config

import (
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"
	"time"

	"cmtpd/internal/address"
)

// A Config is the whole configuration. The toml tags are the keys of the file;
// configs/cmtpd.toml gives each key's unit and reason. What a running daemon can
// change has the tag reload:"live"; see Changes.
type Config struct {
	// Hostname is the name that greetings show. Parse takes the machine's own
	// when it is not set; Default leaves it empty.
	Hostname address.Domain `toml:"hostname,omitempty"`
	// Domains are the mail domains of this server, at least one, each once. The
	// first one is meant where a client names none.
	Domains []address.Domain `toml:"domains"`
	// DataDir is an absolute path. Parse takes a relative one from the file's
	// own directory.
	DataDir string `toml:"data_dir"`
	// Postmaster gets the mail to postmaster. The zero address: such mail stays
	// in the operator's mailbox, sealed to the server, as mail to the empty
	// account always does.
	Postmaster address.Address `toml:"postmaster,omitempty" reload:"live"`
	// ShutdownGrace is how long running sessions may finish after SIGTERM.
	ShutdownGrace time.Duration `toml:"shutdown_grace" reload:"live"`

	Listen   Listen   `toml:"listen"`
	SMTP     SMTP     `toml:"smtp"`
	DNS      DNS      `toml:"dns"`
	Delivery Delivery `toml:"delivery"`
	Metrics  Metrics  `toml:"metrics"`
	Spool    Spool    `toml:"spool"`
	Accounts Accounts `toml:"accounts"`
	Limits   Limits   `toml:"limits"`
	Log      Log      `toml:"log"`

	// Aliases maps local addresses to local addresses, at most MaxAliasDepth in
	// a row and never in a circle.
	Aliases map[address.Address]address.Address `toml:"aliases,omitempty" reload:"live"`
}

// Listen says where connections are taken. Addresses are host:port; an empty
// host means every address, port 0 any free port.
type Listen struct {
	Addresses []string       `toml:"addresses"`                // CMTP and SMTP on one port
	CMTPOnly  []string       `toml:"cmtp_only"`                // no greeting, no SMTP
	ProxyFrom []netip.Prefix `toml:"proxy_from" reload:"live"` // whose PROXY header is required and believed
}

// SMTP says what becomes of SMTP sessions.
type SMTP struct {
	Mode           SMTPMode      `toml:"mode" reload:"live"`
	Backend        string        `toml:"backend" reload:"live"` // host:port; set when Mode is Relay
	ProxyProtocol  ProxyProtocol `toml:"proxy_protocol" reload:"live"`
	RelayCheck     RelayCheck    `toml:"relay_check" reload:"live"`
	ConnectTimeout time.Duration `toml:"connect_timeout" reload:"live"`
	IdleTimeout    time.Duration `toml:"idle_timeout" reload:"live"`
	SessionTimeout time.Duration `toml:"session_timeout" reload:"live"`
}

// SMTPMode is the value of smtp.mode.
type SMTPMode string

// Relay hands SMTP sessions to the backend, Refuse answers them with 521.
const (
	Relay  SMTPMode = "relay"
	Refuse SMTPMode = "refuse"
)

// ProxyProtocol is the value of smtp.proxy_protocol: how the backend learns who
// the client is. It is empty only in a configuration that does not relay.
type ProxyProtocol string

// The versions of the PROXY protocol, and none at all.
const (
	ProxyV1   ProxyProtocol = "v1"
	ProxyV2   ProxyProtocol = "v2"
	ProxyNone ProxyProtocol = "none"
)

// RelayCheck is the value of smtp.relay_check: what happens when the backend
// would relay for a stranger.
type RelayCheck string

// RefuseBackend does not front such a backend, WarnBackend only says so.
const (
	RefuseBackend RelayCheck = "refuse"
	WarnBackend   RelayCheck = "warn"
)

// DNS says which resolver is asked, and how far it is believed.
type DNS struct {
	Resolver string        `toml:"resolver"` // host:port; empty: the system's
	Timeout  time.Duration `toml:"timeout"`  // for one answer, before the next try
	// Trusted says that Resolver, then an IP address, validates DNSSEC and that
	// nobody else can write on the path to it.
	Trusted bool `toml:"trusted"`
	// A validating resolver refuses BrokenZone and vouches for SignedZone.
	BrokenZone address.Domain `toml:"broken_zone"`
	SignedZone address.Domain `toml:"signed_zone"`
}

// Delivery says how mail leaves for other servers.
type Delivery struct {
	Port         int  `toml:"port"`
	Loopback     bool `toml:"loopback"`      // whether other servers may be on this host's own addresses
	Intranet     bool `toml:"intranet"`      // whether they may be in private networks
	KnownDomains int  `toml:"known_domains"` // whose servers' keys are remembered
	// KeyCache is how many answers of other servers about names of theirs are kept, for
	// KeyCacheTime.
	KeyCache     int           `toml:"key_cache"`
	KeyCacheTime time.Duration `toml:"key_cache_time"`

	MaxConnections          int           `toml:"max_connections"`
	MaxConnectionsPerDomain int           `toml:"max_connections_per_domain"`
	RetryMin                time.Duration `toml:"retry_min"` // after the first attempt
	RetryMax                time.Duration `toml:"retry_max"`
	DelayNotice             time.Duration `toml:"delay_notice"`
	MaxAge                  time.Duration `toml:"max_age"`
}

// Metrics says where metrics are served.
type Metrics struct {
	Listen      string `toml:"listen"`       // host:port; empty: nowhere
	AllowRemote bool   `toml:"allow_remote"` // other addresses than loopback ones
}

// Spool says how the spool is looked after.
type Spool struct {
	ScrubEvery time.Duration `toml:"scrub_every"` // how long one reading of all of it takes
}

// Accounts says how users come to their keys.
type Accounts struct {
	InvitationLife time.Duration `toml:"invitation_life" reload:"live"`
	PlainLogin     bool          `toml:"plain_login" reload:"live"` // LOGIN for whoever asks, where a password alone opens the xzibit
}

// Limits are what one client, and all of them, may take. None can be switched
// off.
type Limits struct {
	MaxMessageSize           ByteSize      `toml:"max_message_size" reload:"live"`
	MaxConnections           int           `toml:"max_connections" reload:"live"`
	MaxConnectionsPerAddress int           `toml:"max_connections_per_address" reload:"live"` // IPv6: per /64
	ConnectionRate           int           `toml:"connection_rate" reload:"live"`             // per minute and address
	ConnectionBurst          int           `toml:"connection_burst" reload:"live"`
	FloodPause               time.Duration `toml:"flood_pause" reload:"live"`
	CommandTimeout           time.Duration `toml:"command_timeout" reload:"live"`
	SessionTimeout           time.Duration `toml:"session_timeout" reload:"live"`
	MinRate                  ByteSize      `toml:"min_rate" reload:"live"`      // per second
	MessageGrace             time.Duration `toml:"message_grace" reload:"live"` // before MinRate is asked
	MessageMemory            ByteSize      `toml:"message_memory"`              // of all sessions together
	LargeMessage             ByteSize      `toml:"large_message"`
	MinFreeSpace             ByteSize      `toml:"min_free_space" reload:"live"`
	MailboxSize              ByteSize      `toml:"mailbox_size" reload:"live"`
	MaxWaits                 int           `toml:"max_waits" reload:"live"` // clients that wait for news
	MaxWaitsAccount          int           `toml:"max_waits_account" reload:"live"`
	MarkRate                 int           `toml:"mark_rate" reload:"live"` // per minute and account
	MarkBurst                int           `toml:"mark_burst" reload:"live"`
	MailRate                 int           `toml:"mail_rate" reload:"live"` // per minute and account
	MailBurst                int           `toml:"mail_burst" reload:"live"`
	MailPerDay               ByteSize      `toml:"mail_per_day" reload:"live"` // of an account
	LookupRate               int           `toml:"lookup_rate" reload:"live"`  // per minute and account
	LookupBurst              int           `toml:"lookup_burst" reload:"live"`
	NewDomainsRate           int           `toml:"new_domains_rate" reload:"live"` // per hour and account
	NewDomainsBurst          int           `toml:"new_domains_burst" reload:"live"`
	LoginRate                int           `toml:"login_rate" reload:"live"` // per minute and address
	LoginBurst               int           `toml:"login_burst" reload:"live"`
	GuessRate                int           `toml:"guess_rate" reload:"live"` // per hour and account
	GuessBurst               int           `toml:"guess_burst" reload:"live"`
	GuessNetworkRate         int           `toml:"guess_network_rate" reload:"live"` // per hour and address
	GuessNetworkBurst        int           `toml:"guess_network_burst" reload:"live"`
	StartTLSRate             int           `toml:"starttls_rate" reload:"live"` // per minute and address
	StartTLSBurst            int           `toml:"starttls_burst" reload:"live"`
	HandshakeTimeout         time.Duration `toml:"handshake_timeout" reload:"live"`
	MaxHandshakes            int           `toml:"max_handshakes" reload:"live"`         // computed at once
	AcceptPlaintext          bool          `toml:"accept_plaintext" reload:"live"`       // crypto system 0
	AcceptUnprovenSource     bool          `toml:"accept_unproven_source" reload:"live"` // outside of CMTP 1
}

// Log says what is logged and how.
type Log struct {
	Level  LogLevel  `toml:"level" reload:"live"`
	Format LogFormat `toml:"format"`
}

// LogLevel is the value of log.level. It is a slog.Leveler.
type LogLevel string

// The levels of log/slog.
const (
	LogDebug LogLevel = "debug"
	LogInfo  LogLevel = "info"
	LogWarn  LogLevel = "warn"
	LogError LogLevel = "error"
)

// Level returns the level for log/slog; an unknown one is slog.LevelInfo.
func (l LogLevel) Level() slog.Level {
	switch l {
	case LogDebug:
		return slog.LevelDebug
	case LogWarn:
		return slog.LevelWarn
	case LogError:
		return slog.LevelError
	}
	return slog.LevelInfo
}

// LogFormat is the value of log.format.
type LogFormat string

// LogText is key=value lines, LogJSON one JSON object a line.
const (
	LogText LogFormat = "text"
	LogJSON LogFormat = "json"
)

// Default returns every default. It lacks what has none: Hostname and Domains.
func Default() *Config {
	return &Config{
		DataDir:       "/var/lib/cmtpd",
		ShutdownGrace: 30 * time.Second,
		Listen: Listen{
			Addresses: []string{":25"},
			CMTPOnly:  []string{},
			ProxyFrom: []netip.Prefix{},
		},
		SMTP: SMTP{
			Mode:           Refuse,
			RelayCheck:     RefuseBackend,
			ConnectTimeout: 30 * time.Second,
			IdleTimeout:    10 * time.Minute, // RFC 5321 section 4.5.3.2 asks for five at least
			SessionTimeout: 2 * time.Hour,
		},
		DNS: DNS{
			Timeout:    5 * time.Second,
			BrokenZone: domain("dnssec-failed.org"),
			SignedZone: domain("org"),
		},
		Delivery: Delivery{
			Port:                    25,
			KnownDomains:            100_000,
			KeyCache:                10000,
			KeyCacheTime:            time.Hour,
			MaxConnections:          64,
			MaxConnectionsPerDomain: 2,
			RetryMin:                time.Minute,
			RetryMax:                4 * time.Hour,
			DelayNotice:             4 * time.Hour,
			MaxAge:                  10 * 24 * time.Hour,
		},
		Spool:    Spool{ScrubEvery: 7 * 24 * time.Hour},
		Accounts: Accounts{InvitationLife: 7 * 24 * time.Hour, PlainLogin: true},
		Limits:   defaultLimits(),
		Log:      Log{Level: LogInfo, Format: LogText},
	}
}

func defaultLimits() Limits {
	return Limits{
		MaxMessageSize:           64 * MiB,
		MaxConnections:           8192,
		MaxConnectionsPerAddress: 64,
		CommandTimeout:           5 * time.Minute,
		SessionTimeout:           time.Hour,
		MinRate:                  1 * KiB,
		MessageGrace:             30 * time.Second,
		MessageMemory:            64 * MiB,
		LargeMessage:             256 * KiB,
		MinFreeSpace:             256 * MiB,
		MailboxSize:              16 * GiB,
		MaxWaits:                 32768,
		MaxWaitsAccount:          32,
		MarkRate:                 60,
		MarkBurst:                100_000,
		MailRate:                 120,
		MailBurst:                100_000,
		MailPerDay:               64 * GiB,
		LookupRate:               60,
		LookupBurst:              600,
		NewDomainsRate:           10,
		NewDomainsBurst:          1000,
		LoginRate:                10,
		LoginBurst:               20,
		ConnectionRate:           600,
		ConnectionBurst:          1200,
		FloodPause:               10 * time.Second,
		StartTLSRate:             120,
		StartTLSBurst:            240,
		HandshakeTimeout:         10 * time.Second,
		MaxHandshakes:            2,
		GuessRate:                10,
		GuessBurst:               10,
		GuessNetworkRate:         60,
		GuessNetworkBurst:        30,
	}
}

// domain returns the domain in a constant.
func domain(s string) address.Domain {
	d, err := address.ParseDomain(s)
	if err != nil {
		panic("config: " + err.Error())
	}
	return d
}

// IsLocal reports whether d is one of this server's domains.
func (c *Config) IsLocal(d address.Domain) bool { return slices.Contains(c.Domains, d) }

// MinInvitationLife and MaxInvitationLife are how long an invitation may last: it takes a
// moment to hand over a code.
const (
	MinInvitationLife = time.Minute
	MaxInvitationLife = 366 * 24 * time.Hour
)

// MaxAliasDepth is how many aliases may follow one another.
const MaxAliasDepth = 4

// alias returns what a stands for, itself first, then without its subaddress.
func (c *Config) alias(a address.Address) (address.Address, bool) {
	if to, ok := c.Aliases[a]; ok {
		return to, true
	}
	a.Account = a.Account.Base()
	to, ok := c.Aliases[a]
	return to, ok
}

// SpoolDir is where the signed log of messages lies.
func (c *Config) SpoolDir() string { return filepath.Join(c.DataDir, "spool") }

// AccountsDir is where users, their keys and xzibits lie.
func (c *Config) AccountsDir() string { return filepath.Join(c.DataDir, "accounts") }

// GuessesDir is where it is kept how often strangers guessed.
func (c *Config) GuessesDir() string { return filepath.Join(c.DataDir, "guesses") }

// InvitationsDir is where the open invitations lie.
func (c *Config) InvitationsDir() string { return filepath.Join(c.DataDir, "invitations") }

// TrustDir is where the keys of other domains' servers are remembered.
func (c *Config) TrustDir() string { return filepath.Join(c.DataDir, "trust") }

// KeyFile holds the server's Ed25519 identity.
func (c *Config) KeyFile() string { return filepath.Join(c.DataDir, "server.key") }

// SpoolKeyFile holds the key that signs the spool.
func (c *Config) SpoolKeyFile() string { return filepath.Join(c.DataDir, "spool.key") }

// ControlSocket is where the tool speaks to the running daemon.
func (c *Config) ControlSocket() string { return filepath.Join(c.DataDir, "control.sock") }

// LockFile is what keeps a second daemon off the same data.
func (c *Config) LockFile() string { return filepath.Join(c.DataDir, "lock") }
