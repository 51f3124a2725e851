package session

import (
	"errors"
	"fmt"
	"time"

	"cmtpd/internal/account"
	"cmtpd/internal/address"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/crypt"
	"cmtpd/internal/federation"
	"cmtpd/internal/guess"
	"cmtpd/internal/mailbox"
	"cmtpd/internal/oprf"
	"cmtpd/internal/provenance"
	"cmtpd/internal/spool"
	"cmtpd/internal/xzibit"
)

// Reasons why a message or a command is refused. CMTP 0.01 cannot say them to
// the client; the log does.
var (
	errPlaintext      = errors.New("it is not encrypted")
	errNoDomain       = errors.New("it names no destination domain")
	errRate           = errors.New("too many requests from this network")
	errUnknownCommand = fmt.Errorf("%w: unknown", cmtp.ErrCommand)
	errInside         = errors.New("only inside the channel of CMTP 1")
	errInChannel      = errors.New("the channel is there already")
	errNoLogin        = errors.New("LOGIN is switched off for this account's keys")
	errNotProven      = errors.New("nobody has proven to be its source")
	errNotAsker       = errors.New("nobody has proven to be a user of this server")
	errNotUser        = errors.New("nobody has proven to be the account's user")
	errForeignSource  = errors.New("the source is not the user's own")
	errParameter      = errors.New("a parameter is not what it must be")
	errWrongProof     = errors.New("the proof is wrong")
	errNotReader      = errors.New("nobody has proven to be a reader of this mailbox")
	errOldKey         = errors.New("the key is not the account's newest")
	errProvenBefore   = errors.New("this session has proven one already")
	errLongForm       = errors.New("a form is too long")
	errEnding         = errors.New("the server ends the session")
	errNotEnrolled    = errors.New("no ENROLL with this address and code came before")
)

