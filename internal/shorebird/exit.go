package shorebird

import (
	"context"
	"errors"
	"io/fs"
	"os"

	"cmtpd/internal/address"
	"cmtpd/internal/cache"
	"cmtpd/internal/client"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/crypt"
	"cmtpd/internal/kernelring"
	"cmtpd/internal/letter"
	"cmtpd/internal/recovery"
	"cmtpd/internal/xzibit"
)

// Exit statuses; see the package comment.
const (
	exitOK          = 0
	exitFailure     = 1
	exitUsage       = 2
	exitRefused     = 3
	exitTrust       = 4
	exitPassword    = 5
	exitTemporary   = 75 // EX_TEMPFAIL of sysexits.h
	exitInterrupted = 130
)

const exitCodes = `shorebird ends with one of these statuses:

    0  done
    1  failed
    2  wrong use
    3  the server refused; in CMTP 1 it says why
    4  a key or a signature is not what it must be; nothing was sent or saved
    5  the password, or a recovery key's words, are wrong, or a secret is missing
   75  failed for now; trying again later may help. A letter that cannot be sent for now
       is in the outbox, and goes with the next send or sync: send it again and it comes
       twice, unless you said --no-outbox
  130  interrupted

They are stable.`

// Errors of this package.
var (
	errUsage         = errors.New("wrong use")
	errEmptyPassword = errors.New("the password is empty")
	// errMissing is what every error wraps that says a secret is not to be had.
	errMissing     = errors.New("a secret is missing")
	errNoMessage   = errors.New("this is not one whole message")
	errTooMuchText = errors.New("the text is too long")
	// errOtherFile: an attachment of a letter that waited is not the file that it was.
	errOtherFile = errors.New("the file was changed since it was attached")
	// errTrust is what every error wraps that says a key is not the right one.
	errTrust      = errors.New("trust")
	errKeyChanged = kind{"the server's key has changed", errTrust}
	errWrongKey   = kind{"the keys do not belong together", errTrust}
	errNoServer   = kind{"no server is known", errUsage}
	errNoAccount  = kind{"no account is given", errUsage}
	errConfig     = errors.New("the configuration is wrong")
	errNoKeys     = errors.New("the keys are not on this machine")
	errUnknown    = errors.New("no key is remembered")

	errNoSuchMessage    = errors.New("there is none with this number")
	errNoSuchAttachment = errors.New("there is no such attachment")
	errNotHere          = errors.New("it was not fetched yet")

	errContactKey   = kind{"the key has changed, and the one before did not sign for it", errTrust}
	errContactReset = kind{"the key was reset: nobody but the server vouches for the new one", errTrust}
	errDowngraded   = kind{"the sealed keys that the server has are protected less than before", errTrust}
	errCheap        = kind{"the sealed keys that the server has cost too little to guess at", errTrust}
	errWords        = errors.New("the words are not this account's recovery key")
)

// A kind is an error of a more general kind that goes unsaid.
type kind struct {
	text    string
	general error
}

func (k kind) Error() string { return k.text }
func (k kind) Unwrap() error { return k.general }

// hinted is an error with advice that only the place where it arose can give.
type hinted struct {
	error
	hint string
}

func (h hinted) Unwrap() error { return h.error }

func hint(err error, hint string) error { return hinted{err, hint} }

// usage makes err one of how the program was called.
func usage(err error) error { return kind{err.Error(), errUsage} }

// A diagnosis is what is told of an error; in JSON, too.
type diagnosis struct {
	Message string `json:"error"`
	Hint    string `json:"hint,omitempty"`
	Code    int    `json:"code"`
}

// usageHint is advice on a wrong call of nobody knows which command. Where it is known, App.Run names it.
const usageHint = "see shorebird --help, or --help after a command"

