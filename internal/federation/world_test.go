package federation_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"cmtpd/internal/account"
	"cmtpd/internal/address"
	"cmtpd/internal/channel"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/config"
	"cmtpd/internal/crypt"
	"cmtpd/internal/discovery"
	"cmtpd/internal/discovery/dnstest"
	"cmtpd/internal/durable"
	"cmtpd/internal/federation"
	"cmtpd/internal/front"
	"cmtpd/internal/guess"
	"cmtpd/internal/netbuf"
	"cmtpd/internal/queue"
	"cmtpd/internal/session"
	"cmtpd/internal/spool"
	"cmtpd/internal/trust"
	"cmtpd/internal/xzibit"
)

const patience = 20 * time.Second // for what must come; none of it is waited out

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func domain(s string) address.Domain { return must(address.ParseDomain(s)) }

func name(s string) address.Address {
	if s[0] == '@' {
		return address.Address{Domain: domain(s[1:])}
	}
	return must(address.Parse(s))
}

func newKey(t testing.TB) *crypt.PrivateKey {
	t.Helper()
	k, err := crypt.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// A clock stands still until it is moved.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

// A world has a name server, and a network in which every address leads somewhere on
// loopback, or nowhere.
type world struct {
	t     testing.TB
	dns   *dnstest.Server
	clock *clock

	mu    sync.Mutex
	hosts map[string]string // under mu: where host:port leads
	dials map[string]int    // under mu
	zone  string            // under mu
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, clock: &clock{at: time.Now().Truncate(time.Second)}, hosts: make(map[string]string), dials: make(map[string]int)}
	w.zone = "example. 600 SOA ns.example. root.example. 1 7200 3600 604800 300\n"
	w.dns = dnstest.Start(t, w.zone)
	return w
}

// publish adds records, in zone file form.
func (w *world) publish(format string, args ...any) {
	w.t.Helper()
	w.zone += fmt.Sprintf(format, args...) + "\n"
	w.dns.SetZone(w.t, w.zone)
}

// lead makes an address lead to another one.
func (w *world) lead(ip, to string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.hosts[ip+":25"] = to
}

// strand makes an address lead nowhere.
func (w *world) strand(ip string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.hosts, ip+":25")
}

func (w *world) dialed(ip string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.dials[ip+":25"]
}

func (w *world) dial(ctx context.Context, network, address string) (net.Conn, error) {
	w.mu.Lock()
	w.dials[address]++
	to, ok := w.hosts[address]
	w.mu.Unlock()
	if !ok {
		return nil, &net.OpError{Op: "dial", Net: network, Err: errors.New("connection refused")}
	}
	return new(net.Dialer).DialContext(ctx, network, to)
}

// A site is a server of one domain: sessions, accounts, spool and what meets others, all
// real.
type site struct {
	*world
	domain    address.Domain
	dir       string
	key       *crypt.PrivateKey
	users     map[string]*crypt.PrivateKey // by account
	addr      string
	spool     *spool.Spool
	accounts  *account.Store
	directory *account.Directory
	trust     *trust.Store
	peers     *federation.Peers
}

// options are what a test wants other than usual.
type options struct {
	key    *crypt.PrivateKey
	finder federation.Finder
	edit   func(*session.Config)
	meet   func(*federation.Config)
}

// site starts the server of a domain with users, at an address that its DNS names.
func (w *world) site(d, ip string, o options, users ...string) *site {
	w.t.Helper()
	w.publish("%s. 600 MX 10 mx.%s.\nmx.%s. 600 A %s", d, d, d, ip)
	s := w.serve(d, o, users...)
	w.lead(ip, s.addr)
	return s
}

// serve starts the server of a domain that no DNS leads to.
func (w *world) serve(d string, o options, users ...string) *site {
	w.t.Helper()
	s := &site{world: w, domain: domain(d), key: o.key, users: make(map[string]*crypt.PrivateKey)}
	if s.key == nil {
		s.key = newKey(w.t)
	}
	dir := w.t.TempDir()
	s.dir = dir
	s.open(dir, users)
	s.listen(dir, o)
	if o.finder == nil {
		o.finder = w.finder(false)
	}
	cfg := federation.Config{
		Domains: []address.Domain{s.domain}, Key: s.key, Finder: o.finder, Trust: s.trust,
		Dialer: &discovery.Dialer{DialContext: w.dial, Overlap: time.Second}, Timeout: patience, GreetingWait: patience,
		Now: w.clock.now, Log: slog.New(slog.DiscardHandler),
	}
	if o.meet != nil {
		o.meet(&cfg)
	}
	s.peers = federation.New(cfg)
	return s
}

