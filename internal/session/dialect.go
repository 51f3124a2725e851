package session

import (
	"context"

	"cmtpd/internal/account"
	"cmtpd/internal/address"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/federation"
	"cmtpd/internal/spool"
)

// maxUnknown is how many unknown commands a session may give before it is ended
// (docs/protocol.md, Commands).
const maxUnknown = 10

// A dialect is the protocol without a socket: a command in, a reply and an action
// out. Part I and Part II of the protocol are one each. It belongs to one session.
type dialect interface {
	// command appends the reply to c, or says why c failed, and what comes next.
	command(ctx context.Context, c *cmtp.Command, reply []byte) ([]byte, action, error)
	// form appends the reply to the form that the last command announced, or says
	// why it is refused.
	form(form, reply []byte) ([]byte, error)
	// envelope says where a message with this header belongs, or why it is refused.
	envelope(h *cmtp.Header) (delivery, error)
	// stored appends the reply for a message that is durable.
	stored(reply []byte, d delivery, digest [32]byte, s spool.Stored) []byte
	// remote is the server at the other end, if it has proven to be one.
	remote() *federation.Remote
	// fail appends the reply for what failed.
	fail(reply []byte, err error) []byte
}

// An action is what the driver does after a command.
type action uint8

const (
	next     action = iota // read another command
	receive                // read a message, then answer MAIL
	takeForm               // read a form, then answer its command
	skipForm               // the command has failed: read its form and forget it
	secure                 // answer STARTTLS, then start TLS, if it has not failed
	stream                 // send part of a message, in answer to FETCH
	await                  // answer WAIT, when there is something to say
	end                    // write what is there, close
)

// A delivery is where a message belongs.
type delivery struct {
	mailbox spool.MailboxID
	to      address.Address // in normal form; the zero Account is the server itself
	queued  bool            // for another server
	foreign bool            // from another server's domain, which may vouch for it
	user    bool            // from the session's proven user
	sender  account.ID      // that user; zero for a message from elsewhere
}

var (
	operator = spool.MailboxID(account.Operator)
	outgoing = spool.MailboxID(account.Outgoing)
)

// A strikes counts the unknown commands, and the wrong proofs, of a session.
type strikes int

// wrong returns what comes next after a wrong proof, which costs the server a signature.
func (s *strikes) wrong() action {
	if *s++; *s >= maxUnknown {
		return end
	}
	return next
}

// unknown returns the error for one more unknown command, and whether it was one too many.
func (s *strikes) unknown() (action, error) {
	if *s++; *s >= maxUnknown {
		return end, errUnknownCommand
	}
	return next, errUnknownCommand
}
