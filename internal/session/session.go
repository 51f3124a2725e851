// Package session serves CMTP 0.01: a state machine that turns commands into
// replies, and a driver that owns the socket, its deadlines and its limits.
//
// It guarantees that SUCCESS is written only after the store has said that the
// message is durable, that a refused message leaves nothing behind, and that a
// client, whatever it sends or leaves out, costs bounded memory and time.
package session

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"sync"
	"time"

	"cmtpd/internal/cmtp"
	"cmtpd/internal/crypt"
	"cmtpd/internal/netbuf"
	"cmtpd/internal/spool"
)

// A Store takes messages in. It is used by many sessions at once.
type Store interface {
	// NewWriter begins a message. It fails when there is no room for one now.
	NewWriter() (Writer, error)
}

// A Writer takes one message. When Commit returns without an error the message
// is durable; Abort, also after a failed Commit, leaves nothing of it.
type Writer interface {
	io.Writer
	Commit(ctx context.Context, e spool.Entry) (spool.Stored, error)
	Abort()
}

// An Observer counts what happens. Its methods are called from many sessions.
type Observer interface {
	// Command is called for every command, with whether it was answered other
	// than by FAILURE. MAIL is told to Message instead.
	Command(v cmtp.Verb, ok bool)
	// Message is called with the fate of every MAIL and the bytes that were read
	// of its message.
	Message(outcome Outcome, bytes int64)
}

// An Outcome is a message's fate.
type Outcome string

// The fates of a message.
const (
	Stored    Outcome = "stored"
	Duplicate Outcome = "duplicate" // stored before; SUCCESS again
	Refused   Outcome = "refused"   // against a rule or a limit
	Failed    Outcome = "failed"    // could not be stored now
	Broken    Outcome = "broken"    // the client left or stalled before its end
)

// Config says how sessions are served. All limits must be positive.
type Config struct {
	Version         string // as sent by OHAI and NOOP
	MaxMessage      uint64 // bytes
	AcceptPlaintext bool   // crypto system 0
	CommandTimeout  time.Duration
	SessionTimeout  time.Duration
	MinRate         int64 // bytes a second of a message, after MessageGrace
	MessageGrace    time.Duration
	Key             *crypt.PrivateKey // the server's identity
	Directory       Directory
	Store           Store
	AllowLogin      func(netip.Addr) bool
	Observer        Observer // may be nil
	Log             *slog.Logger
	Now             func() time.Time // what a message's arrival is dated by
}

// A Server serves sessions. It implements front.Handler.
type Server struct {
	cfg     Config
	replies *words
}

// New returns a Server.
func New(cfg Config) *Server {
	if cfg.Observer == nil {
		cfg.Observer = nobody{}
	}
	return &Server{cfg: cfg, replies: newWords(cfg.Version, cfg.Key)}
}

type nobody struct{}

func (nobody) Command(cmtp.Verb, bool) {}
func (nobody) Message(Outcome, int64)  {}

// drainBytes is how much is read of a message that was refused, so that the
// session stays in step.
const drainBytes = 1 << 20

// flushAt is how many bytes of replies are gathered before they are written
// although more commands have been read.
const flushAt = 16 << 10

// A session is one connection. It belongs to the goroutine that runs Serve.
type session struct {
	*Server
	machine
	conn  *netbuf.Conn
	in    *netbuf.Reader
	out   *[]byte   // replies not yet written; nil when there are none
	ends  time.Time // when the session is over whatever it does
	armed time.Time // when the deadline was set last; zero: it has to be set
	fresh bool      // a command has ended since

	commands, messages int
}

// Serve runs one session to its end. It leaves closing the connection to the
// caller. When the server stops, an idle session ends at once, and one that
// receives a message ends after its reply.
func (s *Server) Serve(ctx context.Context, c *netbuf.Conn) {
	began := time.Now()
	ses := &session{
		Server: s,
		machine: machine{
			words: s.replies, directory: s.cfg.Directory, plaintextOK: s.cfg.AcceptPlaintext,
			allowLogin: func() bool { return s.cfg.AllowLogin(c.Client.Addr()) },
		},
		conn: c, in: c.In, ends: began.Add(s.cfg.SessionTimeout), fresh: true,
	}
	err := ses.run(ctx)
	ses.in.Release()
	ses.log().Info("session ended", "protocol", "cmtp", "why", why(err), "commands", ses.commands,
		"messages", ses.messages, "took", time.Since(began).Round(time.Millisecond))
}

// log returns a logger that names the connection. It is made when there is something
// to say: an idle session keeps none.
func (s *session) log() *slog.Logger {
	return s.cfg.Log.With("conn", s.conn.ID, "client", s.conn.Client)
}

// why names the end of a session for its log line.
func why(err error) string {
	switch {
	case err == nil:
		return "obai"
	case errors.Is(err, io.EOF):
		return "client left"
	case errors.Is(err, os.ErrDeadlineExceeded):
		return "timeout"
	}
	return err.Error()
}

// run answers commands until there is an end to them. A nil error is OBAI.
func (s *session) run(ctx context.Context) error {
	s.arm() // the first replies may be written before anything is waited for
	for {
		cmd, n, err := cmtp.ParseCommand(s.in.Buffered())
		if errors.Is(err, cmtp.ErrShort) {
			s.in.Discard(n)
			if err := s.flush(); err != nil {
				return err
			}
			if err := s.await(); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			s.reply(s.words.failure)
			return s.goodbye(err)
		}
		s.commands++
		s.fresh = true
		do, err := s.answer(&cmd)
		s.in.Discard(n) // cmd's parameters lie in the buffer until here
		switch do {
		case receive:
			err = s.mail(ctx)
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

func (s *session) answer(cmd *cmtp.Command) (action, error) {
	out := s.buffer()
	reply, do, err := s.command(cmd, *out)
	*out = reply
	if do != receive {
		s.cfg.Observer.Command(cmd.Verb, err == nil && cmd.Verb != cmtp.Unknown)
	}
	if err != nil && s.cfg.Log.Enabled(context.Background(), slog.LevelDebug) {
		s.log().Debug("command failed", "command", cmd.Verb.String(), "err", err)
	}
	if len(reply) >= flushAt {
		if err := s.flush(); err != nil {
			return end, err
		}
	}
	return do, err
}

// await blocks until more bytes of a command are there.
func (s *session) await() error {
	s.arm()
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
	now := time.Now()
	if now.Sub(s.armed) < s.cfg.CommandTimeout/16 {
		return
	}
	deadline := now.Add(s.cfg.CommandTimeout)
	if deadline.After(s.ends) {
		deadline = s.ends
	}
	s.conn.SetDeadline(deadline)
	s.armed, s.fresh = now, false
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
	if s.out == nil {
		return nil
	}
	out := s.out
	s.out = nil
	var err error
	if len(*out) > 0 {
		_, err = s.conn.Write(*out)
	}
	if cap(*out) <= 2*flushAt {
		*out = (*out)[:0]
		buffers.Put(out)
	}
	return err
}

// goodbye ends a session. Where the peer may still be sending, what it is owed is
// written so that no reset overtakes it.
func (s *session) goodbye(err error) error {
	if err == nil || errors.Is(err, cmtp.ErrCommand) || errors.Is(err, errOutOfStep) {
		s.conn.Farewell(*s.buffer())
		s.out = nil
	}
	return err
}
