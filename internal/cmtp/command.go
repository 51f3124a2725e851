package cmtp

import (
	"bytes"
	"fmt"
)

// A Verb is a command's first word.
type Verb uint8

// The verbs of CMTP 0.01 (docs/protocol.md, Commands). The zero Verb is one that
// this package does not know.
const (
	Unknown Verb = iota
	Ohai
	Noop
	Help
	KeyRequest
	Login
	Mail
	Obai
)

// verbs is the one table of what a verb is called and how many strings follow
// it. MAIL's message is no parameter: it follows the command.
var verbs = [...]struct {
	name   string
	params int
}{
	Unknown:    {"", 0},
	Ohai:       {"OHAI", 0},
	Noop:       {"NOOP", 0},
	Help:       {"HELP", 0},
	KeyRequest: {"KEYREQUEST", 2},
	Login:      {"LOGIN", 1},
	Mail:       {"MAIL", 0},
	Obai:       {"OBAI", 0},
}

// HelpText is what HELP answers: the verbs in the order of the document.
const HelpText = "OHAI NOOP HELP KEYREQUEST LOGIN MAIL OBAI"

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

// IsVerb reports whether b is a verb of this protocol.
func IsVerb(b []byte) bool { return ParseVerb(b) != Unknown }

// A Command is a verb and its parameters. The parameters are parts of the
// buffer that was parsed.
type Command struct {
	Verb   Verb
	Params [2][]byte
}

// User returns the first parameter of KEYREQUEST or LOGIN.
func (c *Command) User() []byte { return c.Params[0] }

// Domain returns the second parameter of KEYREQUEST.
func (c *Command) Domain() []byte { return c.Params[1] }

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
// one and the parameters without NUL, as addresses are.
func (c *Command) Append(dst []byte) []byte {
	dst = append(dst, verbs[c.Verb].name...)
	dst = append(dst, 0)
	for i := range verbs[c.Verb].params {
		dst = append(dst, c.Params[i]...)
		dst = append(dst, 0)
	}
	return dst
}
