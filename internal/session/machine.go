package session

import (
	"errors"
	"fmt"

	"cmtpd/internal/account"
	"cmtpd/internal/address"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/crypt"
	"cmtpd/internal/spool"
)

// maxUnknown is how many unknown commands a session may give before it is ended
// (docs/protocol.md, Commands).
const maxUnknown = 10

// Reasons why a message or a command is refused. CMTP 0.01 cannot say them to
// the client; the log does.
var (
	errPlaintext = errors.New("it is not encrypted")
	errNoDomain  = errors.New("it names no destination domain")
	errRate      = errors.New("too many logins from this network")
	errNoChannel = errors.New("there is no channel of CMTP 1 here")
)

// A Directory tells whose a name is. account.Directory is one.
type Directory interface {
	// Resolve returns the account that takes mail for a name, nil where that is
	// the server itself, or an error.
	Resolve(name, domain string) (*account.Account, error)
	// Login returns the account that LOGIN names.
	Login(user string) (*account.Account, error)
}

// An action is what the driver does after it has written a reply.
type action uint8

const (
	next    action = iota // read another command
	receive               // read a message, then answer MAIL
	end                   // write what is there, close
)

// A machine is the protocol without a socket: a command in, a reply and an
// action out. It belongs to one session; what it shares is read only.
type machine struct {
	words       *words
	directory   Directory
	allowLogin  func() bool
	plaintextOK bool
	unknown     int
}

// words are the replies that are the same for everybody, made once.
type words struct {
	version   string
	ohai      []byte
	noop      []byte
	help      []byte
	serverKey []byte
	success   []byte
	failure   []byte
}

func newWords(version string, key *crypt.PrivateKey) *words {
	pub := key.Public()
	return &words{
		version:   version,
		ohai:      cmtp.AppendString(nil, cmtp.Ohai.String()+version),
		noop:      cmtp.AppendString(nil, version),
		help:      cmtp.AppendString(nil, cmtp.HelpText),
		serverKey: cmtp.AppendKey(nil, pub, key.Sign(pub[:])),
		success:   cmtp.AppendWord(nil, cmtp.Success, key.Sign([]byte(cmtp.Success))),
		failure:   cmtp.AppendWord(nil, cmtp.Failure, key.Sign([]byte(cmtp.Failure))),
	}
}

// command appends the reply to c and says what comes next. The error is why c
// failed, for the log; the client's FAILURE is in the reply already.
func (m *machine) command(c *cmtp.Command, reply []byte) ([]byte, action, error) {
	switch c.Verb {
	case cmtp.Ohai:
		return append(reply, m.words.ohai...), next, nil
	case cmtp.Noop:
		return append(reply, m.words.noop...), next, nil
	case cmtp.Help:
		return append(reply, m.words.help...), next, nil
	case cmtp.KeyRequest:
		return m.cmdKeyRequest(string(c.User()), string(c.Domain()), reply)
	case cmtp.Login:
		return m.cmdLogin(string(c.User()), reply)
	case cmtp.Mail:
		return reply, receive, nil
	case cmtp.Obai:
		return reply, end, nil
	case cmtp.StartTLS:
		return append(reply, m.words.failure...), next, errNoChannel
	}
	return m.refuseVerb(c.Verb, append(reply, m.words.failure...))
}

// refuseVerb counts a verb that is unknown, or that exists only inside the channel of
// CMTP 1. The stream is in step behind either, but for a form.
func (m *machine) refuseVerb(v cmtp.Verb, reply []byte) ([]byte, action, error) {
	if m.unknown++; m.unknown >= maxUnknown {
		return reply, end, fmt.Errorf("%w: %d unknown commands", cmtp.ErrCommand, m.unknown)
	}
	switch v {
	case cmtp.Unknown:
		return reply, next, nil
	case cmtp.Register, cmtp.Upload:
		return reply, end, fmt.Errorf("%w: %v: %w", cmtp.ErrCommand, v, errNoChannel)
	}
	return reply, next, errNoChannel
}

// cmdKeyRequest answers with a key of this server's domains, and of no other:
// the signature names nobody, so a signed stranger's key would pass for ours
// (protocol.md section 2).
func (m *machine) cmdKeyRequest(user, domain string, reply []byte) ([]byte, action, error) {
	a, err := m.directory.Resolve(user, domain)
	switch {
	case err != nil:
		return append(reply, m.words.failure...), next, err
	case a == nil:
		return append(reply, m.words.serverKey...), next, nil
	}
	return cmtp.AppendKey(reply, a.Key, a.KeySignature()), next, nil
}

func (m *machine) cmdLogin(user string, reply []byte) ([]byte, action, error) {
	if !m.allowLogin() {
		return append(reply, m.words.failure...), next, errRate
	}
	a, err := m.directory.Login(user)
	if err != nil {
		return append(reply, m.words.failure...), next, err
	}
	return cmtp.AppendXzibit(reply, a.Xzibit, a.XzibitSignature()), next, nil
}

// envelope returns the mailbox that a message with this header belongs in, or
// why it is refused. Nobody is authenticated in CMTP 0.01: a foreign destination
// is always refused, and the source is a claim that only has to be an address.
func (m *machine) envelope(h *cmtp.Header) (spool.MailboxID, error) {
	operator := spool.MailboxID(account.Operator)
	if h.System == cmtp.SystemPlain && !m.plaintextOK {
		return operator, errPlaintext
	}
	if h.DestinationDomain == "" {
		return operator, errNoDomain
	}
	if _, err := address.ParseDomain(h.SourceDomain); err != nil {
		return operator, fmt.Errorf("its source: %w", err)
	}
	if h.SourceAccount != "" {
		if _, err := address.ParseAccount(h.SourceAccount); err != nil {
			return operator, fmt.Errorf("its source: %w", err)
		}
	}
	a, err := m.directory.Resolve(h.DestinationAccount, h.DestinationDomain)
	if err != nil || a == nil {
		return operator, err
	}
	return spool.MailboxID(a.ID), nil
}
