package session

import (
	"context"
	"errors"

	"cmtpd/internal/account"
	"cmtpd/internal/address"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/crypt"
	"cmtpd/internal/mailbox"
	"cmtpd/internal/spool"
	"cmtpd/internal/xzibit"
)

// part2 is CMTP 1, inside the channel (docs/protocol.md, Part II).
type part2 struct {
	*Server
	client  client
	binding [32]byte // of the channel, to which proofs are bound
	strikes

	user     *proof             // the user of this session, once proven
	owner    *account.Account   // whose mailbox own is
	own      *mailbox.Box       // what box has returned last
	peer     *proof             // the server at the other end, once it has proven its key
	charged  map[account.ID]int // attempts by this session that may come back
	asked    []address.Address  // the foreign names that the user has asked for last, the latest at the end
	enrolled *enrollment        // what REGISTER may go on with
	pending  func(form []byte) ([]byte, error)
	body     *mailbox.Body   // that FETCH is answered with
	reading  mailbox.Reading // what FETCH keeps for the next one
	wait     cmtp.WaitQuery  // that is to be answered
}

// A proof is who has proven to hold a key. Whether the key is the one of a peer's
// domain is not known by that.
type proof struct {
	id   account.ID // zero for a server
	name address.Address
	key  crypt.PublicKey
}

// An enrollment is an invitation whose code was right.
type enrollment struct {
	name address.Address
	code string
}

func (p *part2) command(ctx context.Context, c *cmtp.Command, reply []byte) ([]byte, action, error) {
	do := next
	payload, err := []byte(nil), error(nil)
	switch c.Verb {
	case cmtp.Ohai, cmtp.Noop:
		payload = []byte(p.cfg.Version)
	case cmtp.Help:
		payload = []byte(cmtp.HelpText1)
	case cmtp.KeyRequest:
		payload, err = p.cmdKeyRequest(ctx, string(c.User()), string(c.Domain()))
	case cmtp.Login:
		payload, err = p.cmdLogin(string(c.User()))
	case cmtp.Auth:
		payload, err = p.cmdAuth(ctx, c)
	case cmtp.Unlock:
		payload, err = p.cmdUnlock(c)
	case cmtp.Enroll:
		payload, err = p.cmdEnroll(c)
	case cmtp.Recover:
		payload, err = p.cmdRecover(c)
	case cmtp.Mail:
		return reply, receive, nil
	case cmtp.Register:
		return p.announce(reply, p.cmdRegister(c))
	case cmtp.Upload:
		return p.announce(reply, p.cmdUpload())
	case cmtp.Mailbox, cmtp.List, cmtp.Changes, cmtp.Fetch, cmtp.Flag, cmtp.Delete, cmtp.Wait:
		return p.boxCommand(ctx, c, reply)
	case cmtp.Obai:
		return reply, end, nil
	case cmtp.StartTLS:
		err = errInChannel
	default:
		do, err = p.unknown()
	}
	if errors.Is(err, errWrongProof) {
		do = p.wrong()
	}
	if err != nil {
		return reply, do, err
	}
	return cmtp.AppendReply(reply, cmtp.StatusDone, payload), do, nil
}

// announce goes on to the form of a command, to be taken or, after an error, skipped.
func (p *part2) announce(reply []byte, err error) ([]byte, action, error) {
	if err != nil {
		return reply, skipForm, err
	}
	return reply, takeForm, nil
}

func (p *part2) form(form, reply []byte) ([]byte, error) {
	take := p.pending
	p.pending = nil
	payload, err := take(form)
	if err != nil {
		return reply, err
	}
	return cmtp.AppendReply(reply, cmtp.StatusDone, payload), nil
}

