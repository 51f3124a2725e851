// Package account keeps the local users: who they are, the keys that the world
// seals to, and the xzibit from which they recover them. It also keeps the
// invitations of those who are not users yet.
//
// It guarantees that a change is on disk before it is reported done, and whole or
// not there at all, that one address is one account, that a key is only taken with
// proof that its secret half is held, and after the first one only with what a
// history demands (docs/protocol.md section 17.2), that an invitation is used once,
// and that a xzibit is only taken in a form that a reader can bound. What it signs for
// outsiders it signs once. An account's file is named after its random ID, so a
// user's name never reaches the file system.
package account

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"time"

	"cmtpd/internal/address"
	"cmtpd/internal/crypt"
	"cmtpd/internal/oprf"
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
	// ErrStatement: a key statement is not one that may stand where it should.
	ErrStatement = errors.New("the key statement is refused")
	// ErrHistoryFull: an account has as many key statements as it may have.
	ErrHistoryFull = errors.New("the account has had too many keys")
	// ErrConflict: what should be replaced is not what is there.
	ErrConflict = errors.New("another device has written a newer keyring")
	// ErrNoSeed: the account has no part in opening a xzibit of version 3.
	ErrNoSeed = errors.New("the account's xzibit opens without the server's help")
	// ErrInvitation does not say which of the three it is: strangers may ask.
	ErrInvitation = errors.New("the invitation is unknown, used or expired")
	// ErrInvitations: there are MaxInvitations.
	ErrInvitations = errors.New("there are too many open invitations")
	// ErrLife: an invitation would be over before it is used, or last for ever.
	ErrLife = errors.New("an invitation cannot last as long")
	// ErrFailed: a change failed half way, so that only the next Open can tell
	// whether it is there. Until then nothing else is changed.
	ErrFailed = errors.New("an earlier change to the accounts failed; what is on disk shows when the server has started again")
)

// An ID names an account for good: it is drawn at random when the account is
// made and never used again, so a later user of the same name inherits nothing.
// An invitation has one too, which becomes that of the account that it makes.
type ID [16]byte

// Operator is whose mailbox takes mail for the server itself. NewID never draws it.
var Operator = ID{15: 1}

// Outgoing is the mailbox of messages that wait to be delivered to other servers. It is
// nobody's, and NewID never draws it either.
var Outgoing = ID{15: 2}

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

// A Statement is one of an account's key statements, with the signature by the key
// before it: zeros in the first one and in a reset. The server's signature is made
// when it is asked for.
type Statement struct {
	crypt.KeyStatement
	Old crypt.Signature
}

// An Account is one local user. It is never changed after it was made; the
// store replaces it.
type Account struct {
	ID         ID
	Address    address.Address
	Key        crypt.PublicKey // the newest
	Statements []Statement     // the oldest first, at least one
	Xzibit     []byte
	Copy       []byte // the recovery copy; nil when there is none
	Created    time.Time
	Disabled   bool // answers and receives nothing; nothing of it is lost

	// seed returns the seed of the account's part in opening its xzibit, a secret of the
	// server; nil when there is none, and wherever the account came over the control
	// socket. It is a function for the reason that crypt.PrivateKey has.
	seed func() []byte

	keySig    func() crypt.Signature
	xzibitSig func() crypt.Signature
	history   func() []byte
	unlock    func() (*oprf.Key, error)
}

// sign prepares what the account publishes. It is made at first use: a server with
// many users starts at once, and a key that is asked for a thousand times a second is
// signed once.
func (a *Account) sign(signer *crypt.PrivateKey) *Account {
	a.keySig = sync.OnceValue(func() crypt.Signature { return signer.Sign(a.Key[:]) })
	a.xzibitSig = sync.OnceValue(func() crypt.Signature { return signer.Sign(a.Xzibit) })
	a.history = sync.OnceValue(func() []byte { return a.encodeHistory(signer) })
	a.unlock = sync.OnceValues(func() (*oprf.Key, error) { return unlockKey(a.seed) })
	return a
}

func unlockKey(seed func() []byte) (*oprf.Key, error) {
	if seed == nil {
		return nil, ErrNoSeed
	}
	return oprf.KeyFromSeed(seed())
}

func (a *Account) encodeHistory(signer *crypt.PrivateKey) []byte {
	h := crypt.History{Keys: make([]crypt.SignedKey, len(a.Statements))}
	for i, s := range a.Statements {
		h.Keys[i] = crypt.SignedKey{KeyStatement: s.KeyStatement, Old: s.Old, Server: signer.Sign(s.Append(nil))}
	}
	return h.Append(nil)
}

// KeySignature returns the server's signature of the key's bytes.
func (a *Account) KeySignature() crypt.Signature { return a.keySig() }

// XzibitSignature returns the server's signature of the xzibit's bytes.
func (a *Account) XzibitSignature() crypt.Signature { return a.xzibitSig() }

// XzibitDigest is how an upload names the xzibit that it replaces: its SHA-256.
func (a *Account) XzibitDigest() [32]byte { return sha256.Sum256(a.Xzibit) }

// XzibitVersion returns the version of the xzibit.
func (a *Account) XzibitVersion() uint32 {
	v, err := xzibit.Version(a.Xzibit)
	if err != nil {
		panic("account: a xzibit that was checked has no version: " + err.Error())
	}
	return v
}

// Statement returns the newest key statement, the one in force.
func (a *Account) Statement() *crypt.KeyStatement {
	return &a.Statements[len(a.Statements)-1].KeyStatement
}

// History returns the account's key history without an alias, as it stands in a reply
// (docs/protocol.md section 17.3), for the caller to read only. The server's signatures
// in it are by its key of now.
func (a *Account) History() []byte { return a.history() }

// RecoveryKey returns the key that the recovery copy is sealed to, and whether there is
// a copy.
func (a *Account) RecoveryKey() (key crypt.PublicKey, ok bool) {
	if a.Copy == nil {
		return key, false
	}
	key, err := xzibit.CheckCopy(a.Copy)
	return key, err == nil
}

// HasSeed reports whether Evaluate answers.
func (a *Account) HasSeed() bool { return a.seed != nil }

// Evaluate returns a blinded element under the account's key for it (docs/protocol.md
// section 8.3). It returns ErrNoSeed where the account has none, and wraps
// oprf.ErrElement.
func (a *Account) Evaluate(blinded [32]byte) ([32]byte, error) {
	return evaluate(a.unlock, blinded)
}

func evaluate(unlock func() (*oprf.Key, error), blinded [32]byte) ([32]byte, error) {
	key, err := unlock()
	if err != nil {
		return [32]byte{}, err
	}
	return key.Evaluate(blinded)
}
