package crypt

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"

	"cmtpd/internal/address"
)

// Errors of statements (docs/protocol.md section 17).
var (
	// ErrStatement: the bytes are not the one encoding of a statement.
	ErrStatement = errors.New("not a statement of CMTP 1")
	// ErrUnsigned: a statement lacks the signature of a party that it needs.
	ErrUnsigned = errors.New("the statement is not signed by whom it must be")
)

// UnixTime is a time in a statement: seconds since 1970-01-01 00:00 UTC, 0 when unknown.
type UnixTime uint64

// maxTime is the end of the year 9999.
const maxTime = 253402300799

// UnixTimeOf returns t to the second. What a statement cannot hold is unknown.
func UnixTimeOf(t time.Time) UnixTime {
	if s := t.Unix(); s > 0 && s <= maxTime {
		return UnixTime(s)
	}
	return 0
}

// Time returns t in UTC; the zero time when it is unknown.
func (t UnixTime) Time() time.Time {
	if t == 0 {
		return time.Time{}
	}
	return time.Unix(int64(t), 0).UTC()
}

// maxName is the longest name in bytes: domain and account, each with its NUL.
const maxName = address.MaxDomainLength + 1 + address.MaxLength + 1

// appendName appends a domain and an account, the order of every statement but a
// Proof. The zero account stands for the server itself.
func appendName(dst []byte, name address.Address) []byte {
	dst = append(append(dst, name.Domain.String()...), 0)
	return append(append(dst, name.Account.String()...), 0)
}

func appendTime(dst []byte, t UnixTime) []byte {
	return binary.BigEndian.AppendUint64(dst, uint64(t))
}

// A decoder takes fields off the front of a statement. After the first mistake it
// gives zeros, so that only the end has to be looked at.
type decoder struct {
	rest []byte
	err  error
}

func (d *decoder) fail(format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf("%w: "+format, append([]any{ErrStatement}, args...)...)
	}
	d.rest = nil
}

func (d *decoder) take(n int) []byte {
	if len(d.rest) < n {
		d.fail("it ends too early")
		return make([]byte, n)
	}
	b := d.rest[:n]
	d.rest = d.rest[n:]
	return b
}

func (d *decoder) label(label string) {
	if d.err == nil && !strings.HasPrefix(string(d.rest[:min(len(d.rest), len(label))]), label) {
		d.fail("it does not begin with the label %q", label)
		return
	}
	d.take(len(label))
}

// text is a name up to its NUL. That it is UTF-8 is a part of its normal form.
func (d *decoder) text() string {
	for i := range min(len(d.rest), address.MaxLength+1) {
		if d.rest[i] == 0 {
			s := string(d.rest[:i])
			d.rest = d.rest[i+1:]
			return s
		}
	}
	d.fail("a name does not end within %d bytes", address.MaxLength)
	return ""
}

func (d *decoder) domain() address.Domain {
	s := d.text()
	domain, err := address.ParseDomain(s)
	if d.err == nil && (err != nil || domain.String() != s) {
		d.fail("the domain %q is not in normal form", s)
	}
	return domain
}

func (d *decoder) account() (account address.Account) {
	s := d.text()
	if s == "" {
		return account
	}
	account, err := address.ParseAccount(s)
	if d.err == nil && (err != nil || account.String() != s) {
		d.fail("the account %q is not in normal form", s)
	}
	return account
}

func (d *decoder) name() address.Address {
	domain := d.domain()
	return address.Address{Account: d.account(), Domain: domain}
}

func (d *decoder) uint32() uint32 { return binary.BigEndian.Uint32(d.take(4)) }

func (d *decoder) uint64() uint64 { return binary.BigEndian.Uint64(d.take(8)) }

func (d *decoder) time() UnixTime {
	t := d.uint64()
	if t > maxTime {
		d.fail("a time of %d seconds", t)
	}
	return UnixTime(t)
}

func (d *decoder) bytes32() [32]byte { return [32]byte(d.take(32)) }

func (d *decoder) signature() Signature { return Signature(d.take(SignatureSize)) }

func (d *decoder) key() PublicKey {
	b := d.take(PublicKeySize)
	key := PublicKey(b)
	if d.err == nil {
		if _, err := ParsePublicKey(b); err != nil {
			d.fail("%v", err)
		}
	}
	return key
}

// end demands that nothing is left, and returns the first mistake.
func (d *decoder) end() error {
	if d.err == nil && len(d.rest) > 0 {
		d.fail("%d bytes behind its end", len(d.rest))
	}
	return d.err
}
