package session

import (
	"context"
	"fmt"

	"cmtpd/internal/address"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/crypt"
	"cmtpd/internal/spool"
	"cmtpd/internal/xzibit"
)

// part1 is CMTP 0.01 (docs/protocol.md, Part I). It has one failure, without a
// reason; the log has that.
type part1 struct {
	*Server
	client client
	strikes
}

// words are the replies that are the same for everybody, made once.
type words struct {
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
		ohai:      cmtp.AppendString(nil, cmtp.Ohai.String()+version),
		noop:      cmtp.AppendString(nil, version),
		help:      cmtp.AppendString(nil, cmtp.HelpText),
		serverKey: cmtp.AppendKey(nil, pub, key.Sign(pub[:])),
		success:   cmtp.AppendWord(nil, cmtp.Success, key.Sign([]byte(cmtp.Success))),
		failure:   cmtp.AppendWord(nil, cmtp.Failure, key.Sign([]byte(cmtp.Failure))),
	}
}

func (p *part1) command(_ context.Context, c *cmtp.Command, reply []byte) ([]byte, action, error) {
	switch c.Verb {
	case cmtp.Ohai:
		return append(reply, p.words.ohai...), next, nil
	case cmtp.Noop:
		return append(reply, p.words.noop...), next, nil
	case cmtp.Help:
		return append(reply, p.words.help...), next, nil
	case cmtp.KeyRequest:
		return p.cmdKeyRequest(string(c.User()), string(c.Domain()), reply)
	case cmtp.Login:
		return p.cmdLogin(string(c.User()), reply)
	case cmtp.Mail:
		return reply, receive, nil
	case cmtp.Obai:
		return reply, end, nil
	case cmtp.StartTLS:
		if !p.cfg.AllowTLS(p.client.addr) {
			return reply, secure, errRate
		}
		return reply, secure, nil
	}
	do, err := p.unknown()
	switch c.Verb {
	case cmtp.Register, cmtp.Upload, cmtp.Flag, cmtp.Delete:
		return reply, end, fmt.Errorf("%w: %w", errOutOfStep, errInside) // a form follows, which is no command
	case cmtp.Auth, cmtp.Unlock, cmtp.Enroll, cmtp.Recover, cmtp.Mailbox, cmtp.List, cmtp.Changes, cmtp.Fetch, cmtp.Wait:
		if do == next {
			err = errInside
		}
	}
	return reply, do, err
}

// cmdKeyRequest answers with a key of this server's domains, and of no other:
// the signature names nobody, so a signed stranger's key would pass for ours
// (docs/protocol.md section 3.1).
func (p *part1) cmdKeyRequest(user, domain string, reply []byte) ([]byte, action, error) {
	a, err := p.cfg.Directory.Resolve(user, domain)
	switch {
	case err != nil:
		return reply, next, err
	case a == nil:
		return append(reply, p.words.serverKey...), next, nil
	}
	return cmtp.AppendKey(reply, a.Key, a.KeySignature()), next, nil
}

// cmdLogin gives no xzibit of version 3: it opens only with UNLOCK, which is not
// to be had here.
func (p *part1) cmdLogin(user string, reply []byte) ([]byte, action, error) {
	if !p.cfg.AllowLogin(p.client.addr) {
		return reply, next, errRate
	}
	a, err := p.cfg.Directory.Login(user)
	switch {
	case err != nil:
		return reply, next, err
	case a.XzibitVersion() >= xzibit.Unlocked:
		return reply, next, errInside
	case !p.cfg.PlainLogin:
		return reply, next, errNoLogin
	}
	return cmtp.AppendXzibit(reply, a.Xzibit, a.XzibitSignature()), next, nil
}

func (p *part1) form(_, reply []byte) ([]byte, error) { return reply, errInside }

// envelope: nobody is proven here, so a foreign destination is always refused, and
// so is a source of our own, unless the operator wants it as the documents of 2016
// have it.
func (p *part1) envelope(h *cmtp.Header) (delivery, error) {
	source, err := p.checkEnvelope(h)
	if err != nil {
		return delivery{}, err
	}
	if p.isLocal(source.Domain) && !p.cfg.AcceptUnproven {
		return delivery{}, errNotProven
	}
	return p.local(h, source)
}

func (p *part1) stored(reply []byte, _ delivery, _ [32]byte, _ spool.Stored) []byte {
	return append(reply, p.words.success...)
}

func (p *part1) fail(reply []byte, _ error) []byte { return append(reply, p.words.failure...) }

// checkEnvelope returns a message's source once what holds for every message does.
func (s *Server) checkEnvelope(h *cmtp.Header) (source address.Address, err error) {
	if h.System == cmtp.SystemPlain && !s.cfg.AcceptPlaintext {
		return source, errPlaintext
	}
	if h.DestinationDomain == "" {
		return source, errNoDomain
	}
	if source, err = parseName(h.SourceAccount, h.SourceDomain); err != nil {
		return source, fmt.Errorf("its source: %w", err)
	}
	return source, nil
}

// local returns the delivery of a message to a domain of this server.
func (s *Server) local(h *cmtp.Header, source address.Address) (delivery, error) {
	a, err := s.cfg.Directory.Resolve(h.DestinationAccount, h.DestinationDomain)
	if err != nil {
		return delivery{}, err
	}
	to, err := parseName(h.DestinationAccount, h.DestinationDomain)
	if err != nil || a == nil {
		return delivery{mailbox: operator, to: to, foreign: !s.isLocal(source.Domain)}, err
	}
	return delivery{mailbox: spool.MailboxID(a.ID), to: to, foreign: !s.isLocal(source.Domain)}, nil
}

// parseName returns the normal form of two names; an empty account is the server.
func parseName(account, domain string) (at address.Address, err error) {
	if at.Domain, err = address.ParseDomain(domain); err != nil {
		return at, err
	}
	if account != "" {
		at.Account, err = address.ParseAccount(account)
	}
	return at, err
}