// finder asks the world's name server, which is trusted to validate or not.
func (w *world) finder(trusted bool) *discovery.Finder {
	c := config.Default()
	c.DNS.Resolver, c.DNS.Timeout, c.DNS.Trusted, c.Delivery.Loopback = w.dns.Addr, time.Second, trusted, true
	return discovery.New(c, discovery.Options{Shuffle: func(int, func(i, j int)) {}})
}

// open makes what the server keeps.
func (s *site) open(dir string, users []string) {
	s.t.Helper()
	var err error
	if s.spool, err = spool.Open(filepath.Join(dir, "spool"), spool.Options{FS: durable.OS, Key: newKey(s.t), Identity: s.key}); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { s.spool.Close() })
	if s.trust, err = trust.Open(filepath.Join(dir, "trust"), trust.Options{FS: durable.OS, Now: s.clock.now}); err != nil {
		s.t.Fatal(err)
	}
	s.accounts, err = account.Open(account.Options{Dir: filepath.Join(dir, "accounts"), Invitations: filepath.Join(dir, "invitations"), FS: durable.OS, Signer: s.key, Now: time.Now})
	if err != nil {
		s.t.Fatal(err)
	}
	for _, u := range users {
		at := address.Address{Account: must(address.ParseAccount(u)), Domain: s.domain}
		key := newKey(s.t)
		ring := &xzibit.Keyring{Keys: []xzibit.KeyPair{{Key: key}}}
		sealed, err := xzibit.Seal(ring, at.String(), []byte("correct horse"), xzibit.Params{Time: 1, MemoryKiB: 8, Threads: 1})
		if err != nil {
			s.t.Fatal(err)
		}
		if _, err := s.accounts.Add(account.NewRegistration(at, key, time.Now(), sealed)); err != nil {
			s.t.Fatal(err)
		}
		s.users[u] = key
	}
	s.directory = &account.Directory{Store: s.accounts, Domains: []address.Domain{s.domain}}
}

type store struct{ *spool.Spool }

func (s store) NewWriter() (session.Writer, error) { return storeWriter{s.Spool.NewWriter()}, nil }

type storeWriter struct{ *spool.Writer }

func (w storeWriter) Submit(e spool.Entry) session.Pending { return w.Writer.Submit(e) }

// listen serves sessions.
func (s *site) listen(dir string, o options) {
	s.t.Helper()
	channels, err := channel.NewServer(channel.Config{Key: s.key, Timeout: patience})
	if err != nil {
		s.t.Fatal(err)
	}
	guesses, err := guess.Open(filepath.Join(dir, "guesses"), guess.Options{FS: durable.OS, Rates: guess.Rates{Rate: 10, Burst: 10, NetworkRate: 60, NetworkBurst: 30}})
	if err != nil {
		s.t.Fatal(err)
	}
	always := func(netip.Addr) bool { return true }
	cfg := session.Config{
		Domains: s.directory.Domains, Channel: channels, Accounts: s.accounts, Guesses: guesses, AllowTLS: always, AllowLogin: always,
		PlainLogin: true, Version: "CMTP/0.01 CMTP/1 test/1", MaxMessage: 64 << 20, CommandTimeout: patience, SessionTimeout: time.Hour,
		MinRate: 1 << 10, MessageGrace: patience, Key: s.key, Directory: s.directory, Store: store{s.spool},
		Log: slog.New(slog.DiscardHandler), Now: time.Now,
	}
	if o.edit != nil {
		o.edit(&cfg)
	}
	f := front.New(front.Config{Hostname: "mx." + s.domain.String(), Limits: front.Limits{MaxPerAddress: 10000}, IsCMTP: func(v string) bool { return cmtp.IsVerb([]byte(v)) }},
		noSMTP{}, session.New(cfg))
	l, err := front.Listen(context.Background(), "127.0.0.1:0")
	if err != nil {
		s.t.Fatal(err)
	}
	s.addr = l.Addr().String()
	served := make(chan error, 1)
	go func() { served <- f.Serve(context.Background(), l, false) }()
	s.t.Cleanup(func() {
		now, cancel := context.WithCancel(context.Background())
		cancel()
		f.Shutdown(now)
		<-served
		guesses.Close()
	})
}

type noSMTP struct{}

func (noSMTP) Serve(context.Context, *netbuf.Conn) {}

// bytesPart is a part of a message in memory.
type bytesPart []byte

func (b bytesPart) Size() int64 { return int64(len(b)) }

