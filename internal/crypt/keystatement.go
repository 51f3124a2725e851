package crypt

import (
	"crypto/sha256"
	"encoding/binary"

	"cmtpd/internal/address"
)

const (
	keyLabel        = "CMTP-1 key\x00"
	possessionLabel = "CMTP-1 possession\x00"

	statementSystem = 1 // the crypto system of every key so far
	flagReset       = 1
)

// A KeyStatement says which key an account, or with the zero Account the server of
// the domain, has from a time on (docs/protocol.md section 17.2).
type KeyStatement struct {
	Name      address.Address
	Key       PublicKey
	NotBefore UnixTime
	// Reset says that the key before is lost, so that it did not sign this.
	Reset    bool
	Previous [32]byte // digest of the statement before; zeros in the first one
}

// Append appends the statement's one encoding, without signatures.
func (s *KeyStatement) Append(dst []byte) []byte {
	dst = appendName(append(dst, keyLabel...), s.Name)
	dst = binary.BigEndian.AppendUint32(dst, statementSystem)
	dst = appendTime(append(dst, s.Key[:]...), s.NotBefore)
	var flags byte
	if s.Reset {
		flags = flagReset
	}
	return append(append(dst, flags), s.Previous[:]...)
}

// Digest is how the statement after this one names it.
func (s *KeyStatement) Digest() [32]byte { return sha256.Sum256(s.Append(nil)) }

// IsFirst reports whether no statement comes before this one.
func (s *KeyStatement) IsFirst() bool { return s.Previous == [32]byte{} }

// ParseKeyStatement reads a statement off the front of b and returns its length.
func ParseKeyStatement(b []byte) (KeyStatement, int, error) {
	d := decoder{rest: b}
	s := d.keyStatement()
	if d.err != nil {
		return KeyStatement{}, 0, d.err
	}
	return s, len(b) - len(d.rest), nil
}

func (d *decoder) keyStatement() (s KeyStatement) {
	d.label(keyLabel)
	s.Name = d.name()
	if system := d.uint32(); d.err == nil && system != statementSystem {
		d.fail("a key of crypto system %d", system)
	}
	s.Key, s.NotBefore = d.key(), d.time()
	switch flags := d.take(1)[0]; flags {
	case 0:
	case flagReset:
		s.Reset = true
	default:
		d.fail("flags %#x", flags)
	}
	s.Previous = d.bytes32()
	if d.err == nil && s.Reset && s.IsFirst() {
		d.fail("a reset of nothing")
	}
	return s
}

func (s *KeyStatement) possession() []byte { return s.Append([]byte(possessionLabel)) }

// Possess proves, with the secret half of the statement's key, that it is held by
// who asks for the statement (docs/protocol.md section 19.4).
func (s *KeyStatement) Possess(key *PrivateKey) Signature { return key.Sign(s.possession()) }

// IsPossessed reports whether sig is such a proof.
func (s *KeyStatement) IsPossessed(sig Signature) bool { return Verify(s.Key, s.possession(), sig) }

// Follow returns the statement by which key replaces s's from a time on.
func (s *KeyStatement) Follow(key PublicKey, at UnixTime) KeyStatement {
	return KeyStatement{Name: s.Name, Key: key, NotBefore: max(at, s.NotBefore), Previous: s.Digest()}
}

// A SignedKey is a KeyStatement with the signatures that it needs.
type SignedKey struct {
	KeyStatement
	Old    Signature // by the key before; zeros in a first statement and a reset
	Server Signature
}

// Succeeds reports whether k follows the statement before as a history demands: it
// names it, is for the same name, is not older, and bears the old key's signature
// unless it is a reset.
func (k *SignedKey) Succeeds(before *KeyStatement) bool {
	if k.Previous != before.Digest() || k.Name != before.Name || k.NotBefore < before.NotBefore {
		return false
	}
	if k.Reset {
		return k.Old == Signature{}
	}
	return Verify(before.Key, k.KeyStatement.Append(nil), k.Old)
}
