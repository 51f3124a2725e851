package account

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"cmtpd/internal/address"
	"cmtpd/internal/crypt"
	"cmtpd/internal/oprf"
	"cmtpd/internal/xzibit"
)

// form is an account in JSON, in its file and on the control socket. Bytes are in
// base64. Files of before CMTP 1 have no statements, copy or seed.
type form struct {
	ID         ID              `json:"id"`
	Address    address.Address `json:"address"`
	Key        []byte          `json:"key"`
	Statements []statementForm `json:"statements"`
	Xzibit     []byte          `json:"xzibit"`
	Copy       []byte          `json:"copy,omitempty"`
	Seed       []byte          `json:"seed,omitempty"` // in the file alone
	Created    time.Time       `json:"created"`
	Disabled   bool            `json:"disabled,omitempty"`
}

type statementForm struct {
	Statement []byte `json:"statement"`     // docs/protocol.md section 17.2, without signatures
	Old       []byte `json:"old,omitempty"` // the signature by the key before, where there is one
}

// MarshalJSON returns the account as the control socket shows it: all but the seed. The
// rest is no secret from whoever may ask there; the xzibit is as strong as its password.
func (a *Account) MarshalJSON() ([]byte, error) { return json.Marshal(a.form()) }

// file returns the account as it stands in its file.
func (a *Account) file() ([]byte, error) {
	f := a.form()
	if a.seed != nil {
		f.Seed = a.seed()
	}
	return encodeFile(f)
}

func encodeFile(v any) ([]byte, error) {
	data, err := json.MarshalIndent(v, "", "  ")
	return append(data, '\n'), err
}

func (a *Account) form() form {
	statements := make([]statementForm, len(a.Statements))
	for i, s := range a.Statements {
		statements[i].Statement = s.Append(nil)
		if s.Old != (crypt.Signature{}) {
			statements[i].Old = s.Old[:]
		}
	}
	return form{ID: a.ID, Address: a.Address, Key: a.Key[:], Statements: statements, Xzibit: a.Xzibit, Copy: a.Copy,
		Created: a.Created, Disabled: a.Disabled}
}

// UnmarshalJSON reads what was written of an account and checks that it is one: a
// user with the Operator's ID would read the Operator's mail.
func (a *Account) UnmarshalJSON(data []byte) error {
	var f form
	if err := json.Unmarshal(data, &f); err != nil {
		return err
	}
	if err := checkID(f.ID); err != nil {
		return err
	}
	if f.Address.IsZero() {
		return errors.New("it names no address")
	}
	key, err := crypt.ParsePublicKey(f.Key)
	if err != nil {
		return err
	}
	if err := errors.Join(xzibit.Check(f.Xzibit), checkCopy(f.Copy)); err != nil {
		return err
	}
	read := Account{ID: f.ID, Address: f.Address, Key: key, Xzibit: f.Xzibit, Copy: f.Copy, Created: f.Created, Disabled: f.Disabled}
	if read.seed, err = parseSeed(f.Seed); err != nil {
		return err
	}
	if read.Statements, err = f.statements(key); err != nil {
		return err
	}
	*a = read
	return nil
}

func checkID(id ID) error {
	if id == (ID{}) || id == Operator || id == Outgoing {
		return fmt.Errorf("%v is nobody's account ID", id)
	}
	return nil
}

// statements returns the account's key statements, held to what a history has to be. An
// account of before CMTP 1 gets its first one from what it has: always the same, since
// clients remember it.
func (f *form) statements(key crypt.PublicKey) ([]Statement, error) {
	if len(f.Statements) == 0 {
		return []Statement{{KeyStatement: crypt.KeyStatement{Name: f.Address, Key: key, NotBefore: crypt.UnixTimeOf(f.Created)}}}, nil
	}
	if len(f.Statements) > crypt.MaxKeyStatements {
		return nil, fmt.Errorf("%w: %d statements", ErrHistoryFull, len(f.Statements))
	}
	all := make([]Statement, 0, len(f.Statements))
	for i, form := range f.Statements {
		s, err := form.parse()
		switch {
		case err != nil:
			return nil, fmt.Errorf("key statement %d: %w", i+1, err)
		case i == 0 && (s.Name != f.Address || !s.IsFirst() || s.Old != crypt.Signature{}):
			return nil, fmt.Errorf("%w: the first one is none of %s", ErrStatement, f.Address)
		case i > 0 && !s.follows(&all[i-1]):
			return nil, fmt.Errorf("%w: number %d does not follow from the one before", ErrStatement, i+1)
		}
		all = append(all, s)
	}
	if all[len(all)-1].Key != key {
		return nil, fmt.Errorf("%w: the last one is for another key", ErrStatement)
	}
	return all, nil
}

func (f *statementForm) parse() (s Statement, err error) {
	if s.KeyStatement, err = parseStatement(f.Statement); err != nil {
		return s, err
	}
	if len(f.Old) != 0 && len(f.Old) != crypt.SignatureSize {
		return s, fmt.Errorf("a signature of %d bytes", len(f.Old))
	}
	copy(s.Old[:], f.Old)
	return s, nil
}

// follows reports whether s may stand behind another statement.
func (s *Statement) follows(before *Statement) bool {
	signed := crypt.SignedKey{KeyStatement: s.KeyStatement, Old: s.Old}
	return signed.Succeeds(&before.KeyStatement)
}

// parseSeed returns a seed as accounts and invitations keep it: a copy, nil for none.
func parseSeed(b []byte) (func() []byte, error) {
	if len(b) == 0 {
		return nil, nil
	}
	if len(b) != oprf.SeedSize {
		return nil, fmt.Errorf("%w: %d bytes, want %d", oprf.ErrSeed, len(b), oprf.SeedSize)
	}
	seed := bytes.Clone(b)
	return func() []byte { return seed }, nil
}
