package client

import (
	"errors"
	"fmt"
	"io"

	"cmtpd/internal/address"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/crypt"
	"cmtpd/internal/invite"
	"cmtpd/internal/oprf"
	"cmtpd/internal/xzibit"
)

// ErrReceipt: the server's receipt is not for the message that was sent. What became of
// the message is not known.
var ErrReceipt = errors.New("the receipt is not for this message: it may be replayed")

// whole refuses a name that is not that of one account.
func whole(name address.Address) error {
	if name.Account.IsZero() || name.Domain.IsZero() {
		return fmt.Errorf("%w: %q is no account", ErrParameter, name.String())
	}
	return nil
}

// Login asks for the xzibit of an account, of any version. Its outer layout and what
// it would cost to open have been checked.
func (c *Channel) Login(name address.Address) ([]byte, error) {
	x, err := c.login(name)
	if err != nil {
		return nil, fmt.Errorf("asking for the sealed keys of %s: %w", name, err)
	}
	return x, nil
}

func (c *Channel) login(name address.Address) ([]byte, error) {
	if err := whole(name); err != nil {
		return nil, err
	}
	user := name.String()
	if len(user) > cmtp.MaxString { // two strings that are short enough may make one that is not
		return nil, fmt.Errorf("%w: the address has more than the %d bytes that LOGIN can carry", ErrParameter, cmtp.MaxString)
	}
	cmd := &cmtp.Command{Verb: cmtp.Login, Params: [3][]byte{[]byte(user)}}
	x, err := c.do(cmtp.Login, cmd.Append(nil), xzibit.MaxSize)
	if err != nil {
		return nil, err
	}
	if err := xzibit.Check(x); err != nil {
		return nil, c.lied(err)
	}
	return x, nil
}

// Auth proves that this channel's client is the user who holds key, which must be the
// newest of the account. It returns SHA-256 of the account's xzibit, by which a copy is
// known to be up to date.
func (c *Channel) Auth(name address.Address, key *crypt.PrivateKey) (digest [32]byte, err error) {
	p := crypt.Proof{Role: crypt.UserRole, Name: name, Server: name.Domain}
	err = whole(name)
	var payload []byte
	if err == nil {
		payload, err = c.prove(p, key, len(digest))
	}
	if err != nil {
		return digest, fmt.Errorf("proving to be %s: %w", name, err)
	}
	c.user, c.userKey = name, key.Public()
	return [32]byte(payload), nil
}

// AuthServer proves to the server of peer that this channel's client is the server of
// the domain own.
func (c *Channel) AuthServer(own, peer address.Domain, key *crypt.PrivateKey) error {
	p := crypt.Proof{Role: crypt.ServerRole, Name: address.Address{Domain: own}, Server: peer}
	if _, err := c.prove(p, key, 0); err != nil {
		return fmt.Errorf("proving to be the server of %s: %w", own, err)
	}
	return nil
}

// prove gives AUTH with a proof that is bound to this channel (docs/protocol.md
// section 18).
func (c *Channel) prove(p crypt.Proof, key *crypt.PrivateKey, n int) ([]byte, error) {
	cmd := named(cmtp.Auth, p.Name)
	cmd.Params[2] = []byte(p.Server.String())
	cmd.Fixed = c.proof(p, key)
	return c.exactly(cmtp.Auth, cmd.Append(nil), n)
}

// proof returns key and signature, as they stand in a command.
func (c *Channel) proof(p crypt.Proof, key *crypt.PrivateKey) []byte {
	p.Key, p.ServerKey, p.Binding = key.Public(), c.key, c.binding
	sig := p.Sign(key)
	return append(p.Key[:], sig[:]...)
}

// Unlock asks the server to evaluate a blinded password under the account's key for it.
// Unless Auth has proven the user, that is a guess, of which the server allows few.
func (c *Channel) Unlock(name address.Address, blinded oprf.Element) (oprf.Element, error) {
	e, err := c.evaluate(named(cmtp.Unlock, name), name, blinded)
	if err != nil {
		return e, fmt.Errorf("asking for help with the sealed keys of %s: %w", name, err)
	}
	return e, nil
}

