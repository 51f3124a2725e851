// Package account keeps the local users: who they are, the key that the world
// seals to, and the xzibit from which they recover it.
//
// It guarantees that a change is on disk before it is reported done, that one
// address is one account, that a key is only taken with proof that its secret
// half is held and a xzibit only in a form that a reader can bound, and that
// what it signs for outsiders it signs once. An account's file is named after
// its random ID, so a user's name never reaches the file system.
package account

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"cmtpd/internal/address"
	"cmtpd/internal/crypt"
	"cmtpd/internal/xzibit"
)

// Errors of the store, each for the person who asked for the change.
var (
	ErrExists   = errors.New("the account exists already")
	ErrUnknown  = errors.New("there is no such account")
	ErrProof    = errors.New("the proof that the secret key is held is wrong")
	ErrXzibit   = errors.New("the xzibit is not in a form that this server stores")
	ErrForeign  = errors.New("the domain is not one of this server's")
	ErrReserved = errors.New("the name is reserved")
	// ErrFailed: a change failed half way, so that only the next Open can tell
	// whether it is there. Until then nothing else is changed.
	ErrFailed = errors.New("an earlier change to the accounts failed; what is on disk shows when the server has started again")
)

// An ID names an account for good: it is drawn at random when the account is
// made and never used again, so a later user of the same name inherits nothing.
type ID [16]byte

// Operator is whose mailbox takes mail for the server itself. NewID never draws it.
var Operator = ID{15: 1}

// NewID draws an ID.
func NewID() (id ID) {
	rand.Read(id[:])
	return id
}

// String returns the ID in hex.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// MarshalText returns the ID in hex.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText parses what String returns.
func (id *ID) UnmarshalText(b []byte) error {
	var parsed ID
	if len(b) == 2*len(id) { // hex.Decode trusts that there is room
		if _, err := hex.Decode(parsed[:], b); err == nil {
			*id = parsed
			return nil
		}
	}
	return fmt.Errorf("account ID %q is not %d hex digits", b, 2*len(id))
}

// An Account is one local user. It is never changed after it was made; the
// store replaces it.
type Account struct {
	ID       ID
	Address  address.Address
	Key      crypt.PublicKey
	Xzibit   []byte
	Created  time.Time
	Disabled bool // answers and receives nothing; nothing of it is lost

	keySig    func() crypt.Signature
	xzibitSig func() crypt.Signature
}

// form is an account in JSON, in its file and on the control socket.
type form struct {
	ID       ID              `json:"id"`
	Address  address.Address `json:"address"`
	Key      []byte          `json:"key"`
	Xzibit   []byte          `json:"xzibit"`
	Created  time.Time       `json:"created"`
	Disabled bool            `json:"disabled,omitempty"`
}

// MarshalJSON returns the account as it stands in its file. None of it is secret
// from the server; the xzibit is as strong as its password.
func (a *Account) MarshalJSON() ([]byte, error) {
	return json.Marshal(form{a.ID, a.Address, a.Key[:], a.Xzibit, a.Created, a.Disabled})
}

// UnmarshalJSON reads what MarshalJSON wrote and checks that it is an account: a
// user with the Operator's ID would read the Operator's mail.
func (a *Account) UnmarshalJSON(data []byte) error {
	var f form
	if err := json.Unmarshal(data, &f); err != nil {
		return err
	}
	if f.ID == (ID{}) || f.ID == Operator {
		return fmt.Errorf("%v is nobody's account ID", f.ID)
	}
	if f.Address.IsZero() {
		return errors.New("it names no address")
	}
	key, err := crypt.ParsePublicKey(f.Key)
	if err != nil {
		return err
	}
	if err := xzibit.Check(f.Xzibit); err != nil {
		return err
	}
	*a = Account{ID: f.ID, Address: f.Address, Key: key, Xzibit: f.Xzibit, Created: f.Created, Disabled: f.Disabled}
	return nil
}

// sign prepares the signatures of what the account publishes. They are made at
// first use: a server with many users starts at once, and a key that is asked
// for a thousand times a second is signed once.
func (a *Account) sign(signer *crypt.PrivateKey) *Account {
	a.keySig = sync.OnceValue(func() crypt.Signature { return signer.Sign(a.Key[:]) })
	a.xzibitSig = sync.OnceValue(func() crypt.Signature { return signer.Sign(a.Xzibit) })
	return a
}

// KeySignature returns the server's signature of the key's bytes.
func (a *Account) KeySignature() crypt.Signature { return a.keySig() }

// XzibitSignature returns the server's signature of the xzibit's bytes.
func (a *Account) XzibitSignature() crypt.Signature { return a.xzibitSig() }

// A Registration asks for an account: made where the secret key is, handed to
// the server without it.
type Registration struct {
	Address address.Address `json:"address"`
	Key     []byte          `json:"key"`
	Xzibit  []byte          `json:"xzibit"`
	Proof   []byte          `json:"proof"`
}

const proofLabel = "CMTP-1 registration\x00"

// proofText is what a registration's proof signs: the label, the account and
// the domain, each NUL-terminated, the key.
func proofText(a address.Address, key crypt.PublicKey) []byte {
	return append([]byte(proofLabel+a.Account.String()+"\x00"+a.Domain.String()+"\x00"), key[:]...)
}

// NewRegistration makes the registration of addr for the key pair whose secret
// half is key.
func NewRegistration(addr address.Address, key *crypt.PrivateKey, sealed []byte) Registration {
	pub := key.Public()
	proof := key.Sign(proofText(addr, pub))
	return Registration{Address: addr, Key: pub[:], Xzibit: sealed, Proof: proof[:]}
}

// check returns the registration's key when all of it can be stood for.
func (r *Registration) check() (crypt.PublicKey, error) {
	key, err := crypt.ParsePublicKey(r.Key)
	if err != nil {
		return key, fmt.Errorf("registering %s: %w", r.Address, err)
	}
	var sig crypt.Signature
	if len(r.Proof) != len(sig) || !crypt.Verify(key, proofText(r.Address, key), crypt.Signature(r.Proof)) {
		return key, fmt.Errorf("registering %s: %w", r.Address, ErrProof)
	}
	if err := xzibit.Check(r.Xzibit); err != nil {
		return key, fmt.Errorf("registering %s: %w: %w", r.Address, ErrXzibit, err)
	}
	return key, nil
}
