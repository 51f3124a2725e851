// Package cmtp is the codec of CMTP 0.01 and CMTP 1: commands, replies, forms,
// messages and bodies over io.Reader and io.Writer, as docs/protocol.md gives them to
// the byte.
//
// It guarantees that what it accepts it re-encodes identically (but for verbs
// that it does not know and the filler before a verb), that it reads not one
// byte behind what it was asked for, and that no length from the wire makes it
// hold more in memory than a message's header and log, a form, or as much of a reply as
// its caller allows. It knows no socket, no file and no policy: whether a name is ours, or a plaintext message welcome, is
// for its callers to say.
package cmtp

import (
	"errors"

	"cmtpd/internal/crypt"
)

// Sizes of the wire, in bytes.
const (
	// MaxVerb is the longest verb that is read before its NUL.
	MaxVerb = 32
	// MaxString is the longest account or domain, without its NUL.
	MaxString = 255
	// MaxLog is the longest message log (protocol.md section 3).
	MaxLog = 16 << 10
	// MaxCommand is the longest command: a verb and three strings with their NULs, a
	// key and a signature. A command is parsed where it lies, so that has to be well
	// below netbuf.Size.
	MaxCommand = MaxVerb + 1 + 3*(MaxString+1) + proofSize
	// MaxForm is the longest form (protocol.md section 16.1).
	MaxForm = 132 << 10
	// MaxXzibit is the longest xzibit (protocol.md section 8), and recovery copy.
	MaxXzibit = 44 + 64<<10
	// MaxReason is the longest reason of a failure (protocol.md section 16.2).
	MaxReason = 1023
	// MaxAttachments is the most attachments of a message. Empty ones cost their
	// sender next to nothing, and each costs memory where the message is opened.
	MaxAttachments = 1 << 16
	// SealOverhead is what a sealed box is longer than its plaintext: the
	// shortest body or attachment of crypto system 1.
	SealOverhead = crypt.Overhead
)

// Crypto systems that a message may name (protocol.md section 4).
const (
	SystemPlain  = 0
	SystemSealed = 1
)

// Errors that the parsers wrap. Each says why bytes were refused; after any of
// them but ErrShort the stream is no longer in step.
var (
	ErrShort    = errors.New("more bytes are needed")
	ErrCommand  = errors.New("not a CMTP command")
	ErrMessage  = errors.New("not a CMTP message")
	ErrTooLarge = errors.New("it is larger than the limit")
	ErrSystem   = errors.New("unknown crypto system")
	ErrBody     = errors.New("not a CMTP message body")
	ErrReply    = errors.New("not a CMTP reply")
	ErrForm     = errors.New("not a CMTP form")
)