// Enroll is Unlock for an account that is to be made or reset, whose invitation has
// this secret. That the invitation's code is for this server is for the caller to check.
func (c *Channel) Enroll(name address.Address, secret invite.Secret, blinded oprf.Element) (oprf.Element, error) {
	cmd, err := invited(cmtp.Enroll, name, secret)
	var e oprf.Element
	if err == nil {
		e, err = c.evaluate(cmd, name, blinded)
	}
	if err != nil {
		return e, fmt.Errorf("showing the invitation of %s: %w", name, err)
	}
	return e, nil
}

func (c *Channel) evaluate(cmd *cmtp.Command, name address.Address, blinded oprf.Element) (e oprf.Element, err error) {
	if err := whole(name); err != nil {
		return e, err
	}
	cmd.Fixed = blinded[:]
	payload, err := c.exactly(cmd.Verb, cmd.Append(nil), len(e))
	if err != nil {
		return e, err
	}
	return oprf.Element(payload), nil
}

// invited returns a command with an invitation's secret.
func invited(verb cmtp.Verb, name address.Address, secret invite.Secret) (*cmtp.Command, error) {
	if secret.IsZero() {
		return nil, fmt.Errorf("%w: there is no invitation's code", ErrParameter)
	}
	cmd := named(verb, name)
	cmd.Params[2] = []byte(secret.Reveal())
	return cmd, nil
}

// Register makes or resets an account, behind an Enroll with the same name and secret.
// The history that it returns is verified, and ends in the form's statement.
func (c *Channel) Register(name address.Address, secret invite.Secret, form *cmtp.RegisterForm) (*crypt.History, error) {
	h, err := c.register(name, secret, form)
	if err != nil {
		return nil, fmt.Errorf("registering %s: %w", name, err)
	}
	return h, nil
}

func (c *Channel) register(name address.Address, secret invite.Secret, form *cmtp.RegisterForm) (*crypt.History, error) {
	if err := whole(name); err != nil {
		return nil, err
	}
	cmd, err := invited(cmtp.Register, name, secret)
	if err != nil {
		return nil, err
	}
	h, err := c.submit(cmd, form.Append(nil), name)
	if err != nil {
		return nil, err
	}
	return h, c.endsIn(h, &form.Statement)
}

// Upload replaces the xzibit of the user that Auth has proven, and with a Statement
// the key, by which the user stays proven. The history that it returns is verified, and
// ends in the form's statement, or else in the key that the user has proven.
func (c *Channel) Upload(form *cmtp.UploadForm) (*crypt.History, error) {
	h, err := c.upload(form)
	if err != nil {
		return nil, fmt.Errorf("uploading the keys of %s: %w", c.user, err)
	}
	return h, nil
}

func (c *Channel) upload(form *cmtp.UploadForm) (*crypt.History, error) {
	if !c.accepted {
		return nil, ErrNotAccepted
	}
	if c.user.IsZero() {
		return nil, ErrNotProven
	}
	h, err := c.submit(&cmtp.Command{Verb: cmtp.Upload}, form.Append(nil), c.user)
	if err != nil {
		return nil, err
	}
	if form.Statement == nil {
		if h.Current().Key != c.userKey {
			return nil, c.lied(fmt.Errorf("%w: it ends in another key than the one that was proven", crypt.ErrHistory))
		}
		return h, nil
	}
	if err := c.endsIn(h, form.Statement); err != nil {
		return nil, err
	}
	c.userKey = h.Current().Key
	return h, nil
}

// submit gives a command with a form, and returns the history that answers it.
func (c *Channel) submit(cmd *cmtp.Command, form []byte, name address.Address) (*crypt.History, error) {
	if len(form) > cmtp.MaxForm {
		return nil, fmt.Errorf("%w: a form of %d bytes, at most %d are allowed", ErrParameter, len(form), cmtp.MaxForm)
	}
	payload, err := c.do(cmd.Verb, cmtp.AppendForm(cmd.Append(nil), form), crypt.MaxHistory)
	if err != nil {
		return nil, err
	}
	return c.history(payload, name)
}

