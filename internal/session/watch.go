package session

import (
	"encoding/hex"
	"errors"
	"io"
	"log/slog"
	"os"
	"strings"
	"syscall"
	"time"

	"cmtpd/internal/channel"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/guess"
	"cmtpd/internal/mailbox"
	"cmtpd/internal/spool"
)

// An Observer counts what happens. Its methods are called from many sessions.
type Observer interface {
	// Command is called for every command, with whether it was answered other
	// than by FAILURE. MAIL is told to Message instead.
	Command(v cmtp.Verb, ok bool)
	// Message is called with the fate of every MAIL and the bytes that were read
	// of its message.
	Message(outcome Outcome, bytes int64)
	// Refused is called with why a command or a message was not done, and with the limit that it
	// met, if it was one.
	Refused(status cmtp.Status, limit Limit)
	// Guess is called with the result of n attempts at a password or a code.
	Guess(result Guess, n int)
	// Fetched is called with the bytes of every message, or part of one, that was sent to its reader.
	Fetched(bytes int64)
	// Ended is called for every session when it is over.
	Ended(protocol string, how End, took time.Duration)
}

type nobody struct{}

func (nobody) Command(cmtp.Verb, bool)          {}
func (nobody) Message(Outcome, int64)           {}
func (nobody) Refused(cmtp.Status, Limit)       {}
func (nobody) Guess(Guess, int)                 {}
func (nobody) Fetched(int64)                    {}
func (nobody) Ended(string, End, time.Duration) {}

// An Outcome is a message's fate.
type Outcome string

// The fates of a message.
const (
	Stored    Outcome = "stored"
	Queued    Outcome = "queued"    // stored, for another server
	Duplicate Outcome = "duplicate" // stored before; acknowledged again
	Refused   Outcome = "refused"   // against a rule or a limit
	Failed    Outcome = "failed"    // could not be stored now
	Broken    Outcome = "broken"    // the client left or stalled before its end
)

// Outcomes are all of them.
var Outcomes = []Outcome{Stored, Queued, Duplicate, Refused, Failed, Broken}

// An End is how a session ended.
type End string

// The ends of a session.
const (
	Done      End = "done"    // the client has said OBAI
	Left      End = "left"    // the client closed the connection, or lost it
	Timeout   End = "timeout" // the client was silent, too slow, or there for too long
	Stopped   End = "stopped" // the server stops
	OutOfStep End = "ended"   // by the server, which could not read on
	NoChannel End = "channel" // TLS was not set up, or not kept
)

// Ends are all of them.
var Ends = []End{Done, Left, Timeout, Stopped, OutOfStep, NoChannel}

// how names the end of a session for who counts.
func (s *session) how(err error) End {
	switch {
	case err == nil:
		return Done
	case errors.Is(err, channel.ErrHandshake), errors.Is(err, channel.ErrAltered), errors.Is(err, channel.ErrInjected):
		return NoChannel
	case errors.Is(err, os.ErrDeadlineExceeded):
		if s.conn.Stopping() {
			return Stopped
		}
		return Timeout
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, channel.ErrTruncated),
		errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return Left
	}
	return OutOfStep
}

// A Limit is one that a command or a message met, by the name of its key in the configuration.
type Limit string

// The limits that a session may meet.
const (
	NoLimit      Limit = ""
	LoginRate    Limit = "login_rate"
	StartTLSRate Limit = "starttls_rate"
	GuessRate    Limit = "guess_rate"
	MaxWaits     Limit = "max_waits"
	MailboxSize  Limit = "mailbox_size"
	MaxMessage   Limit = "max_message_size"
	MinFreeSpace Limit = "min_free_space"
)

// Limits are all of them.
var Limits = []Limit{LoginRate, StartTLSRate, GuessRate, MaxWaits, MailboxSize, MaxMessage, MinFreeSpace}

// limitOf returns the limit that is the reason of an error.
func limitOf(v cmtp.Verb, err error) Limit {
	var spent *guess.Exhausted
	switch {
	case errors.Is(err, errRate) && v == cmtp.StartTLS:
		return StartTLSRate
	case errors.Is(err, errRate):
		return LoginRate
	case errors.As(err, &spent):
		return GuessRate
	case errors.Is(err, mailbox.ErrWaits):
		return MaxWaits
	case errors.Is(err, mailbox.ErrFull):
		return MailboxSize
	case errors.Is(err, cmtp.ErrTooLarge):
		return MaxMessage
	case errors.Is(err, ErrNoRoom), errors.Is(err, spool.ErrNoRoom):
		return MinFreeSpace
	}
	return NoLimit
}

// refused tells the observer why something was not done.
func (s *Server) refused(v cmtp.Verb, err error) {
	status, _ := explain(err)
	s.cfg.Observer.Refused(status, limitOf(v, err))
}

// A core is a message's core digest in the log, in the form of spool list and of receipts: it is the same at
// every server that the message comes to.
type core [32]byte

// LogValue implements slog.LogValuer.
func (c core) LogValue() slog.Value { return slog.StringValue(hex.EncodeToString(c[:])) }

// maxRead is how many messages a line tells of.
const maxRead = 32

// read notes for the log that a message was sent to its reader, to its end. What a client fetches at once is
// told together: a line for each would cost more than the fetching.
func (s *session) read(id spool.ID) {
	if s.readers = append(s.readers, id); len(s.readers) == maxRead {
		s.tellRead()
	}
}

// tellRead tells the log of the messages that were read since the last line.
func (s *session) tellRead() {
	if len(s.readers) == 0 {
		return
	}
	s.dialect.(*part2).tellOf("messages fetched", s.readers)
	s.readers = nil
}

// tellOf tells the log what became of some messages of the session's user.
func (p *part2) tellOf(text string, ids []spool.ID) {
	for len(ids) > 0 {
		n := min(len(ids), maxRead)
		var names strings.Builder
		for i, id := range ids[:n] {
			if i > 0 {
				names.WriteByte(' ')
			}
			names.WriteString(id.String())
		}
		p.cfg.Log.Info(text, "conn", p.client.conn, "client", p.client.addr, "message", names.String(), "account", p.user.name.String())
		ids = ids[n:]
	}
}
