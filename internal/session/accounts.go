package session

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"cmtpd/internal/account"
	"cmtpd/internal/address"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/crypt"
	"cmtpd/internal/federation"
)

// ownName returns the address that two parameters name, of an account of this server.
func (p *part2) ownName(user, domain []byte) (address.Address, error) {
	at, err := parseName(string(user), string(domain))
	switch {
	case err != nil:
		return at, err
	case at.Account.IsZero():
		return at, fmt.Errorf("%w: the account is empty", errParameter)
	case !p.isLocal(at.Domain):
		return at, fmt.Errorf("%s: %w", at.Domain, account.ErrForeign)
	}
	return at, nil
}

// active returns the account of exactly this name.
func (p *part2) active(at address.Address) (*account.Account, error) {
	return p.cfg.Directory.Login(at.String())
}

// cmdAuth takes a proof that is bound to this channel (docs/protocol.md section 18).
func (p *part2) cmdAuth(ctx context.Context, c *cmtp.Command) ([]byte, error) {
	name, err := parseName(string(c.User()), string(c.Domain()))
	if err != nil {
		return nil, err
	}
	asked, err := address.ParseDomain(string(c.ServerDomain()))
	if err != nil {
		return nil, err
	}
	if !p.isLocal(asked) {
		return nil, fmt.Errorf("%s: %w", asked, account.ErrForeign)
	}
	proven := crypt.Proof{
		Role: crypt.UserRole, Name: name, Server: asked, Key: c.Key(), ServerKey: p.identity.key, Binding: p.binding,
	}
	if name.Account.IsZero() {
		proven.Role = crypt.ServerRole
		return nil, p.authServer(ctx, &proven, c.Signature())
	}
	return p.authUser(&proven, c.Signature())
}

// authServer notes that the peer holds the key it shows, unless that is known not to be its
// domain's. It grants nothing.
func (p *part2) authServer(ctx context.Context, proven *crypt.Proof, sig crypt.Signature) error {
	switch {
	case p.peer != nil:
		return errProvenBefore
	case p.isLocal(proven.Name.Domain):
		return fmt.Errorf("%w: %s is a domain of this server", errWrongProof, proven.Name.Domain)
	case !proven.Verify(sig):
		return errWrongProof
	}
	if p.cfg.Elsewhere != nil {
		if _, err := p.cfg.Elsewhere.JudgePeer(ctx, federation.Remote{Domain: proven.Name.Domain, Key: proven.Key}, p.client.addr); err != nil {
			return err
		}
	}
	p.peer = &proof{name: proven.Name, key: proven.Key}
	return nil
}

func (p *part2) authUser(proven *crypt.Proof, sig crypt.Signature) ([]byte, error) {
	if p.user != nil {
		return nil, errProvenBefore
	}
	if proven.Name.Domain != proven.Server {
		return nil, fmt.Errorf("%w: a user proves itself to its own domain", errParameter)
	}
	a, err := p.active(proven.Name)
	switch {
	case err != nil:
		return nil, err
	case !proven.Verify(sig):
		return nil, errWrongProof
	case a.Key != proven.Key:
		return nil, wrongKey(a, proven.Key)
	}
	p.user = &proof{a.ID, a.Address, a.Key}
	p.refund(a.ID)
	digest := a.XzibitDigest()
	return digest[:], nil
}

// wrongKey tells who has an older key of the account, which its history shows to
// everybody, from who has none.
func wrongKey(a *account.Account, key crypt.PublicKey) error {
	if slices.ContainsFunc(a.Statements, func(s account.Statement) bool { return s.Key == key }) {
		return errOldKey
	}
	return errWrongProof
}

// cmdUnlock helps to open the xzibit of an account. Whoever is not its proven user
// pays for the attempt first.
func (p *part2) cmdUnlock(c *cmtp.Command) ([]byte, error) {
	at, err := p.ownName(c.User(), c.Domain())
	if err != nil {
		return nil, err
	}
	a, err := p.active(at)
	if err != nil {
		return nil, err
	}
	if u := p.proven(); u != nil && u.ID == a.ID {
		if a, err = p.cfg.Accounts.EnsureSeed(a.ID); err != nil {
			return nil, err
		}
	} else if !a.HasSeed() {
		return nil, account.ErrNoSeed
	} else if err := p.charge(a); err != nil {
		return nil, err
	}
	return element(a.Evaluate(c.Element()))
}

func element(e [32]byte, err error) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	return e[:], nil
}

// charge takes an attempt on an account, on disk when it returns.
func (p *part2) charge(a *account.Account) error {
	if err := p.cfg.Guesses.Charge([16]byte(a.ID), p.client.addr); err != nil {
		p.cfg.Observer.Guess(refusedGuess(err), 1)
		p.suspect("the attempts on an account, or of a network, are used up", a.Address, err)
		return err
	}
	p.cfg.Observer.Guess(GuessCharged, 1)
	id := a.ID
	if p.charged == nil {
		p.charged = make(map[account.ID]int)
	}
	p.charged[id]++
	return nil
}

