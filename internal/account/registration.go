package account

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"cmtpd/internal/address"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/crypt"
	"cmtpd/internal/xzibit"
)

// maxDistance is how far the time of a new statement may be from the server's, in seconds
// (docs/protocol.md section 21).
const maxDistance = 3600

// A Registration asks for an account, or for another xzibit of one: made where the
// secret key is, handed to the server without it.
type Registration struct {
	Address    address.Address `json:"address"`
	Statement  []byte          `json:"statement"`  // docs/protocol.md section 17.2, without signatures
	Possession []byte          `json:"possession"` // by the statement's key; section 19.4
	Xzibit     []byte          `json:"xzibit"`
	Copy       []byte          `json:"copy,omitempty"`     // the recovery copy; of Add alone
	Seed       Seed            `json:"seed,omitempty"`     // what the xzibit was sealed with; of Add alone
	Replaces   []byte          `json:"replaces,omitempty"` // SHA-256 of the xzibit that is replaced; of SetXzibit alone
}

// A Seed is what the server's part in opening a xzibit of version 3 grows from, 32
// bytes, or none. It is a secret of the server's: only the word redacted is printed.
type Seed []byte

const redacted = "[redacted seed]"

// Format hides the seed from every verb of package fmt.
func (Seed) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// LogValue hides the seed from package log/slog.
func (Seed) LogValue() slog.Value { return slog.StringValue(redacted) }

// NewRegistration makes the registration of addr for the key pair whose secret half
// is key, from a time on, with what the key was sealed into. Seed and Copy are for the caller
// to add.
func NewRegistration(addr address.Address, key *crypt.PrivateKey, from time.Time, sealed []byte) Registration {
	first := crypt.KeyStatement{Name: addr, Key: key.Public(), NotBefore: crypt.UnixTimeOf(from)}
	proof := first.Possess(key)
	return Registration{Address: addr, Statement: first.Append(nil), Possession: proof[:], Xzibit: sealed}
}

// NewXzibit asks for another xzibit of a, whose key is in it too. That key signs the
// account's newest statement anew, which proves that it is held.
func NewXzibit(a *Account, key *crypt.PrivateKey, sealed []byte) Registration {
	proof, digest := a.Statement().Possess(key), a.XzibitDigest()
	return Registration{Address: a.Address, Statement: a.Statement().Append(nil), Possession: proof[:], Xzibit: sealed, Replaces: digest[:]}
}

// check returns the registration's statement when who asks holds its key, and what
// comes with it can be stood for.
func (r *Registration) check() (s crypt.KeyStatement, err error) {
	if len(r.Possession) != crypt.SignatureSize {
		return s, ErrProof
	}
	if s, err = parseStatement(r.Statement); err != nil {
		return s, err
	}
	if err := checkPossessed(&s, r.Address, crypt.Signature(r.Possession)); err != nil {
		return s, err
	}
	return s, checkSealed(r.Xzibit, r.Copy)
}

// parseStatement returns the statement in b, which has nothing else.
func parseStatement(b []byte) (crypt.KeyStatement, error) {
	s, n, err := crypt.ParseKeyStatement(b)
	switch {
	case err != nil:
		return s, fmt.Errorf("%w: %w", ErrStatement, err)
	case n != len(b):
		return s, fmt.Errorf("%w: %d bytes stand behind its end", ErrStatement, len(b)-n)
	}
	return s, nil
}

// checkPossessed refuses a statement of another name than addr, and one whose key who asks
// does not hold.
func checkPossessed(s *crypt.KeyStatement, addr address.Address, proof crypt.Signature) error {
	if s.Name != addr {
		return fmt.Errorf("%w: it names %s, not %s", ErrStatement, s.Name, addr)
	}
	if !s.IsPossessed(proof) {
		return ErrProof
	}
	return nil
}

// checkTime refuses a new statement for a time that is not the server's (docs/protocol.md
// section 19.4).
func (s *Store) checkTime(t crypt.UnixTime) error {
	now := s.now()
	if distance := now.Unix() - int64(t); distance < -maxDistance || distance > maxDistance {
		return fmt.Errorf("%w: its time is more than an hour from the server's, %s; set the clock", ErrStatement, now.UTC().Format(time.RFC3339))
	}
	return nil
}

// checkSealed refuses what this server would not store of a xzibit and a recovery copy.
func checkSealed(x, recovery []byte) error {
	if err := xzibit.Check(x); err != nil {
		return fmt.Errorf("%w: %w", ErrXzibit, err)
	}
	return checkCopy(recovery)
}

// checkCopy accepts a recovery copy, and none.
func checkCopy(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	_, err := xzibit.CheckCopy(b)
	return err
}

// checkName refuses what no account may be called.
func checkName(addr address.Address) error {
	if base := addr.Account.Base(); base != addr.Account || strings.HasPrefix(base.String(), "+") {
		return fmt.Errorf("%w: what follows a + is a subaddress of %s", ErrReserved, base)
	}
	if n := len(addr.String()); n > cmtp.MaxString { // LOGIN names it in one string
		return fmt.Errorf("%w: an address of %d bytes, where %d fit into a LOGIN", ErrReserved, n, cmtp.MaxString)
	}
	return nil
}

// kept returns a copy of what came in with other bytes, for an account to keep: nil for
// nothing.
func kept(b []byte) []byte {
	if len(b) == 0 {
		return nil
	}
	return bytes.Clone(b)
}