// causes are tried in this order: a refusal is temporary for a server, but a
// person should know that it was one.
var causes = []struct {
	err  error
	code int
	hint string
}{
	{context.Canceled, exitInterrupted, ""},
	{errConfig, exitFailure, `It may hold account = "you@example.org", server = "host:port", sent_copies = true or false, a table [servers] of "domain" = "host:port", and tables [accounts."you@example.com"] with server = "host:port".`},
	{errUsage, exitUsage, usageHint},
	{errTrust, exitTrust, ""},
	{client.ErrSignature, exitTrust, "Somebody may be between you and the server. Nothing was sent; try another network, or ask the server's operator."},
	{crypt.ErrPublicKey, exitTrust, "The server gave a key that nothing can be sealed to. Nothing was sent; tell its operator."},
	{client.ErrDowngrade, exitTrust, "This server has spoken a private channel before, and now it, or somebody between you and it, refuses one: perhaps to read along, or to take another's place. Nothing was sent. Try another network, or ask the server's operator."},
	{client.ErrSwapped, exitTrust, "Somebody may be between you and the server. Nothing was sent; try another network, or ask the server's operator."},
	{client.ErrReceipt, exitTrust, "It is not known whether the server has the letter. Ask its operator."},
	{crypt.ErrHistory, exitTrust, "The server, or somebody in its place, tells something about a key that cannot be. Nothing was sent; ask its operator."},
	{crypt.ErrUnsigned, exitTrust, "The server, or somebody in its place, tells something about a key that cannot be. Nothing was sent; ask its operator."},
	{crypt.ErrStatement, exitTrust, "The server, or somebody in its place, tells something about a key that cannot be. Nothing was sent; ask its operator."},
	{xzibit.ErrForged, exitTrust, "The recovery copy was not made by who has your keys. Nothing was saved. Ask the server's operator by other means."},
	{errWords, exitPassword, "Compare them with the paper. If they are right, the account has another recovery key by now."},
	{recovery.ErrCount, exitPassword, "Type all 12, with a space between them."},
	{recovery.ErrWord, exitPassword, "Compare it with the paper."},
	{recovery.ErrChecksum, exitPassword, "Compare them with the paper."},
	{errEmptyPassword, exitPassword, "No account has an empty password: check the file or the program that the password comes from."},
	{errMissing, exitPassword, ""},
	{xzibit.ErrPassword, exitPassword, "Type it again with care. If it is right, the address may be an alias: use the account's own address."},
	{client.ErrRefused, exitRefused, "The server does not say why. There may be no such account, the letter may be too large, or the server too busy: check the address, then try again later."},
	{client.ErrNoCMTP, exitFailure, "Check host and port: this may be an ordinary mail server."},
	{cmtp.ErrReply, exitFailure, "What answers there does not keep to CMTP. Check host and port."},
	{xzibit.ErrParams, exitFailure, "Opening these keys would cost more memory or time than any honest program asks for. Ask the server's operator."},
	{kernelring.ErrUnavailable, exitFailure, "Linux alone keeps them, and a container or a sandbox may refuse it. A desktop keyring serves as well, or a file that " + passwordFileVariable + " names."},
	{letter.ErrChanged, exitFailure, "Nothing was delivered. Wait until nobody writes to the file, or send a copy."},
	{crypt.ErrChanged, exitFailure, "Nothing was delivered. Wait until nobody writes to the file, or send a copy."},
	{letter.ErrNotRegular, exitFailure, "An attachment is read twice, so it has to be a file. Write the data to a file first, or a directory into an archive."},
	{letter.ErrKeys, exitFailure, "It may be for another of your accounts (see --account), older than your keys, or damaged."},
	{crypt.ErrOpen, exitFailure, "The message is damaged. Fetch it again if you can."},
	{errNoMessage, exitFailure, "shorebird opens messages as cmtpd spool export writes them."},
	{cache.ErrQuery, exitUsage, "shorebird search --help says what can be searched for"},
	{cache.ErrWords, exitUsage, "A tag is a word without a line break. Where there are tags that do not open here: --replace-tags"},
	{address.ErrInvalid, exitUsage, "an address is account@domain"},
	{fs.ErrNotExist, exitFailure, ""},
	{context.DeadlineExceeded, exitTemporary, "Nothing came in time. Try again later, or with a longer --timeout."},
	{os.ErrDeadlineExceeded, exitTemporary, "Nothing came in time. Try again later, or with a longer --timeout."},
}

// diagnose says what err means to a person and to a script.
func diagnose(err error) diagnosis {
	d := diagnosis{Message: err.Error(), Code: exitFailure}
	found := false
	for _, c := range causes {
		if found = errors.Is(err, c.err); found {
			d.Code, d.Hint = c.code, c.hint
			break
		}
	}
	var status *cmtp.StatusError
	if !found && errors.As(err, &status) && !status.Temporary() {
		found = true
		d.Code, d.Hint = exitRefused, statusHint(status.Status)
	}
	if !found && client.Temporary(err) {
		d.Code, d.Hint = exitTemporary, "Try again later. If it stays so, check the network and the server's address."
		if status != nil && status.Status == cmtp.StatusTooOften {
			d.Hint = "Try again when the server says. Others on your network, or who guess at this account, may have made those attempts; until then trying sooner only fails."
		}
	}
	if d.Code == exitInterrupted {
		d.Message = "interrupted"
	}
	var h hinted
	if errors.As(err, &h) {
		d.Hint = h.hint
	}
	return d
}

// statusHint says what a person can do about a refusal.
func statusHint(s cmtp.Status) string {
	switch s {
	case cmtp.StatusNotProven:
		return "The server takes this only from its own users. Fetch your keys with shorebird recover, and send from your own address."
	case cmtp.StatusWrongProof:
		return "The server knows another key for this account. Try shorebird recover."
	case cmtp.StatusNoAccount:
		return "Check the address."
	case cmtp.StatusForeignDomain:
		return "This is not the server of that domain: check --server, or the configuration file."
	case cmtp.StatusForeignSource:
		return "Send from your own address: see --from."
	case cmtp.StatusBadInvitation:
		return "Compare the code with what you were given. A code works once, and not for ever: ask the server's operator for a new one."
	case cmtp.StatusBadStatement:
		return "Check this machine's clock: the server takes no key that is more than an hour off."
	case cmtp.StatusSwitchedOff:
		return "The server's operator has switched it off: ask there."
	}
	return ""
}
