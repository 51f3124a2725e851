// Package session serves CMTP: two dialects that turn commands into replies, for
// CMTP 0.01 and for CMTP 1 inside its channel, and a driver that owns the socket,
// its deadlines and its limits.
//
// It guarantees that a message is acknowledged only after the store has said that
// it is durable, that a refused message leaves nothing behind, that nothing which was
// sent in the clear counts inside the channel, that nobody but its proven user writes
// as one of this server's accounts or to another server, and that a client, whatever
// it sends or leaves out, costs bounded memory and time.
package session

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"cmtpd/internal/account"
	"cmtpd/internal/address"
	"cmtpd/internal/channel"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/crypt"
	"cmtpd/internal/mailbox"
	"cmtpd/internal/netbuf"
	"cmtpd/internal/spool"
)

// A Directory tells whose a name is. account.Directory is one.
type Directory interface {
	// Domain returns the server's domain of that name, the first for the empty one.
	Domain(name string) (address.Domain, error)
	// Resolve returns the account that takes mail for a name, nil where that is
	// the server itself, or an error.
	Resolve(name, domain string) (*account.Account, error)
	// Login returns the account that LOGIN names.
	Login(user string) (*account.Account, error)
	// Account returns the account of exactly this address.
	Account(at address.Address) (*account.Account, error)
}

// Accounts are changed by their users. account.Store is one. What a method returns
// is on disk.
type Accounts interface {
	// Enroll evaluates a blinded element for who has the code of an invitation.
	Enroll(at address.Address, code string, blinded [32]byte) ([32]byte, error)
	// Register makes or resets the account of an invitation.
	Register(at address.Address, code string, form *cmtp.RegisterForm) (*account.Account, error)
	// Upload replaces an account's keyring, and its key where one comes with it.
	Upload(id account.ID, form *cmtp.UploadForm) (*account.Account, error)
	// EnsureSeed gives an account what UNLOCK needs, if it has none.
	EnsureSeed(id account.ID) (*account.Account, error)
}

// Guesses bounds the attempts on an account. guess.Budget is one.
type Guesses interface {
	// Charge takes an attempt, or fails with a *guess.Exhausted. What it took
	// survives a restart.
	Charge(account [16]byte, from netip.Addr) error
	// ChargeNetwork takes an attempt on an account that does not exist.
	ChargeNetwork(from netip.Addr) error
	// Refund gives n attempts back, since from there the account's user was proven.
	Refund(account [16]byte, from netip.Addr, n int) error
}

// A Store takes messages in. It is used by many sessions at once.
type Store interface {
	// NewWriter begins a message. It fails when there is no room for one now; it, and a Writer's Write, wrap
	// mailbox.ErrNoRoom then.
	NewWriter() (Writer, error)
}

// A Writer takes one message. Submit ends it and gives it to the store, which keeps it only if
// it becomes durable; Abort leaves nothing of it, and does nothing after Submit.
type Writer interface {
	io.Writer
	Submit(e spool.Entry) Pending
	Abort()
}

// A Pending is a message that the store has. Wait must be called: when it returns without an
// error the message is durable. Ready says that it would return at once.
type Pending interface {
	Ready() bool
	Wait() (spool.Stored, error)
}

// Config says how sessions are served. All limits must be positive.
type Config struct {
	Version         string // as sent by OHAI and NOOP
	MaxMessage      uint64 // bytes
	AcceptPlaintext bool   // crypto system 0
	AcceptUnproven  bool   // in the clear, sources of this server's own domains
	PlainLogin      bool   // LOGIN for xzibits that open with the password alone
	CommandTimeout  time.Duration
	SessionTimeout  time.Duration
	MinRate         int64 // bytes a second of a message, after MessageGrace
	MessageGrace    time.Duration
	Key             *crypt.PrivateKey   // the server's identity
	Former          []*crypt.PrivateKey // that it had before, and still can sign with; the latest first
	Domains         []address.Domain
	Channel         *channel.Server
	Directory       Directory
	Accounts        Accounts
	Guesses         Guesses
	Store           Store
	Mailboxes       *mailbox.Mailboxes
	Elsewhere       Elsewhere // nil: nothing is known of other servers
	Abroad          *Abroad   // what accounts may have it do; nil: one with DefaultAbroad
	Sending         *Sending  // what accounts may send; nil: one with DefaultSending
	AllowLogin      func(netip.Addr) bool
	AllowTLS        func(netip.Addr) bool
	Observer        Observer // may be nil
	Log             *slog.Logger
	Now             func() time.Time // what a message's arrival is dated by
}

// A Server serves sessions. It implements front.Handler.
type Server struct {
	cfg      Config
	words    *words
	identity *identity

	suspicions suspicions
}

