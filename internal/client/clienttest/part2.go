package clienttest

import (
	"bufio"
	"context"
	"crypto/sha256"
	"testing"
	"time"

	"cmtpd/internal/address"
	"cmtpd/internal/channel"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/crypt"
	"cmtpd/internal/oprf"
	"cmtpd/internal/xzibit"
)

func (s *Server) version() string {
	if s.Private {
		return "CMTP/0.01 CMTP/1 clienttest/1"
	}
	return "CMTP/0.01 clienttest/1"
}

// prepare makes what CMTP 1 needs.
func (s *Server) prepare(t testing.TB) {
	t.Helper()
	key := s.Certificate
	if key == nil {
		key = s.Key
	}
	var err error
	if s.channel, err = channel.NewServer(channel.Config{Key: key}); err != nil {
		t.Fatal(err)
	}
}

// secure takes STARTTLS.
func (s *Server) secure(c *Conn) error {
	if err := c.Word(cmtp.Success); err != nil {
		return err
	}
	return c.Handshake()
}

// Handshake starts TLS, as after a SUCCESS.
func (c *Conn) Handshake() error {
	inside, err := c.Server.channel.Handshake(context.Background(), c.below, c.In.Buffered())
	if err != nil {
		return err
	}
	c.Conn, c.Channel, c.In = inside, inside, bufio.NewReader(inside)
	return nil
}

// Cut ends the connection without the word by which TLS would announce it.
func (c *Conn) Cut() error { return c.below.Close() }

// Done sends the reply of a command that was done.
func (c *Conn) Done(payload []byte) error {
	return c.Reply(cmtp.AppendReply(nil, cmtp.StatusDone, payload))
}

// Fail sends the reply of a command that was not done.
func (c *Conn) Fail(status cmtp.Status, reason string) error {
	return c.Reply(cmtp.AppendFailure(nil, status, reason))
}

// answer1 answers inside the channel.
func (s *Server) answer1(c *Conn, cmd cmtp.Command) error {
	name := string(cmd.User()) + "@" + string(cmd.Domain())
	switch cmd.Verb {
	case cmtp.Ohai, cmtp.Noop:
		return c.Done([]byte(s.version()))
	case cmtp.KeyRequest:
		return s.keyRequest(c, name)
	case cmtp.Auth:
		return s.auth(c, cmd, name)
	case cmtp.Enroll:
		return s.enroll(c, cmd, name)
	case cmtp.Register, cmtp.Upload:
		form, err := cmtp.ReadForm(c.In)
		if err != nil {
			return err
		}
		if cmd.Verb == cmtp.Upload {
			return s.upload(c, form)
		}
		return s.register(c, form, name)
	case cmtp.Mail:
		return s.mail1(c)
	case cmtp.Login:
		name = string(cmd.User())
	}
	u, ok := s.user(name)
	if !ok {
		return c.Fail(cmtp.StatusNoAccount, "no such account")
	}
	switch cmd.Verb {
	case cmtp.Login:
		return c.Done(u.Xzibit)
	case cmtp.Unlock:
		return c.evaluate(u.Seed, cmd)
	case cmtp.Recover:
		return s.recover(c, cmd, &u)
	}
	return c.Fail(cmtp.StatusUnknownCommand, "no such command")
}

// History returns what the server says of a name, without an alias.
func (s *Server) History(name address.Address, keys []crypt.SignedKey) *crypt.History {
	h := &crypt.History{}
	for _, k := range keys {
		k.Server = s.Key.Sign(k.KeyStatement.Append(nil))
		h.Keys = append(h.Keys, k)
	}
	return h
}

func (s *Server) keyRequest(c *Conn, user string) error {
	name, err := address.Parse(user)
	if user[0] == '@' {
		name.Domain, err = address.ParseDomain(user[1:])
		self := crypt.KeyStatement{Name: name, Key: s.Key.Public()}
		if err == nil {
			return c.Done(s.History(name, []crypt.SignedKey{{KeyStatement: self}}).Append(nil))
		}
	}
	if err != nil {
		return c.Fail(cmtp.StatusBadParameter, "no address")
	}
	u, ok := s.user(user)
	if !ok {
		return c.Fail(cmtp.StatusNoAccount, "no such account")
	}
	return c.Done(s.History(name, u.keys(name)).Append(nil))
}

func (u *User) keys(name address.Address) []crypt.SignedKey {
	if u.History != nil {
		return u.History
	}
	return []crypt.SignedKey{{KeyStatement: crypt.KeyStatement{Name: name, Key: u.Key}}}
}

// proof returns what the parameters of AUTH and RECOVER have to prove.
func (s *Server) proof(c *Conn, cmd cmtp.Command, role crypt.Role) (crypt.Proof, error) {
	p := crypt.Proof{Role: role, Key: cmd.Key(), ServerKey: s.Key.Public(), Binding: c.Channel.Binding()}
	var err error
	if len(cmd.User()) > 0 {
		p.Name.Account, err = address.ParseAccount(string(cmd.User()))
	}
	if err == nil {
		p.Name.Domain, err = address.ParseDomain(string(cmd.Domain()))
	}
	p.Server = p.Name.Domain
	if err == nil && role == crypt.ServerRole {
		p.Server, err = address.ParseDomain(string(cmd.ServerDomain()))
	}
	return p, err
}

