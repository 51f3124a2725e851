package account

import (
	"fmt"
	"slices"

	"cmtpd/internal/cmtp"
	"cmtpd/internal/crypt"
	"cmtpd/internal/oprf"
	"cmtpd/internal/xzibit"
)

// Upload replaces an account's xzibit and recovery copy, and its key where the form has a
// new one (docs/protocol.md section 19.5), all of it or nothing. Its user must be proven.
// It wraps ErrUnknown when that account is not there any more, or disabled; ErrConflict
// when the form replaces another xzibit than the account has; ErrStatement, ErrProof,
// ErrXzibit, xzibit.ErrCopy or ErrHistoryFull for what is in the form.
func (s *Store) Upload(id ID, f *cmtp.UploadForm) (*Account, error) {
	s.write.Lock()
	defer s.write.Unlock()
	old, err := s.active(id)
	if err != nil {
		return nil, err
	}
	a, err := s.uploaded(old, f)
	if err != nil {
		return nil, fmt.Errorf("uploading for %s: %w", old.Address, err)
	}
	if err := s.put(a); err != nil {
		return nil, err
	}
	return a, nil
}

// uploaded returns what the form makes of an account.
func (s *Store) uploaded(old *Account, f *cmtp.UploadForm) (*Account, error) {
	if old.XzibitDigest() != f.Replaces {
		return nil, ErrConflict
	}
	if err := checkSealed(f.Xzibit, f.Copy); err != nil {
		return nil, err
	}
	if err := old.checkVersion(f.Xzibit); err != nil {
		return nil, err
	}
	changed := *old
	a := &changed
	if f.Statement != nil {
		var err error
		if a, err = s.rekeyed(old, f); err != nil {
			return nil, err
		}
	}
	a.Xzibit, a.Copy = kept(f.Xzibit), kept(f.Copy)
	return a, nil
}

// keptForResets is how many statements an account's user cannot use up: a thief of a
// device could otherwise rotate until the operator can give the owner no new key.
const keptForResets = 16

// rekeyed returns an account with the form's new key.
func (s *Store) rekeyed(old *Account, f *cmtp.UploadForm) (*Account, error) {
	if err := checkPossessed(f.Statement, old.Address, f.Possession); err != nil {
		return nil, err
	}
	if err := s.checkTime(f.Statement.NotBefore); err != nil {
		return nil, err
	}
	if f.Statement.Reset {
		return nil, fmt.Errorf("%w: only an invitation resets an account", ErrStatement)
	}
	if i := s.invitation(old.Address); i != nil && i.Reset && s.now().Before(i.Expires) {
		return nil, fmt.Errorf("%w: the account is about to be reset", ErrStatement)
	}
	if len(old.Statements) >= crypt.MaxKeyStatements-keptForResets {
		return nil, fmt.Errorf("%w: %d; the rest is for resets", ErrHistoryFull, len(old.Statements))
	}
	return old.withKey(Statement{KeyStatement: *f.Statement, Old: f.OldSignature})
}

// withKey returns a with one more key statement.
func (a *Account) withKey(next Statement) (*Account, error) {
	if len(a.Statements) >= crypt.MaxKeyStatements {
		return nil, fmt.Errorf("%w: %d; a new account of another name can go on", ErrHistoryFull, len(a.Statements))
	}
	if !next.follows(&a.Statements[len(a.Statements)-1]) {
		return nil, fmt.Errorf("%w: it does not follow from the account's newest, or the key before has not signed it", ErrStatement)
	}
	if slices.ContainsFunc(a.Statements, func(s Statement) bool { return s.Key == next.Key }) {
		return nil, fmt.Errorf("%w: the account has had this key before", ErrStatement)
	}
	changed := *a
	changed.Key, changed.Statements = next.Key, append(slices.Clip(a.Statements), next)
	return &changed, nil
}

// checkVersion refuses a xzibit that would be weaker than a's, or that nobody could
// open.
func (a *Account) checkVersion(sealed []byte) error {
	version, err := xzibit.Version(sealed)
	switch {
	case err != nil:
		return fmt.Errorf("%w: %w", ErrXzibit, err)
	case version < a.XzibitVersion():
		return fmt.Errorf("%w: version %d may not follow version %d", ErrXzibit, version, a.XzibitVersion())
	case version >= xzibit.Unlocked && a.seed == nil:
		return fmt.Errorf("%w: version %d needs an answer to UNLOCK", ErrXzibit, version)
	}
	return nil
}

// EnsureSeed gives an account what Evaluate needs, if it lacks it: its user wants to
// write a xzibit of version 3.
func (s *Store) EnsureSeed(id ID) (*Account, error) {
	s.write.Lock()
	defer s.write.Unlock()
	old, err := s.active(id)
	if err != nil || old.seed != nil {
		return old, err
	}
	a := *old
	if a.seed, err = newSeed(); err != nil {
		return nil, err
	}
	if err := s.put(&a); err != nil {
		return nil, err
	}
	return &a, nil
}

func newSeed() (func() []byte, error) {
	seed, err := oprf.NewSeed()
	return func() []byte { return seed[:] }, err
}