// reasons say to the person at the other end what an error means and what can be
// done. They are tried in this order.
var reasons = []struct {
	err    error
	status cmtp.Status
	text   string
}{
	{errUnknownCommand, cmtp.StatusUnknownCommand, "This is no command of CMTP 1; HELP lists them."},
	{errEnding, cmtp.StatusClosing, "The server ends this session: it has waited too long, or is about to stop. Connect again."},
	{errRate, cmtp.StatusTooOften, "Too many requests came from your network. Try again in a minute."},
	{errInChannel, cmtp.StatusNotNow, "The channel is encrypted already."},
	{errProvenBefore, cmtp.StatusNotNow, "This connection has proven who it is already. Open another one."},
	{errNotEnrolled, cmtp.StatusNotNow, "REGISTER comes after an ENROLL with the same address and code."},
	{account.ErrNoSeed, cmtp.StatusNotNow, "The keys of this account are of an older form, which opens with the password alone: use LOGIN."},
	{errNoLogin, cmtp.StatusSwitchedOff, "The operator does not hand out keys of the older form, which anybody could try passwords on. On a device that has your keys, shorebird passwd brings them up to date; without one, ask the operator for an invitation to reset the account."},
	{errNotProven, cmtp.StatusNotProven, "Only a user of this server, who has proven to be one, may write in the name of one or to another server."},
	{errNotAsker, cmtp.StatusNotProven, "Only a user of this server, who has proven to be one, may ask it for keys of other domains. Ask the domain's own server."},
	{errOwnOrigin, cmtp.StatusBadMessage, "The message's log has an origin entry, which only servers write."},
	{provenance.ErrSender, cmtp.StatusBadMessage, "The message's log has no single well-formed sender entry of the message's own source."},
	{provenance.ErrForged, cmtp.StatusBadMessage, "The message's sender entry is not by the key that it names, or was made for another message."},
	{provenance.ErrUnknownKey, cmtp.StatusBadMessage, "The message's sender entry names a key that is not one of the account's. Fetch your keys and try again."},
	{provenance.ErrLapsed, cmtp.StatusBadMessage, "The message's sender entry is by a key that was not yours at its time, or was reset. Check your clock, fetch your keys and try again."},
	{errSenderTime, cmtp.StatusBadMessage, "The time of the message's sender entry is more than an hour ahead of this server's, or more than ten days before it. Check your clock."},
	{errLoop, cmtp.StatusBadMessage, "The message has gone through thirty servers, and so in circles."},
	{federation.ErrForged, cmtp.StatusBadMessage, "The message's origin entry is not by the server of its source's domain."},
	{federation.ErrOrigin, cmtp.StatusBadMessage, "The message's log has no single well-formed origin entry of its source's domain."},
	{federation.ErrDistrusted, cmtp.StatusPeerDistrusted, "The key of the server that vouches is not trusted for its domain now. The operator of this server sees why."},
	{errNotUser, cmtp.StatusNotProven, "Only the account's own user, who has proven to be that by AUTH, may change its keys."},
	{errNotReader, cmtp.StatusNotProven, "Only an account's own user, who has proven to be that by AUTH, reads its mailbox."},
	{mailbox.ErrNoMessage, cmtp.StatusNoMessage, "Your mailbox has no such message. Ask for its changes."},
	{mailbox.ErrOffset, cmtp.StatusBadParameter, "The message ends before that offset."},
	{mailbox.ErrWaits, cmtp.StatusTooOften, "Too many clients wait for news, yours or all together. End one, or ask again in a few minutes."},
	{mailbox.ErrFull, cmtp.StatusNoRoom, "The recipient's mailbox is full. Try again later."},
	{spool.ErrDamaged, cmtp.StatusTrouble, "The message is damaged on the server's disk. Tell the operator."},
	{errForeignSource, cmtp.StatusForeignSource, "The message names a source that is not you. Use your own address or an alias of it."},
	{errOldKey, cmtp.StatusWrongProof, "The account has a newer key. Fetch your keys again with your password."},
	{errWrongProof, cmtp.StatusWrongProof, "The proof does not fit this account, server and connection."},
	{errNoCopy, cmtp.StatusNoAccount, "There is no recovery copy of this account."},
	{account.ErrInvitation, cmtp.StatusBadInvitation, "There is no invitation of this address with this code, or it was used or has expired. Check the address and the code, or ask the operator for another one."},
	{account.ErrConflict, cmtp.StatusStale, "Another device has changed the keys meanwhile. Fetch them and try again."},
	{account.ErrHistoryFull, cmtp.StatusBadStatement, "The account has had as many keys as it may have."},
	{account.ErrStatement, cmtp.StatusBadStatement, "The statement is not one that may come next for this account, or its time is more than an hour from this server's. Check your clock, fetch your keys and try again."},
	{account.ErrProof, cmtp.StatusBadStatement, "It is not proven that the key's secret half is held."},
	{xzibit.ErrCopy, cmtp.StatusBadStatement, "The recovery copy is not in a form that this server stores."},
	{account.ErrXzibit, cmtp.StatusBadStatement, "The sealed keys are not in a form that this server stores."},
	{account.ErrExists, cmtp.StatusBadInvitation, "The account exists already."},
	{account.ErrUnknown, cmtp.StatusNoAccount, "There is no such account here. Check the address."},
	{account.ErrForeign, cmtp.StatusForeignDomain, "This server does not serve that domain."},
	{address.ErrInvalid, cmtp.StatusBadParameter, "A name is not one of an account or a domain. Check the address."},
	{errNoDomain, cmtp.StatusBadParameter, "The message names no destination domain."},
	{errParameter, cmtp.StatusBadParameter, "A parameter is not what it must be."},
	{oprf.ErrElement, cmtp.StatusBadParameter, "The blinded element is no element of the group."},
	{crypt.ErrStatement, cmtp.StatusBadStatement, "The form holds no well-formed statement."},
	{errLongForm, cmtp.StatusBadParameter, "The form is longer than any may be."},
	{cmtp.ErrForm, cmtp.StatusBadParameter, "The form is not well-formed."},
	{cmtp.ErrCommand, cmtp.StatusBadParameter, "A command or parameter is too long."},
	{errPlaintext, cmtp.StatusBadSystem, "This server takes no mail that is not encrypted."},
	{cmtp.ErrSystem, cmtp.StatusBadSystem, "This server does not know the message's crypto system."},
	{cmtp.ErrTooLarge, cmtp.StatusTooLarge, "It is larger than this server takes."},
	{cmtp.ErrMessage, cmtp.StatusBadMessage, "The message is not well-formed."},
	{spool.ErrNoRoom, cmtp.StatusNoRoom, "The server has no room for mail at present. Try again later."},
	{mailbox.ErrNoRoom, cmtp.StatusNoRoom, "The server has no room for mail at present. Try again later."},
}

// explain returns the status and the reason for an error. What is not known is a
// trouble of the server's own, of which strangers are told no more.
func explain(err error) (cmtp.Status, string) {
	var spent *guess.Exhausted
	if errors.As(err, &spent) {
		wait := max(spent.RetryAfter.Round(time.Second), time.Second)
		return cmtp.StatusTooOften, fmt.Sprintf("Too many attempts were made. The next one may be made in %v.", wait)
	}
	var used *overspent
	if errors.As(err, &used) {
		return cmtp.StatusTooOften, used.text()
	}
	var failed lookupError
	if errors.As(err, &failed) {
		return federation.LookupStatus(failed.error)
	}
	for _, r := range reasons {
		if errors.Is(err, r.err) {
			return r.status, r.text
		}
	}
	return cmtp.StatusTrouble, "The server has a trouble of its own. Try again later; if it stays so, tell the operator."
}