// cmdKeyRequest answers with all that is stated about the key of a name.
func (p *part2) cmdKeyRequest(ctx context.Context, user, domain string) ([]byte, error) {
	a, err := p.cfg.Directory.Resolve(user, domain)
	if isForeign(err) && p.cfg.Elsewhere != nil {
		return p.lookup(ctx, user, domain)
	}
	if err != nil {
		return nil, err
	}
	own, err := p.cfg.Directory.Domain(domain)
	if err != nil {
		return nil, err
	}
	asked := address.Address{Domain: own}
	if user != "" {
		if asked.Account, err = address.ParseAccount(user); err != nil {
			return nil, err
		}
	}
	owner, history := address.Address{Domain: own}, []byte(nil)
	if a == nil {
		history = p.identity.history(own)
	} else {
		owner, history = a.Address, a.History()
	}
	if owner.Domain == asked.Domain && (owner.Account == asked.Account || owner.Account == asked.Account.Base() && !owner.Account.IsZero()) {
		return history, nil
	}
	return p.identity.withAlias(asked, owner, history), nil
}

// cmdLogin gives the xzibit of any version: that of version 3 is worthless without
// UNLOCK, which counts guesses.
func (p *part2) cmdLogin(user string) ([]byte, error) {
	if !p.cfg.AllowLogin(p.client.addr) {
		return nil, errRate
	}
	a, err := p.cfg.Directory.Login(user)
	if err != nil {
		return nil, err
	}
	if a.XzibitVersion() < xzibit.Unlocked && !p.cfg.PlainLogin {
		if u := p.proven(); u == nil || u.ID != a.ID {
			return nil, errNoLogin
		}
	}
	return a.Xzibit, nil
}

// proven returns the account of the session's user, as it is now: one that was
// disabled, made anew or given another key is not proven any longer.
func (p *part2) proven() *account.Account {
	if p.user == nil {
		return nil
	}
	a, err := p.cfg.Directory.Account(p.user.name)
	if err != nil || a.ID != p.user.id || a.Key != p.user.key {
		return nil
	}
	return a
}

// envelope: a source of our own is its user's alone, and only with such a source
// may a message go elsewhere, so that no setting makes a relay for strangers
// (docs/protocol.md section 19.7).
func (p *part2) envelope(h *cmtp.Header) (delivery, error) {
	source, err := p.checkEnvelope(h)
	if err != nil {
		return delivery{}, err
	}
	to, err := parseName(h.DestinationAccount, h.DestinationDomain)
	if err != nil {
		return delivery{}, err
	}
	foreign, user := !p.isLocal(to.Domain), p.isLocal(source.Domain)
	if foreign || user {
		if err := p.owns(source, h); err != nil {
			return delivery{}, err
		}
	}
	if foreign {
		if p.cfg.Elsewhere != nil && !p.cfg.Elsewhere.Kept(to.Domain) {
			if err := p.cfg.Abroad.meet(p.user.id, to.Domain); err != nil {
				return delivery{}, err
			}
		}
		return delivery{mailbox: outgoing, to: to, queued: true, sender: p.user.id}, nil
	}
	d, err := p.local(h, source)
	if d.user = user; user {
		d.sender = p.user.id
	}
	return d, err
}

// owns reports why the session's user may not write as source.
func (p *part2) owns(source address.Address, h *cmtp.Header) error {
	user := p.proven()
	if user == nil {
		return errNotProven
	}
	if !p.isLocal(source.Domain) {
		return errForeignSource
	}
	a, err := p.cfg.Directory.Resolve(h.SourceAccount, h.SourceDomain)
	if err != nil || a == nil || a.ID != user.ID || source.Account.IsZero() {
		return errForeignSource
	}
	return nil
}

func (p *part2) stored(reply []byte, d delivery, digest [32]byte, s spool.Stored) []byte {
	status := cmtp.StatusDone
	if d.queued {
		status = cmtp.StatusQueued
	}
	r := crypt.Receipt{
		Digest: digest, Destination: d.to, When: crypt.UnixTimeOf(p.cfg.Now()), Commit: s.Head.Number, Hash: s.Head.Hash,
	}
	return cmtp.AppendReply(reply, status, r.AppendSigned(make([]byte, 0, crypt.MaxReceipt), p.cfg.Key))
}

func (p *part2) fail(reply []byte, err error) []byte {
	status, reason := explain(err)
	return cmtp.AppendFailure(reply, status, reason)
}