// New returns a Server.
func New(cfg Config) *Server {
	if cfg.Observer == nil {
		cfg.Observer = nobody{}
	}
	if cfg.Abroad == nil {
		cfg.Abroad = NewAbroad(DefaultAbroad, cfg.Now)
	}
	if cfg.Sending == nil {
		cfg.Sending = NewSending(DefaultSending, cfg.Now)
	}
	return &Server{cfg: cfg, words: newWords(cfg.Version, cfg.Key), identity: newIdentity(cfg.Key, cfg.Former, cfg.Domains, cfg.Now())}
}

// drainBytes is how much is read of a message that was refused, so that the
// session stays in step.
const drainBytes = 1 << 20

// flushAt is how many bytes of replies are gathered before they are written
// although more commands have been read.
const flushAt = 16 << 10

// isLocal reports whether d is one of the server's own domains.
func (s *Server) isLocal(d address.Domain) bool { return slices.Contains(s.cfg.Domains, d) }

// A client is who is at the other end.
type client struct {
	addr netip.Addr
	conn string // the connection, in the log
}

// A session is one connection. It belongs to the goroutine that runs Serve.
type session struct {
	*Server
	dialect
	conn  *netbuf.Conn // as it was accepted
	pipe  *netbuf.Conn // what is spoken through: conn, and later the channel on it
	in    *netbuf.Reader
	out   *[]byte   // replies not yet written; nil when there are none
	ends  time.Time // when the session is over whatever it does
	armed time.Time // when the deadline was set last; zero: it has to be set
	fresh bool      // a command has ended since

	// flights are the MAILs that may still wait for their answers; nil when there are none. While
	// there are, nothing else is written, and out is nil.
	flights *flights
	// aside tells of answers to FETCH that are being written; nil when none are.
	aside chan aside

	commands, messages int
	fetched            []spool.ID // were sent to their reader, and the log does not know yet
}

// Serve runs one session to its end. It leaves closing the connection to the
// caller. When the server stops, an idle session ends at once, and one that
// receives a message ends after its reply.
func (s *Server) Serve(ctx context.Context, c *netbuf.Conn) {
	began := time.Now()
	ses := s.newSession(c)
	defer ses.close()
	err := ses.run(ctx)
	ses.in.Release()
	ses.tellFetched()
	took := time.Since(began)
	s.cfg.Observer.Ended(ses.protocol(), ses.how(err), took)
	ses.log().Info("session ended", "protocol", ses.protocol(), "why", ses.why(err), "commands", ses.commands,
		"messages", ses.messages, "took", took.Round(time.Millisecond))
}

// newSession returns a session as it begins, in the clear.
func (s *Server) newSession(c *netbuf.Conn) *session {
	return &session{
		Server: s, dialect: &part1{Server: s, client: client{c.Client.Addr(), c.ID}},
		conn: c, pipe: c, in: c.In, ends: time.Now().Add(s.cfg.SessionTimeout), fresh: true,
	}
}

// log returns a logger that names the connection. It is made when there is something
// to say: an idle session keeps none.
func (s *session) log() *slog.Logger {
	return s.cfg.Log.With("conn", s.conn.ID, "client", s.conn.Client)
}

// why names the end of a session for its log line.
func (s *session) why(err error) string {
	switch {
	case err == nil:
		return "obai"
	case errors.Is(err, channel.ErrHandshake):
		return err.Error()
	case errors.Is(err, io.EOF):
		return "client left"
	case errors.Is(err, os.ErrDeadlineExceeded):
		return string(s.how(err)) // the stop is told from a client that is slow
	}
	return err.Error()
}

// run answers commands until there is an end to them. A nil error is OBAI.
func (s *session) run(ctx context.Context) error {
	s.arm() // the first replies may be written before anything is waited for
	// One for all, since what is given to a dialect is on the heap. While the session
	// waits it is empty, so it holds no buffer.
	var cmd cmtp.Command
	for {
		var n int
		var err error
		cmd, n, err = cmtp.ParseCommand(s.in.Buffered())
		if errors.Is(err, cmtp.ErrShort) {
			s.in.Discard(n)
			if err := s.flush(); err != nil {
				return err
			}
			if err := s.stalled(s.await()); err != nil {
				return s.goodbye(err)
			}
			continue
		}
		if err != nil || cmd.Verb != cmtp.Mail {
			if lost := s.settle(); lost != nil {
				return lost
			}
		}
		if err != nil {
			s.refuseWith(err)
			return s.goodbye(err)
		}
		if cmd.Verb != cmtp.Fetch {
			s.close()
		}
		s.commands++
		s.fresh = true
		do, err := s.answer(ctx, &cmd)
		verb := cmd.Verb
		s.in.Discard(n) // cmd's parameters lie in the buffer until here
		switch do {
		case receive:
			err = s.mail(ctx)
		case takeForm, skipForm:
			err = s.takeForm(verb, do == takeForm)
		case secure:
			err = s.secure(ctx, err)
		case stream:
			err = s.stream(s.dialect.(*part2))
		case await:
			err = s.awaitNews(s.dialect.(*part2))
		case end:
			return s.goodbye(err)
		default:
			err = nil
		}
		if err != nil {
			return s.goodbye(err)
		}
	}
}