// refund gives back what this session was charged on an account whose user it has
// proven now. Where that fails the user has fewer attempts for a while.
func (p *part2) refund(id account.ID) {
	if err := p.cfg.Guesses.Refund([16]byte(id), p.client.addr, p.charged[id]); err != nil {
		p.cfg.Log.Warn("attempts were not given back", "account", id, "err", err)
	} else if p.charged[id] > 0 {
		p.cfg.Observer.Guess(GuessReturned, p.charged[id])
	}
	delete(p.charged, id)
}

// cmdEnroll is UNLOCK for who has the code of an invitation.
func (p *part2) cmdEnroll(c *cmtp.Command) ([]byte, error) {
	at, err := p.ownName(c.User(), c.Domain())
	if err != nil {
		return nil, err
	}
	// A code has 60 random bits, so it needs no allowance of its own, which strangers could
	// use up, and which would tell them who is invited.
	if err := p.cfg.Guesses.ChargeNetwork(p.client.addr); err != nil {
		p.cfg.Observer.Guess(refusedGuess(err), 1)
		p.suspect("the attempts of a network are used up", at, err)
		return nil, err
	}
	code := string(c.Code())
	payload, err := element(p.cfg.Accounts.Enroll(at, code, c.Element()))
	if err != nil {
		p.cfg.Observer.Guess(GuessWrongCode, 1)
		p.suspect("an invitation's code was refused", at, err)
		return nil, err
	}
	p.cfg.Observer.Guess(GuessRightCode, 1)
	p.enrolled = &enrollment{at, code}
	return payload, nil
}

// cmdRegister goes on where an ENROLL has shown the code, so that no form is read
// into memory for who has none.
func (p *part2) cmdRegister(c *cmtp.Command) error {
	at, err := p.ownName(c.User(), c.Domain())
	if err != nil {
		return err
	}
	e := p.enrolled
	if e == nil || e.name != at || e.code != string(c.Code()) {
		return errNotEnrolled
	}
	p.enrolled = nil
	p.pending = func(b []byte) ([]byte, error) {
		form, err := cmtp.ParseRegisterForm(b)
		if err != nil {
			return nil, err
		}
		a, err := p.cfg.Accounts.Register(e.name, e.code, form)
		if err != nil {
			return nil, err
		}
		event := "an account was registered"
		if a.Statement().Reset {
			event = "an account was reset"
		}
		p.note(event, a)
		return a.History(), nil
	}
	return nil
}

// cmdUpload takes another keyring from the session's user, and another key if one
// comes with it: by that the session stays proven.
func (p *part2) cmdUpload() error {
	if p.proven() == nil {
		return errNotUser
	}
	p.pending = func(b []byte) ([]byte, error) {
		form, err := cmtp.ParseUploadForm(b)
		if err != nil {
			return nil, err
		}
		if p.proven() == nil {
			return nil, errNotUser
		}
		a, err := p.cfg.Accounts.Upload(p.user.id, form)
		if err != nil {
			return nil, err
		}
		event := "sealed keys were replaced"
		if form.Statement != nil {
			event = "an account has another key"
		}
		p.note(event, a)
		p.user.key = a.Key
		return a.History(), nil
	}
	return nil
}

// errNoCopy and a wrong key are told apart: the owner has to know that there is none.
var errNoCopy = errors.New("there is no recovery copy of the account")

// cmdRecover gives the recovery copy to who holds its key.
func (p *part2) cmdRecover(c *cmtp.Command) ([]byte, error) {
	at, err := p.ownName(c.User(), c.Domain())
	if err != nil {
		return nil, err
	}
	if !p.cfg.AllowLogin(p.client.addr) {
		return nil, errRate
	}
	a, err := p.active(at)
	if err != nil {
		return nil, err
	}
	key, ok := a.RecoveryKey()
	if !ok {
		return nil, errNoCopy
	}
	proven := crypt.Proof{
		Role: crypt.RecoveryRole, Name: at, Server: at.Domain, Key: c.Key(), ServerKey: p.identity.key, Binding: p.binding,
	}
	if key != c.Key() || !proven.Verify(c.Signature()) {
		return nil, errWrongProof
	}
	p.note("a recovery copy was handed out", a)
	return a.Copy, nil
}

// note tells the operator what was done to an account.
func (p *part2) note(event string, a *account.Account) {
	p.cfg.Log.Info(event, "account", a.Address.String(), "keys", len(a.Statements), "conn", p.client.conn, "client", p.client.addr)
}