func (s *Server) auth(c *Conn, cmd cmtp.Command, name string) error {
	role := crypt.UserRole
	if len(cmd.User()) == 0 {
		role = crypt.ServerRole
	}
	u, ok := s.user(name)
	p, err := s.proof(c, cmd, role)
	if err != nil || !p.Verify(cmd.Signature()) || role == crypt.UserRole && (!ok || u.Key != p.Key) {
		return c.Fail(cmtp.StatusWrongProof, "the proof is wrong")
	}
	if role == crypt.ServerRole {
		return c.Done(nil)
	}
	c.user = name
	digest := sha256.Sum256(u.Xzibit)
	return c.Done(digest[:])
}

func (c *Conn) evaluate(seed [oprf.SeedSize]byte, cmd cmtp.Command) error {
	key, err := oprf.KeyFromSeed(seed[:])
	if err != nil {
		return err
	}
	e, err := key.Evaluate(cmd.Element())
	if err != nil {
		return c.Fail(cmtp.StatusBadParameter, "no element")
	}
	return c.Done(e[:])
}

func (s *Server) enroll(c *Conn, cmd cmtp.Command, name string) error {
	s.mu.Lock()
	secret, ok := s.Invitations[name]
	if ok && secret == string(cmd.Code()) {
		c.enrolled = name
	}
	u := s.Users[name]
	s.mu.Unlock()
	if c.enrolled != name {
		return c.Fail(cmtp.StatusBadInvitation, "no such invitation")
	}
	return c.evaluate(u.Seed, cmd)
}

func (s *Server) register(c *Conn, b []byte, name string) error {
	form, err := cmtp.ParseRegisterForm(b)
	if err != nil || c.enrolled != name {
		return c.Fail(cmtp.StatusBadStatement, "no registration")
	}
	return s.replace(c, name, crypt.Signature{}, form.Possession, &form.Statement, form.Xzibit, form.Copy)
}

func (s *Server) upload(c *Conn, b []byte) error {
	form, err := cmtp.ParseUploadForm(b)
	u, ok := s.user(c.user)
	switch {
	case err != nil:
		return c.Fail(cmtp.StatusBadParameter, "no form")
	case !ok:
		return c.Fail(cmtp.StatusNotProven, "nobody is proven")
	case form.Replaces != sha256.Sum256(u.Xzibit):
		return c.Fail(cmtp.StatusStale, "another device was faster")
	}
	return s.replace(c, c.user, form.OldSignature, form.Possession, form.Statement, form.Xzibit, form.Copy)
}

// replace takes new keys for an account, and answers with its history.
func (s *Server) replace(c *Conn, user string, old, possession crypt.Signature, k *crypt.KeyStatement, sealed, backup []byte) error {
	name, err := address.Parse(user)
	if err != nil {
		return err
	}
	s.mu.Lock()
	u, exists := s.Users[user]
	u.Xzibit, u.Copy, u.Recovery = sealed, backup, crypt.PublicKey{}
	if len(backup) > 0 {
		if u.Recovery, err = xzibit.CheckCopy(backup); err != nil {
			s.mu.Unlock()
			return c.Fail(cmtp.StatusBadStatement, "no recovery copy")
		}
	}
	if k != nil {
		if !k.IsPossessed(possession) {
			s.mu.Unlock()
			return c.Fail(cmtp.StatusBadStatement, "no such statement")
		}
		if exists {
			u.History = u.keys(name)
		}
		u.History, u.Key = append(u.History, crypt.SignedKey{KeyStatement: *k, Old: old}), k.Key
	}
	s.Users[user] = u
	s.mu.Unlock()
	return c.Done(s.History(name, u.keys(name)).Append(nil))
}

func (s *Server) recover(c *Conn, cmd cmtp.Command, u *User) error {
	p, err := s.proof(c, cmd, crypt.RecoveryRole)
	if err != nil || p.Key != u.Recovery || !p.Verify(cmd.Signature()) {
		return c.Fail(cmtp.StatusWrongProof, "the proof is wrong")
	}
	return c.Done(u.Copy)
}

func (s *Server) mail1(c *Conn) error {
	m, err := s.receive(c)
	if err != nil {
		return err
	}
	r, err := Receipt(m)
	if err != nil {
		return err
	}
	return c.Done(r.AppendSigned(nil, s.Key))
}

// Receipt returns what is to be said of a message that was read to its end.
func Receipt(m *cmtp.MessageReader) (*crypt.Receipt, error) {
	digest, err := m.Digest()
	if err != nil {
		return nil, err
	}
	r := &crypt.Receipt{Digest: digest, When: crypt.UnixTimeOf(time.Now()), Commit: 1}
	h := m.Header()
	if h.DestinationAccount != "" {
		if r.Destination.Account, err = address.ParseAccount(h.DestinationAccount); err != nil {
			return nil, err
		}
	}
	r.Destination.Domain, err = address.ParseDomain(h.DestinationDomain)
	return r, err
}