func (b bytesPart) WriteTo(w io.Writer) (int64, error) {
	n, err := w.Write(b)
	return int64(n), err
}

var outgoing = spool.MailboxID(account.Outgoing)

// queued puts a message of a user into the mailbox of what is to leave.
func (s *site) queued(from, to string, log string, body int) queue.Item {
	s.t.Helper()
	h := cmtp.Header{System: cmtp.SystemSealed, SourceAccount: from, SourceDomain: s.domain.String()}
	h.DestinationAccount, h.DestinationDomain, _ = strings.Cut(to, "@")
	b := make([]byte, max(body, cmtp.SealOverhead))
	copy(b, fmt.Sprint(time.Now().UnixNano()))
	return s.put(outgoing, h, log, b)
}

// put stores a message.
func (s *site) put(box spool.MailboxID, h cmtp.Header, log string, body []byte) queue.Item {
	s.t.Helper()
	w := s.spool.NewWriter()
	defer w.Abort()
	digest, err := cmtp.WriteDigested(w, h, []byte(log), bytesPart(body), []cmtp.Part{bytesPart(body)})
	if err != nil {
		s.t.Fatal(err)
	}
	stored, err := w.Commit(s.t.Context(), spool.Entry{Mailbox: box, Digest: digest, From: "192.0.2.7", Received: s.clock.now()})
	if err != nil {
		s.t.Fatal(err)
	}
	return s.item(stored.ID)
}

// copy stores a message once more, as another mailbox's.
func (s *site) copy(id spool.ID) spool.ID {
	s.t.Helper()
	r, err := s.spool.Open(id)
	if err != nil {
		s.t.Fatal(err)
	}
	defer r.Close()
	w := s.spool.NewWriter()
	defer w.Abort()
	if _, err := io.Copy(w, r); err != nil {
		s.t.Fatal(err)
	}
	stored, err := w.Commit(s.t.Context(), spool.Entry{Mailbox: spool.MailboxID{9}, Digest: r.Info().Digest})
	if err != nil {
		s.t.Fatal(err)
	}
	return stored.ID
}

func (s *site) item(id spool.ID) queue.Item {
	s.t.Helper()
	info, err := s.spool.Get(id)
	if err != nil {
		s.t.Fatal(err)
	}
	return queue.Item{ID: id, Digest: info.Digest, Size: info.Size, Arrived: info.Received,
		State: queue.State{Attempts: 1, First: s.clock.now(), Last: s.clock.now()}}
}

// box returns the messages of a user.
func (s *site) box(user string) (all []*stored) {
	s.t.Helper()
	a, err := s.accounts.Get(address.Address{Account: must(address.ParseAccount(user)), Domain: s.domain})
	if err != nil {
		s.t.Fatal(err)
	}
	for info, err := range s.spool.List(spool.MailboxID(a.ID), 0) {
		if err != nil {
			s.t.Fatal(err)
		}
		r, err := s.spool.Open(info.ID)
		if err != nil {
			s.t.Fatal(err)
		}
		l, err := cmtp.ParseLayout(r, r.Size())
		if err != nil {
			s.t.Fatal(err)
		}
		body, err := io.ReadAll(l.Body.Section(r))
		if err := errors.Join(err, r.Close()); err != nil {
			s.t.Fatal(err)
		}
		all = append(all, &stored{l, body, info})
	}
	return all
}

// stored is a message as it is in a mailbox.
type stored struct {
	*cmtp.Layout
	body []byte
	info spool.Info
}

// open unseals a letter.
func (m *stored) open(t testing.TB, key *crypt.PrivateKey) *cmtp.Body {
	t.Helper()
	plain, err := key.Open(nil, m.body)
	if err != nil {
		t.Fatal(err)
	}
	b, err := cmtp.ParseBody(plain)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// deliver sends messages to a domain, as the queue does.
func (s *site) deliver(to string, items ...queue.Item) ([]queue.Result, error) {
	s.t.Helper()
	d := federation.NewDeliverer(s.peers, s.spool, "mx."+s.domain.String())
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	o, err := d.Open(ctx, to)
	cancel()
	if err != nil {
		return nil, err
	}
	defer o.Close()
	return o.Send(s.t.Context(), items)
}

// failure returns what the queue is told of a domain that cannot be met.
func failure(t testing.TB, err error) queue.Result {
	t.Helper()
	f, ok := errors.AsType[*queue.Failure](err)
	if !ok {
		t.Fatalf("error %v, want a *queue.Failure", err)
	}
	return f.Result
}
