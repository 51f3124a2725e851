package session_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"cmtpd/internal/account"
	"cmtpd/internal/address"
	"cmtpd/internal/channel"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/crypt"
	"cmtpd/internal/durable"
	"cmtpd/internal/front"
	"cmtpd/internal/guess"
	"cmtpd/internal/mailbox"
	"cmtpd/internal/netbuf"
	"cmtpd/internal/session"
	"cmtpd/internal/spool"
)

const (
	version  = "CMTP/0.01 cmtpd/0.1.0"
	greeting = "220 mail.cref.example ESMTP CMTP ready\r\n"
	patience = 20 * time.Second // for what must come; none of it is waited out
)

// The tables of reply lengths in docs/protocol.md, section 4.
const (
	wordReply = 7 + 64 + 1
	keyReply  = 4 + 32 + 64 + 1
)

type hexBytes []byte

func (h *hexBytes) UnmarshalText(text []byte) (err error) {
	*h, err = hex.DecodeString(string(text))
	return err
}

// vectors is what this package reads of testdata/cmtp-0.01.json.
type vectors struct {
	Keys map[string]struct {
		Secret hexBytes `json:"ed25519_secret"`
	}
	Xzibit  struct{ Good []struct{ Xzibit hexBytes } }
	Message struct {
		Good []struct {
			Name    string
			Message hexBytes
		}
	}
	Replies []struct {
		Name  string
		Reply hexBytes
	} `json:"replies_documents_2016"`
}

var loadVectors = sync.OnceValue(func() *vectors {
	b, err := os.ReadFile("../../testdata/cmtp-0.01.json")
	if err != nil {
		panic(err)
	}
	v := &vectors{}
	if err := json.Unmarshal(b, v); err != nil {
		panic(err)
	}
	return v
})

func vectorKey(tb testing.TB, name string) *crypt.PrivateKey {
	tb.Helper()
	k, err := crypt.ParsePrivateKey(loadVectors().Keys[name].Secret)
	if err != nil {
		tb.Fatalf("the vectors' key %q: %v", name, err)
	}
	return k
}

// vectorReply returns the documented bytes of a reply.
func vectorReply(tb testing.TB, name string) string {
	tb.Helper()
	for _, r := range loadVectors().Replies {
		if r.Name == name {
			return string(r.Reply)
		}
	}
	tb.Fatalf("the vectors hold no reply %q", name)
	return ""
}

func success(tb testing.TB) string { return vectorReply(tb, "SUCCESS") }
func failure(tb testing.TB) string { return vectorReply(tb, "FAILURE") }

func mustAddress(s string) address.Address {
	a, err := address.Parse(s)
	if err != nil {
		panic(err)
	}
	return a
}

// setup is what a test wants other than usual.
type setup struct {
	cmtpOnly   bool
	edit       func(*session.Config)
	front      front.Config
	dir        string     // of all data, if not one that goes with the test
	fs         durable.FS // of all data, if not the real one
	postmaster address.Address
	waits      int // limits of clients that wait, if not 50 of a mailbox and 100 in all
}

// server is the CMTP half of cmtpd: front, session, accounts and spool, all real.
// Alice and Bob, whose keys are the vectors', Zoë and Carol, who has another
// domain, are its users; Dave is disabled.
type server struct {
	tb       testing.TB
	dir      string // of all that it writes, unless setup.fs has it
	addr     string
	front    *front.Server
	accounts *account.Store
	spool    *spool.Spool
	boxes    *mailbox.Mailboxes
	tally    *tally
	log      *syncBuffer
	stop     func() // at most once; the test's end calls it too
}

var users = map[string]string{
	"alice@cref.example": "alice", "bob@cref.example": "bob", "zoë@cref.example": "bob",
	"carol@second.example": "alice", "dave@cref.example": "bob",
}