// endsIn holds a history to the statement that was sent.
func (c *Channel) endsIn(h *crypt.History, statement *crypt.KeyStatement) error {
	if *h.Current() != *statement {
		return c.lied(fmt.Errorf("%w: it does not end in the statement that was sent", crypt.ErrHistory))
	}
	return nil
}

// Recover asks for the recovery copy of an account, which only who holds the recovery
// key is given. The copy is one for that key; only opening it shows whose keys are in it.
func (c *Channel) Recover(name address.Address, key *crypt.PrivateKey) ([]byte, error) {
	b, err := c.recover(name, key)
	if err != nil {
		return nil, fmt.Errorf("asking for the recovery copy of %s: %w", name, err)
	}
	return b, nil
}

func (c *Channel) recover(name address.Address, key *crypt.PrivateKey) ([]byte, error) {
	if err := whole(name); err != nil {
		return nil, err
	}
	cmd := named(cmtp.Recover, name)
	cmd.Fixed = c.proof(crypt.Proof{Role: crypt.RecoveryRole, Name: name, Server: name.Domain}, key)
	b, err := c.do(cmtp.Recover, cmd.Append(nil), xzibit.MaxSize)
	if err != nil {
		return nil, err
	}
	switch sealed, err := xzibit.CheckCopy(b); {
	case err != nil:
		return nil, c.lied(err)
	case sealed != key.Public():
		return nil, c.lied(xzibit.ErrRecoveryKey)
	}
	return b, nil
}

// A Sent is what the server says of a message that it has for good.
type Sent struct {
	Receipt crypt.Receipt
	Queued  bool // it waits to be delivered to another server
}

// Send sends one message and returns when the server has it for good, with its
// receipt, which was checked and wraps ErrReceipt where it is for anything else. A
// server that refuses a message while it is still being sent is heard at once. Unless
// the whole message was written the Channel is closed.
func (c *Channel) Send(h cmtp.Header, log []byte, body cmtp.Part, attachments []cmtp.Part) (Sent, error) {
	if err := c.ready(cmtp.Mail); err != nil {
		return Sent{}, fmt.Errorf("sending the message: %w", err)
	}
	to, err := destination(&h)
	if err != nil {
		return Sent{}, fmt.Errorf("sending the message: %w", err)
	}
	var digest [32]byte
	var status cmtp.Status
	var payload []byte
	err = c.mail(func(w io.Writer) (err error) {
		digest, err = cmtp.WriteDigested(w, h, log, body, attachments)
		return err
	}, func() (err error) {
		status, payload, err = c.reply(uint64(crypt.MaxReceipt))
		return err
	})
	if err != nil {
		return Sent{}, err
	}
	r, err := c.receipt(payload, digest, to)
	if err != nil {
		return Sent{}, fmt.Errorf("sending the message: %w", c.lied(err))
	}
	return Sent{r, status == cmtp.StatusQueued}, nil
}

// destination returns the envelope's in the normal form of a receipt.
func destination(h *cmtp.Header) (to address.Address, err error) {
	if h.DestinationAccount != "" {
		if to.Account, err = address.ParseAccount(h.DestinationAccount); err != nil {
			return to, err
		}
	}
	to.Domain, err = address.ParseDomain(h.DestinationDomain)
	return to, err
}

// receipt returns the receipt in a payload, once it is one for the message with this
// digest and destination.
func (c *Channel) receipt(payload []byte, digest [32]byte, to address.Address) (crypt.Receipt, error) {
	r, err := crypt.OpenReceipt(payload, c.key)
	switch {
	case err != nil:
		return r, fmt.Errorf("%w: %w", ErrReceipt, err)
	case r.Digest != digest:
		return r, fmt.Errorf("%w: its digest is that of another message", ErrReceipt)
	case r.Destination != to:
		return r, fmt.Errorf("%w: it is for mail to %s", ErrReceipt, r.Destination)
	}
	return r, nil
}
