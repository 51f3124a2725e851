package cmtp

import (
	"bytes"
	"fmt"

	"cmtpd/internal/crypt"
)

// A Verb is a command's first word.
type Verb uint8

// The verbs of CMTP 0.01, from StartTLS on those of CMTP 1, and from Mailbox on those of
// the mailbox (docs/protocol.md sections 3, 15.2, 16.1 and 27). The zero Verb is one that this package does not know.
const (
	Unknown Verb = iota
	Ohai
	Noop
	Help
	KeyRequest
	Login
	Mail
	Obai
	StartTLS
	Auth
	Unlock
	Enroll
	Register
	Upload
	Recover
	Mailbox
	List
	Changes
	Fetch
	Flag
	Delete
	Wait
)

// Sizes in bytes of what stands behind a command's strings.
const (
	proofSize   = crypt.PublicKeySize + crypt.SignatureSize
	elementSize = 32
	listSize    = 1 + 8 + 4
	sinceSize   = 16 + 8 + 4
	fetchSize   = 8 + 8 + 8
)

// verbs is the one table of what a verb is called, how many strings follow it and
// how many bytes follow those. MAIL's message and the form of REGISTER, UPLOAD, FLAG
// and DELETE are no parameters: they follow the command.
var verbs = [...]struct {
	name   string
	params int
	fixed  int
}{
	Unknown:    {"", 0, 0},
	Ohai:       {"OHAI", 0, 0},
	Noop:       {"NOOP", 0, 0},
	Help:       {"HELP", 0, 0},
	KeyRequest: {"KEYREQUEST", 2, 0},
	Login:      {"LOGIN", 1, 0},
	Mail:       {"MAIL", 0, 0},
	Obai:       {"OBAI", 0, 0},
	StartTLS:   {"STARTTLS", 0, 0},
	Auth:       {"AUTH", 3, proofSize},
	Unlock:     {"UNLOCK", 2, elementSize},
	Enroll:     {"ENROLL", 3, elementSize},
	Register:   {"REGISTER", 3, 0},
	Upload:     {"UPLOAD", 0, 0},
	Recover:    {"RECOVER", 2, proofSize},
	Mailbox:    {"MAILBOX", 0, 0},
	List:       {"LIST", 0, listSize},
	Changes:    {"CHANGES", 0, sinceSize},
	Fetch:      {"FETCH", 0, fetchSize},
	Flag:       {"FLAG", 0, 0},
	Delete:     {"DELETE", 0, 0},
	Wait:       {"WAIT", 0, sinceSize},
}

// What HELP answers: the verbs in the order of the document, in the clear and inside
// the channel of CMTP 1.
const (
	HelpText  = "OHAI NOOP HELP KEYREQUEST LOGIN MAIL OBAI STARTTLS"
	HelpText1 = "OHAI NOOP HELP KEYREQUEST LOGIN MAIL OBAI AUTH UNLOCK ENROLL REGISTER UPLOAD RECOVER " +
		"MAILBOX LIST CHANGES FETCH FLAG DELETE WAIT"
)

func (v Verb) String() string {
	if int(v) < len(verbs) && v != Unknown {
		return verbs[v].name
	}
	return "unknown"
}

// ParseVerb returns the verb that b spells exactly, without its NUL. Verbs are
// upper case.
func ParseVerb(b []byte) Verb {
	for v := Ohai; int(v) < len(verbs); v++ {
		if string(b) == verbs[v].name {
			return v
		}
	}
	return Unknown
}

// IsVerb reports whether b is a verb of this protocol, of either part.
func IsVerb(b []byte) bool { return ParseVerb(b) != Unknown }

// A Command is a verb and its parameters: the strings, without their NULs, and the
// bytes that stand behind them. Both are parts of the buffer that was parsed.
type Command struct {
	Verb   Verb
	Params [3][]byte
	Fixed  []byte // nil for a verb that has none
}

// User returns the first parameter: the account of AUTH, UNLOCK, ENROLL, REGISTER,
// RECOVER and KEYREQUEST, the user of LOGIN.
func (c *Command) User() []byte { return c.Params[0] }

// Domain returns the second parameter: User's domain, of all these but LOGIN.
func (c *Command) Domain() []byte { return c.Params[1] }

// ServerDomain returns the third parameter of AUTH, the domain of who is asked.
func (c *Command) ServerDomain() []byte { return c.Params[2] }

// Code returns the third parameter of ENROLL and REGISTER, an invitation's code.
func (c *Command) Code() []byte { return c.Params[2] }

// Key returns the key that AUTH and RECOVER prove. Other commands have none.
func (c *Command) Key() crypt.PublicKey { return crypt.PublicKey(c.Fixed[:crypt.PublicKeySize]) }

// Signature returns the proof of AUTH and RECOVER. Other commands have none.
func (c *Command) Signature() crypt.Signature {
	return crypt.Signature(c.Fixed[crypt.PublicKeySize:])
}

// Element returns the blinded element of UNLOCK and ENROLL. Other commands have none.
func (c *Command) Element() [elementSize]byte { return [elementSize]byte(c.Fixed) }

// ParseCommand reads one command from the front of b, after any NUL, CR and LF
// that may stand between commands, and returns how many bytes it took.
//
// With ErrShort, b holds only a part of a command; n counts the filler that may
// be dropped. An unknown verb is no error: it is a Command with the Verb
// Unknown, and the parser stands behind its NUL. With ErrCommand the stream
// cannot be read on: a verb or a parameter exceeds its bound without a NUL.
func ParseCommand(b []byte) (cmd Command, n int, err error) {
	for n < len(b) && (b[n] == 0 || b[n] == '\r' || b[n] == '\n') {
		n++
	}
	rest := b[n:]
	verb, rest, err := cutString(rest, "a verb", MaxVerb)
	if err != nil {
		return Command{}, n, err
	}
	cmd.Verb = ParseVerb(verb)
	for i := range verbs[cmd.Verb].params {
		if cmd.Params[i], rest, err = cutString(rest, "a parameter", MaxString); err != nil {
			return Command{}, n, err
		}
	}
	if size := verbs[cmd.Verb].fixed; size > 0 {
		if len(rest) < size {
			return Command{}, n, ErrShort
		}
		cmd.Fixed, rest = rest[:size:size], rest[size:]
	}
	return cmd, len(b) - len(rest), nil
}

// cutString returns what stands before the first NUL of b and what stands
// behind it. ErrShort comes as it is: every wait for a command begins with it.
func cutString(b []byte, what string, limit int) (s, rest []byte, err error) {
	i := bytes.IndexByte(b[:min(len(b), limit+1)], 0)
	switch {
	case i >= 0:
		return b[:i:i], b[i+1:], nil
	case len(b) > limit:
		return nil, b, fmt.Errorf("%w: %s exceeds %d bytes", ErrCommand, what, limit)
	}
	return nil, b, ErrShort
}

// Append appends the command as it stands on the wire. The Verb must be a known
// one, the strings without NUL, as addresses are, and Fixed as long as the verb's
// is.
func (c *Command) Append(dst []byte) []byte {
	dst = append(dst, verbs[c.Verb].name...)
	dst = append(dst, 0)
	for i := range verbs[c.Verb].params {
		dst = append(dst, c.Params[i]...)
		dst = append(dst, 0)
	}
	return append(dst, c.Fixed...)
}
