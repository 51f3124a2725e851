package crypt

import (
	"encoding/binary"
	"errors"
	"fmt"

	"cmtpd/internal/address"
)

// ErrHistory: the statements are no history of the key that was asked for.
var ErrHistory = errors.New("the statements are no history of the key")

// Most statements of a history (docs/protocol.md section 21).
const (
	MaxKeyStatements = 256
	MaxRotations     = 64
)

// MaxHistory is the longest that ParseHistory takes, in bytes.
const MaxHistory = 12 +
	len(aliasLabel) + 2*maxName + SignatureSize +
	MaxKeyStatements*(MaxKeyStatement+2*SignatureSize) +
	MaxRotations*(len(rotationLabel)+address.MaxDomainLength+1+2*PublicKeySize+8+2*SignatureSize)

// MaxKeyStatement is the longest key statement in bytes, without signatures.
const MaxKeyStatement = len(keyLabel) + maxName + 4 + PublicKeySize + 8 + 1 + 32

const (
	aliasLabel    = "CMTP-1 alias\x00"
	rotationLabel = "CMTP-1 rotation\x00"
)

// An Alias says that one name leads to another, whose key is answered with.
type Alias struct {
	From, To address.Address // To with the zero Account is the server itself
}

// Append appends the statement's one encoding, without the server's signature.
func (a *Alias) Append(dst []byte) []byte {
	return appendName(appendName(append(dst, aliasLabel...), a.From), a.To)
}

// A SignedAlias is an Alias with the server's signature.
type SignedAlias struct {
	Alias
	Server Signature
}

// A Rotation says that a server has changed its key (docs/protocol.md section 17.4).
type Rotation struct {
	Domain   address.Domain
	Old, New PublicKey
	When     UnixTime
}

// Append appends the statement's one encoding, without signatures.
func (r *Rotation) Append(dst []byte) []byte {
	dst = append(append(append(dst, rotationLabel...), r.Domain.String()...), 0)
	return appendTime(append(append(dst, r.Old[:]...), r.New[:]...), r.When)
}

// Sign signs with both keys, which must be those that r names.
func (r *Rotation) Sign(before, after *PrivateKey) SignedRotation {
	b := r.Append(nil)
	return SignedRotation{*r, before.Sign(b), after.Sign(b)}
}

// A SignedRotation is a Rotation with the signatures of both keys.
type SignedRotation struct {
	Rotation
	OldSignature, NewSignature Signature
}

// Verify wraps ErrUnsigned unless both keys have signed.
func (r *SignedRotation) Verify() error {
	b := r.Rotation.Append(nil)
	if !Verify(r.Old, b, r.OldSignature) || !Verify(r.New, b, r.NewSignature) {
		return fmt.Errorf("a rotation of the server's key: %w", ErrUnsigned)
	}
	return nil
}

// A History is all that a server says of a key: what KEYREQUEST answers inside the
// channel (docs/protocol.md section 17.3).
type History struct {
	Alias     *SignedAlias // nil where the name that was asked for has the key itself
	Keys      []SignedKey  // the oldest first
	Rotations []SignedRotation
}

// Append appends the history as it stands in a reply.
func (h *History) Append(dst []byte) []byte {
	if h.Alias == nil {
		dst = binary.BigEndian.AppendUint32(dst, 0)
	} else {
		dst = h.Alias.Append(binary.BigEndian.AppendUint32(dst, 1))
		dst = append(dst, h.Alias.Server[:]...)
	}
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(h.Keys)))
	for i := range h.Keys {
		k := &h.Keys[i]
		dst = append(append(k.KeyStatement.Append(dst), k.Old[:]...), k.Server[:]...)
	}
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(h.Rotations)))
	for i := range h.Rotations {
		r := &h.Rotations[i]
		dst = append(append(r.Rotation.Append(dst), r.OldSignature[:]...), r.NewSignature[:]...)
	}
	return dst
}

// ParseHistory reads the payload of a reply. It checks no signature: Verify does.
func ParseHistory(b []byte) (*History, error) {
	d := decoder{rest: b}
	h := new(History)
	if d.count("aliases", 0, 1) == 1 {
		h.Alias = &SignedAlias{d.alias(), d.signature()}
	}
	for range d.count("key statements", 1, MaxKeyStatements) {
		k := SignedKey{KeyStatement: d.keyStatement(), Old: d.signature(), Server: d.signature()}
		if d.err != nil {
			return nil, d.err
		}
		h.Keys = append(h.Keys, k)
	}
	for range d.count("rotations", 0, MaxRotations) {
		d.label(rotationLabel)
		r := Rotation{Domain: d.domain(), Old: d.key(), New: d.key(), When: d.time()}
		s := SignedRotation{r, d.signature(), d.signature()}
		if d.err != nil {
			return nil, d.err
		}
		h.Rotations = append(h.Rotations, s)
	}
	if err := d.end(); err != nil {
		return nil, err
	}
	return h, nil
}