func directory(tb testing.TB, dir string, fsys durable.FS, key *crypt.PrivateKey, postmaster address.Address, onChange func(account.ID)) *account.Directory {
	tb.Helper()
	store, err := account.Open(account.Options{
		Dir: filepath.Join(dir, "accounts"), Invitations: filepath.Join(dir, "invitations"), FS: fsys, Signer: key, Now: time.Now, OnChange: onChange,
	})
	if err != nil {
		tb.Fatal(err)
	}
	for addr, name := range users {
		r := account.NewRegistration(mustAddress(addr), vectorKey(tb, name), time.Now(), loadVectors().Xzibit.Good[0].Xzibit)
		if _, err := store.Add(r); err != nil && !errors.Is(err, account.ErrExists) {
			tb.Fatal(err)
		}
	}
	if err := store.SetDisabled(mustAddress("dave@cref.example"), true); err != nil {
		tb.Fatal(err)
	}
	return &account.Directory{
		Store: store, Domains: []address.Domain{mustAddress("x@cref.example").Domain, mustAddress("x@second.example").Domain},
		Aliases: map[address.Address]address.Address{
			mustAddress("sales@cref.example"):  mustAddress("alice@cref.example"),
			mustAddress("team@second.example"): mustAddress("alice@cref.example"),
		},
		Postmaster: postmaster,
	}
}

type store struct{ *spool.Spool }

func (s store) NewWriter() (session.Writer, error) { return storeWriter{s.Spool.NewWriter()}, nil }

type storeWriter struct{ *spool.Writer }

func (w storeWriter) Submit(e spool.Entry) session.Pending { return w.Writer.Submit(e) }

// syncBuffer is a log that many write and the test reads.
type syncBuffer struct {
	mu   sync.Mutex
	buf  bytes.Buffer
	more chan struct{} // closed at the next line; nil while nobody waits
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.more != nil {
		close(b.more)
		b.more = nil
	}
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// tally is the observer: what became of every message, in order.
type tally struct {
	fates    chan session.Outcome
	mu       sync.Mutex
	commands map[cmtp.Verb][2]int // refused, answered
	guesses  map[session.Guess]int
	refused  map[refusal]int
	ends     map[session.End]int
}

func newTally() *tally {
	return &tally{fates: make(chan session.Outcome, 4096), commands: make(map[cmtp.Verb][2]int), guesses: make(map[session.Guess]int),
		refused: make(map[refusal]int), ends: make(map[session.End]int)}
}

func (t *tally) Command(v cmtp.Verb, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.commands[v]
	if ok {
		n[1]++
	} else {
		n[0]++
	}
	t.commands[v] = n
}

func (t *tally) Message(o session.Outcome, _ int64) { t.fates <- o }
func (t *tally) Fetched(int64)                      {}

func (t *tally) Refused(s cmtp.Status, l session.Limit) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.refused[refusal{s, l}]++
}

func (t *tally) Ended(_ string, how session.End, _ time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ends[how]++
}

// A refusal is what the observer was told of one.
type refusal struct {
	status cmtp.Status
	limit  session.Limit
}

func (t *tally) Guess(g session.Guess, n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.guesses[g] += n
}

// fate waits for the next message's.
func (t *tally) fate(tb testing.TB) session.Outcome {
	tb.Helper()
	select {
	case o := <-t.fates:
		return o
	case <-time.After(patience):
		tb.Fatal("no message has come to its end")
		return ""
	}
}

func sessionConfig(tb testing.TB, root string, fsys durable.FS, key *crypt.PrivateKey, d *account.Directory, st session.Store, o session.Observer) session.Config {
	tb.Helper()
	channels, err := channel.NewServer(channel.Config{Key: key, Timeout: patience})
	if err != nil {
		tb.Fatal(err)
	}
	guesses, err := guess.Open(filepath.Join(root, "guesses"), guess.Options{FS: fsys, Rates: guess.Rates{Rate: 10, Burst: 10, NetworkRate: 60, NetworkBurst: 30}})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { guesses.Close() })
	return session.Config{
		Domains: d.Domains, Channel: channels, Accounts: d.Store, Guesses: guesses, AllowTLS: func(netip.Addr) bool { return true },
		PlainLogin: true, AcceptUnproven: true,
		Version: version, MaxMessage: 1 << 20, CommandTimeout: patience, SessionTimeout: time.Hour, MinRate: 1 << 10,
		MessageGrace: patience, Key: key, Directory: d, Store: st, AllowLogin: func(netip.Addr) bool { return true },
		Observer: o, Log: slog.New(slog.DiscardHandler), Now: time.Now,
	}
}

