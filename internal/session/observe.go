package session

import (
	"errors"
	"io"
	"os"
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
	NoLimit        Limit = ""
	LoginRate      Limit = "login_rate"
	StartTLSRate   Limit = "starttls_rate"
	GuessRate      Limit = "guess_rate"
	MaxWaits       Limit = "max_waits"
	MailboxSize    Limit = "mailbox_size"
	MaxMessage     Limit = "max_message_size"
	MinFreeSpace   Limit = "min_free_space"
	LookupRate     Limit = "lookup_rate"
	NewDomainsRate Limit = "new_domains_rate"
	MailRate       Limit = "mail_rate"
	MailPerDay     Limit = "mail_per_day"
)

// Limits are all of them.
var Limits = []Limit{LoginRate, StartTLSRate, GuessRate, MaxWaits, MailboxSize, MaxMessage, MinFreeSpace, LookupRate, NewDomainsRate, MailRate, MailPerDay}

// limitOf returns the limit that is the reason of an error.
func limitOf(v cmtp.Verb, err error) Limit {
	var spent *guess.Exhausted
	var used *overspent
	switch {
	case errors.As(err, &used):
		return used.limit
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
	case errors.Is(err, mailbox.ErrNoRoom), errors.Is(err, spool.ErrNoRoom):
		return MinFreeSpace
	}
	return NoLimit
}

// refused tells the observer why something was not done.
func (s *Server) refused(v cmtp.Verb, err error) {
	status, _ := explain(err)
	s.cfg.Observer.Refused(status, limitOf(v, err))
}