func (d *decoder) alias() Alias {
	d.label(aliasLabel)
	a := Alias{d.name(), d.name()}
	if d.err == nil && a.From.Account.IsZero() {
		d.fail("an alias of the server itself")
	}
	return a
}

func (d *decoder) count(what string, least, most uint32) uint32 {
	n := d.uint32()
	if d.err == nil && (n < least || n > most) {
		d.fail("%d %s", n, what)
	}
	if d.err != nil {
		return 0
	}
	return n
}

// Current returns the statement in force.
func (h *History) Current() *KeyStatement { return &h.Keys[len(h.Keys)-1].KeyStatement }

// Verify reports why h is not a history that the server with this key may give for
// the name that was asked: every signature, the links from each statement to the next,
// and who they are about. It wraps ErrUnsigned or ErrHistory.
func (h *History) Verify(asked address.Address, server PublicKey) error {
	if len(h.Keys) == 0 {
		return fmt.Errorf("%w: it has no key statement", ErrHistory)
	}
	owner, err := h.owner(asked, server)
	if err != nil {
		return err
	}
	for i := range h.Keys {
		k := &h.Keys[i]
		switch {
		case k.Name != owner:
			return fmt.Errorf("%w: asked for %s, it names %s", ErrHistory, owner, k.Name)
		case !Verify(server, k.KeyStatement.Append(nil), k.Server):
			return fmt.Errorf("the key statement of %s: %w: the server", k.Name, ErrUnsigned)
		case i == 0 && (!k.IsFirst() || k.Reset || k.Old != Signature{}):
			return fmt.Errorf("%w: it does not begin with a first statement", ErrHistory)
		case i > 0 && !k.Succeeds(&h.Keys[i-1].KeyStatement):
			return fmt.Errorf("%w: statement %d does not follow from the one before", ErrHistory, i+1)
		}
	}
	return h.verifyServer(owner, server)
}

// owner returns whose key h has to be.
func (h *History) owner(asked address.Address, server PublicKey) (address.Address, error) {
	if h.Alias == nil {
		asked.Account = h.base(asked.Account)
		return asked, nil
	}
	if h.Alias.From != asked {
		return asked, fmt.Errorf("%w: asked for %s, it has an alias of %s", ErrHistory, asked, h.Alias.From)
	}
	if !Verify(server, h.Alias.Append(nil), h.Alias.Server) {
		return asked, fmt.Errorf("the alias of %s: %w: the server", asked, ErrUnsigned)
	}
	return h.Alias.To, nil
}

// base is the account that answers for a subaddress, unless the longer name has a key
// of its own.
func (h *History) base(asked address.Account) address.Account {
	if h.Keys[0].Name.Account == asked {
		return asked
	}
	return asked.Base()
}

// verifyServer checks what only a server's own history may have.
func (h *History) verifyServer(owner address.Address, server PublicKey) error {
	if !owner.Account.IsZero() {
		if len(h.Rotations) > 0 {
			return fmt.Errorf("%w: the history of a user has rotations of a server", ErrHistory)
		}
		return nil
	}
	if len(h.Keys) != 1 || h.Keys[0].Key != server {
		return fmt.Errorf("%w: the server says that it has another key than the one it signs with", ErrHistory)
	}
	for i := range h.Rotations {
		r := &h.Rotations[i]
		if r.Domain != owner.Domain || r.New != server {
			return fmt.Errorf("%w: a rotation of another server's key", ErrHistory)
		}
		if err := r.Verify(); err != nil {
			return err
		}
	}
	return nil
}

// Since returns the statements after the one with this digest, and whether that one is
// a part of the history at all.
func (h *History) Since(digest [32]byte) (later []SignedKey, ok bool) {
	for i := range h.Keys {
		if h.Keys[i].Digest() == digest {
			return h.Keys[i+1:], true
		}
	}
	return nil, false
}

// Follows reports whether old has named the server's key as the one that follows it.
// The history must have been verified.
func (h *History) Follows(old PublicKey) bool {
	for i := range h.Rotations {
		if h.Rotations[i].Old == old {
			return true
		}
	}
	return false
}