// close closes what one FETCH keeps open for the next: whatever else comes, or may take long, it is not held.
func (s *session) close() {
	if p, ok := s.dialect.(*part2); ok {
		p.reading.Release()
	}
}

func (s *session) answer(ctx context.Context, cmd *cmtp.Command) (action, error) {
	out := s.buffer()
	reply, do, err := s.command(ctx, cmd, *out)
	*out = reply
	if do != receive && do != takeForm && do != stream && do != await {
		s.outcome(cmd.Verb, err, about(cmd))
	}
	if err != nil {
		s.refuseWith(err)
	}
	if len(*out) >= flushAt && do != secure && do != stream { // the one may have to take its answer back, the other gathers more
		if err := s.flush(); err != nil {
			return end, err
		}
	}
	return do, err
}

// refuseWith answers with a failure.
func (s *session) refuseWith(err error) {
	out := s.buffer()
	*out = s.fail(*out, err)
}

// outcome tells the log and the observer what became of a command, and whom it was about, ""
// where that is nobody. A trouble of the server's own is for its operator to see.
func (s *session) outcome(v cmtp.Verb, err error, about string) {
	s.cfg.Observer.Command(v, err == nil)
	if err == nil {
		return
	}
	s.refused(v, err)
	level := slog.LevelDebug
	if status, _ := explain(err); status == cmtp.StatusTrouble && !errors.Is(err, errInside) {
		level = slog.LevelError
	}
	if s.cfg.Log.Enabled(context.Background(), level) {
		log := s.log()
		if about != "" {
			log = log.With("account", about)
		}
		log.Log(context.Background(), level, "command failed", "command", v.String(), "err", err)
	}
}

// await blocks until more bytes of a command are there.
func (s *session) await() error {
	s.arm()
	s.tellFetched()
	s.conn.SetIdle(true)
	defer s.conn.SetIdle(false)
	return s.in.Fill()
}

// arm gives the client the time for one command and its reply. It runs from the
// end of the command before, so a byte now and then buys none. It is set anew
// only when a sixteenth of it is over, which spares a busy session a timer a
// command.
func (s *session) arm() {
	if !s.fresh && !s.armed.IsZero() {
		return
	}
	if now := time.Now(); now.Sub(s.armed) >= s.cfg.CommandTimeout/16 {
		s.armFrom(now)
	}
}

// armFrom is arm for a time that runs from then on.
func (s *session) armFrom(then time.Time) {
	s.conn.SetDeadline(s.deadline(then))
	s.armed, s.fresh = then, false
}

// deadline returns until when a client may take for a command, or a reply.
func (s *session) deadline(from time.Time) time.Time {
	d := from.Add(s.cfg.CommandTimeout)
	if d.After(s.ends) {
		return s.ends
	}
	return d
}

var buffers = sync.Pool{New: func() any { return new([]byte) }}

// buffer returns what replies are gathered in. An idle session has none.
func (s *session) buffer() *[]byte {
	if s.out == nil {
		s.out = buffers.Get().(*[]byte)
	}
	return s.out
}

func (s *session) reply(b []byte) {
	out := s.buffer()
	*out = append(*out, b...)
}

// flush writes the replies gathered so far.
func (s *session) flush() error {
	if err := s.landed(); err != nil {
		return err
	}
	if s.out == nil {
		return nil
	}
	out := s.out
	s.out = nil
	var err error
	if len(*out) > 0 {
		_, err = s.pipe.Write(*out)
	}
	giveBack(out)
	return err
}

// goodbye ends a session whose MAILs are settled. Where the peer may still be sending, what it is owed is
// written so that no reset overtakes it.
func (s *session) goodbye(err error) error {
	if lost := s.landed(); lost != nil && err == nil {
		return lost
	}
	switch {
	case err == nil || errors.Is(err, cmtp.ErrCommand) || errors.Is(err, errOutOfStep):
		s.pipe.Farewell(*s.buffer())
		s.out = nil
	case s.isPrivate():
		s.leaveChannel(err)
	}
	return err
}