func openSpool(tb testing.TB, dir string, fsys durable.FS, identity *crypt.PrivateKey) *spool.Spool {
	tb.Helper()
	return openSpoolWith(tb, dir, spool.Options{FS: fsys, Identity: identity})
}

func openSpoolWith(tb testing.TB, dir string, o spool.Options) *spool.Spool {
	tb.Helper()
	o.Key = spoolKey(tb)
	s, err := spool.Open(dir, o)
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

func spoolKey(tb testing.TB) *crypt.PrivateKey {
	tb.Helper()
	k, err := crypt.PrivateKeyFromSeed(bytes.Repeat([]byte{7}, crypt.SeedSize))
	if err != nil {
		tb.Fatal(err)
	}
	return k
}

func newMailboxes(tb testing.TB, waits int) *mailbox.Mailboxes {
	tb.Helper()
	if waits == 0 {
		waits = 50
	}
	return mailbox.New(mailbox.Config{Key: spoolKey(tb).Public(),
		Limits: mailbox.Limits{Size: 1 << 30, MaxWaits: 2 * waits, MaxWaitsAccount: waits, MarkRate: 60, MarkBurst: 100_000}})
}

// serve starts a server. At its end no goroutine of it may be left.
func serve(tb testing.TB, o setup) *server {
	tb.Helper()
	before := runtime.NumGoroutine()
	if o.dir == "" {
		o.dir = tb.TempDir()
	}
	s := &server{tb: tb, dir: o.dir, tally: newTally(), log: &syncBuffer{}}
	key := vectorKey(tb, "server")
	root := "/"
	if o.fs == nil {
		root, o.fs = s.dir, durable.OS
	}
	s.boxes = newMailboxes(tb, o.waits)
	dir := directory(tb, root, o.fs, key, o.postmaster, func(id account.ID) { s.boxes.Tell(spool.MailboxID(id)) })
	s.accounts = dir.Store
	s.spool = openSpoolWith(tb, filepath.Join(root, "spool"), spool.Options{FS: o.fs, Identity: key, Changed: s.boxes.Changed})
	s.boxes.Use(s.spool)
	cfg := sessionConfig(tb, root, o.fs, key, dir, store{s.spool}, s.tally)
	cfg.Mailboxes = s.boxes
	cfg.Log = slog.New(slog.NewJSONHandler(s.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	if o.edit != nil {
		o.edit(&cfg)
	}
	o.front.Hostname = "mail.cref.example"
	o.front.IsCMTP = func(verb string) bool { return cmtp.IsVerb([]byte(verb)) }
	if o.front.MaxPerAddress == 0 {
		o.front.MaxPerAddress = 10000
	}
	s.front = front.New(o.front, noSMTP{tb}, session.New(cfg))
	l, err := front.Listen(context.Background(), "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	s.addr = l.Addr().String()
	served := make(chan error, 1)
	go func() { served <- s.front.Serve(context.Background(), l, o.cmtpOnly) }()
	s.stop = sync.OnceFunc(func() {
		now, cancel := context.WithCancel(context.Background())
		cancel()
		if err := s.front.Shutdown(now); err != nil && !errors.Is(err, context.Canceled) {
			tb.Errorf("Shutdown: %v", err)
		}
		if err := <-served; err != nil {
			tb.Errorf("Serve: %v", err)
		}
		if err := s.spool.Close(); err != nil {
			tb.Errorf("closing the spool: %v", err)
		}
		noneLeft(tb, before)
	})
	tb.Cleanup(s.stop)
	return s
}

// noneLeft waits until no more goroutines run than before. The runtime gives no
// signal when one is gone, so this looks again and again.
func noneLeft(tb testing.TB, before int) {
	for end := time.Now().Add(patience); runtime.NumGoroutine() > before; runtime.Gosched() {
		if time.Now().After(end) {
			stacks := make([]byte, 1<<20)
			tb.Errorf("%d goroutines are left, %d were before:\n%s", runtime.NumGoroutine(), before,
				stacks[:runtime.Stack(stacks, true)])
			return
		}
	}
}

// noSMTP fails the test: nothing here speaks it.
type noSMTP struct{ tb testing.TB }

func (h noSMTP) Serve(_ context.Context, c *netbuf.Conn) {
	h.tb.Errorf("a session of %v went to SMTP", c.Client)
}

// files lists what lies below the server's directory: names, lengths, digests.
func (s *server) files() (list []string) {
	s.tb.Helper()
	err := filepath.WalkDir(s.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		list = append(list, fmt.Sprintf("%s %d %x", path, len(data), sha256.Sum256(data)))
		return err
	})
	if err != nil {
		s.tb.Fatal(err)
	}
	return list
}

// unchanged fails the test when stopping the server leaves other files than before.
func (s *server) unchanged(before []string) {
	s.tb.Helper()
	s.stop()
	if after := s.files(); !slices.Equal(before, after) {
		s.tb.Errorf("files before:\n%s\nafter:\n%s", strings.Join(before, "\n"), strings.Join(after, "\n"))
	}
}

// mailbox returns the messages of a user, or of the operator for no address.
func (s *server) mailbox(addr string) []string {
	s.tb.Helper()
	id := account.Operator
	if addr != "" {
		a, err := s.accounts.Get(mustAddress(addr))
		if err != nil {
			s.tb.Fatal(err)
		}
		id = a.ID
	}
	return s.messages(spool.MailboxID(id))
}

// messages reads a mailbox.
func (s *server) messages(id spool.MailboxID) (messages []string) {
	s.tb.Helper()
	for info, err := range s.spool.List(id, 0) {
		if err != nil {
			s.tb.Fatal(err)
		}
		r, err := s.spool.Open(info.ID)
		if err != nil {
			s.tb.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err := errors.Join(err, r.Close()); err != nil {
			s.tb.Fatal(err)
		}
		messages = append(messages, string(data))
	}
	return messages
}

// peer is a client that trusts nothing.
type peer struct {
	*net.TCPConn
	tb testing.TB
}

// dial connects and, on a shared port, reads the greeting.
func (s *server) dial(shared bool) *peer {
	s.tb.Helper()
	c, err := net.Dial("tcp", s.addr)
	if err != nil {
		s.tb.Fatal(err)
	}
	s.tb.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	p := &peer{c.(*net.TCPConn), s.tb}
	if shared {
		p.expect(greeting)
	}
	return p
}

func (p *peer) send(parts ...string) {
	p.tb.Helper()
	for _, s := range parts {
		if _, err := io.WriteString(p, s); err != nil {
			p.tb.Fatalf("sending: %v", err)
		}
	}
}

// expect reads exactly want.
func (p *peer) expect(want string) {
	p.tb.Helper()
	got := make([]byte, len(want))
	if n, err := io.ReadFull(p, got); err != nil || string(got) != want {
		p.tb.Fatalf("read %q, %v\nwant %q", got[:n], err, want)
	}
}

// expectEnd reads the end of the stream, and not a byte before it.
func (p *peer) expectEnd() {
	p.tb.Helper()
	if got, err := io.ReadAll(p); err != nil || len(got) > 0 {
		p.tb.Fatalf("read %q, %v; want the end", got, err)
	}
}

// bytesPart is a part of a message in memory.
type bytesPart []byte

func (b bytesPart) Size() int64 { return int64(len(b)) }

func (b bytesPart) WriteTo(w io.Writer) (int64, error) {
	n, err := w.Write(b)
	return int64(n), err
}

// to returns the header of a message from Bob to addr, which need not be one.
func to(addr string) cmtp.Header {
	account, domain, _ := strings.Cut(addr, "@")
	return cmtp.Header{System: cmtp.SystemSealed, DestinationAccount: account, DestinationDomain: domain,
		SourceAccount: "bob", SourceDomain: "other.example"}
}

// message returns a message on the wire.
func message(tb testing.TB, h cmtp.Header, body string, attachments ...string) string {
	tb.Helper()
	var parts []cmtp.Part
	for _, a := range attachments {
		parts = append(parts, bytesPart(a))
	}
	var b bytes.Buffer
	if err := cmtp.WriteMessage(&b, h, nil, bytesPart(body), parts); err != nil {
		tb.Fatal(err)
	}
	return b.String()
}

// sealed returns n bytes that could be a sealed box, different for each seed.
func sealed(seed string, n int) string {
	b := make([]byte, n)
	rand.NewChaCha8(sha256.Sum256([]byte(seed))).Read(b)
	return string(b)
}
