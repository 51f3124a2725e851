package crypt

import (
	"errors"
	"fmt"

	"cmtpd/internal/address"
)

// ErrForeign: an answer about a name of another server's domain is not what it must be.
var ErrForeign = errors.New("not an answer about another server's name")

// A Trust is how far a server trusts the key of another one, the weakest first
// (docs/protocol.md section 19.1).
type Trust uint8

// The values of Trust.
const (
	TrustFirstContact Trust = 1
	TrustDNS          Trust = 2
	TrustDNSSEC       Trust = 3
	TrustOperator     Trust = 4
)

// String returns who vouches for the key.
func (t Trust) String() string {
	switch t {
	case TrustFirstContact:
		return "first contact"
	case TrustDNS:
		return "DNS"
	case TrustDNSSEC:
		return "DNSSEC"
	case TrustOperator:
		return "the operator"
	}
	return fmt.Sprintf("Trust(%d)", uint8(t))
}

// foreignHead is what both forms of a Foreign begin with, in bytes.
const foreignHead = 1 + 1 + PublicKeySize

// MaxForeign is the longest that ParseForeign takes, in bytes.
const MaxForeign = foreignHead + MaxHistory

// A Foreign is what a server answers about a name of another server's domain: that
// server's own words, and how far its key is trusted (docs/protocol.md section 19.1).
type Foreign struct {
	Trust  Trust     // in Server
	Server PublicKey // the other server's

	History *History // what it has said by CMTP 1; nil: it has only

	Key       PublicKey // said this key by CMTP 0.01
	Signature Signature // and signed its bytes
}

// Part is the part of the protocol that the other server spoke: 1 or 2.
func (f *Foreign) Part() int {
	if f.History != nil {
		return 2
	}
	return 1
}

// Append appends the answer as it stands in a reply.
func (f *Foreign) Append(dst []byte) []byte {
	dst = append(append(dst, byte(f.Trust), byte(f.Part())), f.Server[:]...)
	if f.History != nil {
		return f.History.Append(dst)
	}
	return append(append(dst, f.Key[:]...), f.Signature[:]...)
}

// ParseForeign reads the payload of a reply. It checks no signature: Verify does. The error
// wraps ErrForeign or, of a history, ErrStatement.
func ParseForeign(b []byte) (*Foreign, error) {
	d := decoder{rest: b}
	f := &Foreign{Trust: Trust(d.take(1)[0])}
	part := d.take(1)[0]
	f.Server = d.key()
	switch {
	case d.err != nil:
	case f.Trust < TrustFirstContact || f.Trust > TrustOperator:
		d.fail("trust %d", uint8(f.Trust))
	case part == 1:
		f.Key, f.Signature = d.key(), d.signature()
		d.end()
	case part == 2:
		h, err := ParseHistory(d.rest)
		if err != nil {
			return nil, err
		}
		f.History = h
	default:
		d.fail("part %d of the protocol", part)
	}
	if d.err != nil {
		return nil, fmt.Errorf("%w: %w", ErrForeign, d.err)
	}
	return f, nil
}

// Verify reports why f is not what the server with the key in it may say of a name. What f
// says of that key is its own server's word. It wraps ErrUnsigned or ErrHistory.
func (f *Foreign) Verify(asked address.Address) error {
	if f.History != nil {
		return f.History.Verify(asked, f.Server)
	}
	if !Verify(f.Server, f.Key[:], f.Signature) {
		return fmt.Errorf("the key of %s: %w: the server", asked, ErrUnsigned)
	}
	if asked.Account.IsZero() && f.Key != f.Server {
		return fmt.Errorf("%w: the server says that it has another key than the one it signs with", ErrHistory)
	}
	return nil
}

// Current returns the key that mail to the name is sealed to.
func (f *Foreign) Current() PublicKey {
	if f.History != nil {
		return f.History.Current().Key
	}
	return f.Key
}
