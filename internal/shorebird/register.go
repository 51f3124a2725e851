package shorebird

import (
	"context"
	"errors"
	"fmt"

	"cmtpd/internal/address"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/crypt"
	"cmtpd/internal/invite"
	"cmtpd/internal/oprf"
	"cmtpd/internal/xzibit"
)

type registerOptions struct {
	codeStdin  bool
	noRecovery bool
}

// register makes an account, or resets it, with the code of an invitation. Nothing
// secret is sent before the server was found to be the one that the code names, and
// nobody thinks of a password, or writes words on paper, for a code that is refused.
func (r *run) register(ctx context.Context, arg string, o registerOptions) error {
	addr, err := address.Parse(arg)
	if err != nil {
		return err
	}
	n, h, err := r.network()
	if err != nil {
		return err
	}
	defer n.close()
	if _, err := n.server(addr.Domain); err != nil {
		return err // before a person types a code for nothing
	}
	code, err := r.code(ctx, o.codeStdin)
	if err != nil {
		return err
	}
	d := &desk{run: r, network: n, home: h}
	defer d.release()
	p, old, err := d.invited(ctx, addr, code)
	if err != nil {
		return err
	}
	if err := p.tryCode(addr, code); err != nil {
		return err
	}
	if old != nil {
		r.note("%s exists. This makes it new keys: mail that is sealed to the old ones can be read only where these are kept, and whoever knew the old key is warned.", addr)
	}
	n.drop(p.where) // before a person is asked, who may take any time
	password, err := r.newPassword(ctx, addr, 0)
	if err != nil {
		return err
	}
	pair, err := newKey(r.Now())
	if err != nil {
		return err
	}
	ring := &xzibit.Keyring{Keys: []xzibit.KeyPair{*pair}}
	v := AccountReport{Reset: old != nil}
	if !o.noRecovery {
		key, words, err := r.recoveryKey(ctx)
		if err != nil {
			return err
		}
		ring.SetRecovery(key)
		v.RecoveryWords = words
	}
	d.held = &holding{address: addr, ring: ring, password: password}
	if err := d.worthless(d.enroll(ctx, code, v), !o.noRecovery); err != nil {
		return err
	}
	d.introduce(addr, p.where)
	return nil
}

// tryCode asks the server whether it takes the code. What it evaluates is nobody's
// password, and is thrown away. The network is charged one more attempt by it.
func (p *peer) tryCode(addr address.Address, code invite.Code) error {
	_, err := oprf.Ask(nil, func(e oprf.Element) (oprf.Element, error) { return p.channel.Enroll(addr, code.Secret(), e) })
	return err
}

// code reads the code of an invitation.
func (r *run) code(ctx context.Context, stdin bool) (invite.Code, error) {
	text, err := r.answer(ctx, question{
		what: "the code", prompt: "The code of your invitation: ", stdin: stdin, flag: "code-stdin", variable: codeFileVariable,
	})
	if err != nil {
		return invite.Code{}, err
	}
	code, err := invite.Parse(text)
	if err != nil {
		return code, usage(fmt.Errorf("reading the code: %w", err))
	}
	return code, nil
}

// invited returns the server of an address once it is the one that the code is for, and
// what it says of the address: nil where it has no such account yet.
func (d *desk) invited(ctx context.Context, addr address.Address, code invite.Code) (*peer, *answer, error) {
	p, trust, err := d.reach(ctx, addr.Domain)
	if err != nil {
		return nil, nil, err
	}
	if p.channel == nil {
		return nil, nil, hint(fmt.Errorf("%s: %w", p.where, errNoCMTP1), "Nothing was sent. To register, the server has to speak CMTP 1: check host and port, or ask its operator.")
	}
	if !code.IsFor(p.key) {
		return nil, nil, hint(fmt.Errorf("%s: %w: its key is\n  %s", p.where, errOtherServer, p.key),
			"Nothing was sent. Either the code's second half is mistyped, or this is another server than the one that invited you, perhaps somebody in between. Compare the code with what you were given; then ask who gave it to you.")
	}
	p.accept()
	key, history, err := p.ask(addr)
	switch {
	case err == nil:
		return p, &answer{address: addr, key: key, history: history, where: p.where, server: p.key, trust: trust}, nil
	case hasStatus(err, cmtp.StatusNoAccount):
		return p, nil, nil
	}
	return nil, nil, err
}

// enroll registers the keys at the desk.
func (d *desk) enroll(ctx context.Context, code invite.Code, v AccountReport) error {
	addr := d.held.address
	if err := d.claim(ctx, addr); err != nil {
		return err
	}
	p, old, err := d.invited(ctx, addr, code) // once more: it may have been called anew
	if err != nil {
		return err
	}
	if v.Reset != (old != nil) {
		return hint(fmt.Errorf("%s: %w", addr, errMeanwhile), "Nothing was sent. Try again.")
	}
	d.held.ring.Server = p.key
	secret := code.Secret()
	s, err := d.sealFor(d.held.ring, d.held.password, func(e oprf.Element) (oprf.Element, error) { return p.channel.Enroll(addr, secret, e) })
	if err != nil {
		return err
	}
	form := registration(d.held, old, crypt.UnixTimeOf(d.now()))
	form.Xzibit, form.Copy = s.xzibit, s.copy
	moved, err := d.home.putAside(addr, nil, d.held.password, d.held.ring, d.now())
	if err != nil {
		return err
	}
	if err := d.prepare(ctx, d.home, d.held, d.held.password, s.digest); err != nil {
		return err
	}
	d.delivered = true
	history, err := p.channel.Register(addr, secret, form)
	if err != nil {
		return d.refused(ctx, d.held, err)
	}
	a := &answer{address: addr, key: history.Current().Key, history: history, where: p.where, server: p.key, trust: Invited}
	if v.Keyring, err = d.taken(ctx, d.held, a, history, s.digest, d.held.password); err != nil {
		return err
	}
	if err := d.meet(ctx, addr.Domain, p, FirstContact); err != nil {
		return err
	}
	v.Moved = moved
	return d.reportAccount(a, v, "registered")
}

// registration returns the form of REGISTER, still without what is sealed.
func registration(held *holding, old *answer, now crypt.UnixTime) *cmtp.RegisterForm {
	key := held.ring.Keys[0].Key
	s := crypt.KeyStatement{Name: held.address, Key: key.Public(), NotBefore: now}
	if old != nil {
		s = old.history.Current().Follow(key.Public(), now)
		s.Reset = true
	}
	return &cmtp.RegisterForm{Statement: s, Possession: s.Possess(key)}
}

// Errors of registering.
var (
	errOtherServer = kind{"the invitation is mistyped, or for another server", errTrust}
	errNoCMTP1     = errors.New("the server does not speak CMTP 1")
	errMeanwhile   = errors.New("the account was changed while this was running")
)
