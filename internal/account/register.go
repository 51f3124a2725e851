package account

import (
	"fmt"

	"cmtpd/internal/address"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/crypt"
	"cmtpd/internal/xzibit"
)

// Register makes the account that an invitation is for, or resets it, and uses the
// invitation up (docs/protocol.md section 19.4). Secret is that of the invitation's code.
// It wraps ErrInvitation; ErrStatement, ErrProof, ErrXzibit, xzibit.ErrCopy or ErrHistoryFull
// for what is in the form.
//
// The account is on disk before the invitation is removed: a crash in between leaves both,
// and Open knows by the account that the invitation was used.
func (s *Store) Register(addr address.Address, secret string, f *cmtp.RegisterForm) (*Account, error) {
	// Before the signatures, which cost more than whoever has no code may spend.
	if _, err := s.opened(addr, secret); err != nil {
		return nil, err
	}
	if err := s.checkForm(addr, f); err != nil {
		return nil, fmt.Errorf("registering %s: %w", addr, err)
	}
	s.write.Lock()
	defer s.write.Unlock()
	i, err := s.opened(addr, secret) // again: of two who come at once one gets it
	if err != nil {
		return nil, err
	}
	a, err := s.invitee(i, &f.Statement)
	if err != nil {
		return nil, fmt.Errorf("registering %s: %w", addr, err)
	}
	a.Xzibit, a.Copy, a.seed = kept(f.Xzibit), kept(f.Copy), i.seed
	if err := s.put(a); err != nil {
		return nil, err
	}
	s.used(addr, a.ID)
	return a, nil
}

// checkForm refuses what cannot be stood for whatever the account is.
func (s *Store) checkForm(addr address.Address, f *cmtp.RegisterForm) error {
	if err := checkPossessed(&f.Statement, addr, f.Possession); err != nil {
		return err
	}
	if err := s.checkTime(f.Statement.NotBefore); err != nil {
		return err
	}
	if err := checkSealed(f.Xzibit, f.Copy); err != nil {
		return err
	}
	if version, err := xzibit.Version(f.Xzibit); err != nil || version != xzibit.Unlocked {
		return fmt.Errorf("%w: version %d, where 3 is asked for", ErrXzibit, version)
	}
	return nil
}

// invitee returns the account that the statement makes of an invitation, still without its
// secrets. The caller holds write.
func (s *Store) invitee(i *Invitation, statement *crypt.KeyStatement) (*Account, error) {
	old, err := s.Get(i.Address)
	switch {
	case i.Reset != (err == nil):
		return nil, ErrInvitation
	case !i.Reset:
		return s.newAccount(i.ID, statement, nil, nil), s.checkFirst(statement)
	}
	return old.withKey(Statement{KeyStatement: *statement}) // without a signature: a reset
}
