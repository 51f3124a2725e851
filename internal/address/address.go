// Package address holds accounts and domains as values: parsed once, in one
// normal form, bounded, and never more than a name.
//
// Nothing here is ever a path, a query or a format string. Values are
// comparable with ==, and two spellings of one mailbox are one value: accounts
// are Unicode NFC with ASCII letters in lower case, domains are lower-case
// A-labels (protocol.md section 3, RFC 5890).
package address

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/net/idna"
	"golang.org/x/text/unicode/norm"
)

// MaxLength is the longest account or domain string in bytes, without the NUL
// that ends it on the wire (protocol.md, introduction).
const MaxLength = 255

// MaxDomainLength is the longest domain that DNS can carry, in bytes and
// without the trailing dot (RFC 1035 section 3.1).
const MaxDomainLength = 253

// Postmaster is the account that every domain has (RFC 5321 section 4.5.1).
var Postmaster = Account{"postmaster"}

// ErrInvalid is the error that every parser of this package wraps.
var ErrInvalid = errors.New("not a valid address")

// An Account is the part of an address before the @. The zero value names
// nobody; on the wire an empty account stands for the server itself.
type Account struct{ name string }

// A Domain is the part of an address behind the @. The zero value is no domain.
type Domain struct{ name string }

// An Address is one mailbox: account@domain.
type Address struct {
	Account Account
	Domain  Domain
}

// ParseAccount returns the normal form of s. It refuses an empty name, one
// longer than MaxLength bytes before or after normalisation, bytes that are not
// UTF-8, controls and invisible formatting characters, spaces, and any of
// @ / \ (protocol.md section 3).
func ParseAccount(s string) (Account, error) {
	if s == "" {
		return Account{}, fmt.Errorf("%w: the account is empty", ErrInvalid)
	}
	if len(s) > MaxLength {
		return Account{}, fmt.Errorf("%w: the account has %d bytes, at most %d are allowed", ErrInvalid, len(s), MaxLength)
	}
	if isPlain(s) {
		return Account{s}, nil
	}
	if !utf8.ValidString(s) {
		return Account{}, fmt.Errorf("%w: the account %q is not UTF-8", ErrInvalid, s)
	}
	n := lowerASCII(norm.NFC.String(s))
	if len(n) > MaxLength {
		return Account{}, fmt.Errorf("%w: the account has %d bytes in normal form, at most %d are allowed", ErrInvalid, len(n), MaxLength)
	}
	for _, r := range n {
		if !allowed(r) {
			return Account{}, fmt.Errorf("%w: the account %q holds the character %U, which is not allowed", ErrInvalid, s, r)
		}
	}
	return Account{n}, nil
}

// isPlain reports whether s is already in normal form by the cheapest test: the
// ASCII that nearly every account name is made of. A server parses one name for
// every key request.
func isPlain(s string) bool {
	for i := range len(s) {
		c := s[i]
		if c <= ' ' || c >= 0x7f || c == '@' || c == '/' || c == '\\' || 'A' <= c && c <= 'Z' {
			return false
		}
	}
	return true
}

func allowed(r rune) bool {
	switch {
	case r == '@' || r == '/' || r == '\\':
		return false
	case r == utf8.RuneError:
		return false // also what a terminal shows for what it cannot
	case unicode.IsSpace(r) || unicode.Is(unicode.Z, r):
		return false
	case unicode.Is(unicode.C, r):
		return false // controls, bidi overrides and other formats, private use, surrogates
	}
	return true
}

func lowerASCII(s string) string {
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, s)
}

// String returns the normal form.
func (a Account) String() string { return a.name }

// IsZero reports whether a names nobody.
func (a Account) IsZero() bool { return a.name == "" }

// Base returns the account without its subaddress: everything before the first
// + (RFC 5233). An account that begins with + has no base but itself.
func (a Account) Base() Account {
	if i := strings.IndexByte(a.name, '+'); i > 0 {
		return Account{a.name[:i]}
	}
	return a
}

// profile maps as a resolver would, and holds names to what DNS can carry.
// Underscores are no letters of a mail domain, so STD3 rules stay on.
var profile = idna.New(
	idna.MapForLookup(),
	idna.BidiRule(),
	idna.CheckJoiners(true),
	idna.StrictDomainName(true),
	idna.VerifyDNSLength(true),
)

// ParseDomain returns the normal form of s: lower-case A-labels without a
// trailing dot. It refuses what is no host name in the sense of RFC 5890 and
// RFC 1123, and address literals.
func ParseDomain(s string) (Domain, error) {
	s = strings.TrimSuffix(s, ".")
	if s == "" {
		return Domain{}, fmt.Errorf("%w: the domain is empty", ErrInvalid)
	}
	if len(s) > MaxLength {
		return Domain{}, fmt.Errorf("%w: the domain has %d bytes, at most %d are allowed", ErrInvalid, len(s), MaxDomainLength)
	}
	if isPlainDomain(s) {
		return Domain{s}, nil
	}
	a, err := profile.ToASCII(s)
	if err == nil {
		// A label that maps to something that would not map to itself is no
		// A-label; such are made from bytes that are not UTF-8.
		var again string
		if again, err = profile.ToASCII(a); err == nil && again != a {
			err = errors.New("has no stable A-label form")
		}
	}
	if err != nil {
		return Domain{}, fmt.Errorf("%w: the domain %q: %v", ErrInvalid, s, err)
	}
	if last := a[strings.LastIndexByte(a, '.')+1:]; isNumber(last) {
		return Domain{}, fmt.Errorf("%w: the domain %q ends in a number; an IP address is no mail domain", ErrInvalid, s)
	}
	return Domain{a}, nil
}

// isPlainDomain is the cheap yes: lower-case letters, digits and dots in labels
// of ordinary length, the last of which begins with a letter.
func isPlainDomain(s string) bool {
	if len(s) > MaxDomainLength {
		return false
	}
	label, last := 0, byte(0)
	for i := range len(s) {
		c := s[i]
		switch {
		case c == '.':
			if label == 0 {
				return false
			}
			label = 0
		case 'a' <= c && c <= 'z' || '0' <= c && c <= '9':
			if label == 0 {
				last = c
			}
			if label++; label > 63 {
				return false
			}
		default:
			return false
		}
	}
	return label > 0 && 'a' <= last && last <= 'z'
}

func isNumber(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return true
}

// String returns the normal form.
func (d Domain) String() string { return d.name }

// IsZero reports whether d is no domain.
func (d Domain) IsZero() bool { return d.name == "" }

// Unicode returns the domain with its A-labels decoded, for showing to people.
// A label that does not decode stays as it is.
func (d Domain) Unicode() string {
	u, err := idna.Display.ToUnicode(d.name)
	if err != nil {
		return d.name
	}
	return u
}

// Parse returns the address in s, account@domain. There are no quoted accounts.
func Parse(s string) (Address, error) {
	account, domain, ok := strings.Cut(s, "@")
	if !ok {
		return Address{}, fmt.Errorf("%w: %q has no @", ErrInvalid, s)
	}
	a, err := ParseAccount(account)
	if err != nil {
		return Address{}, err
	}
	d, err := ParseDomain(domain)
	if err != nil {
		return Address{}, err
	}
	return Address{a, d}, nil
}

// String returns account@domain in normal form.
func (a Address) String() string { return a.Account.name + "@" + a.Domain.name }

// IsZero reports whether a is the zero address.
func (a Address) IsZero() bool { return a == Address{} }

// MarshalText returns the normal form.
func (a Address) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText parses like Parse.
func (a *Address) UnmarshalText(b []byte) error {
	p, err := Parse(string(b))
	if err != nil {
		return err
	}
	*a = p
	return nil
}

// UnmarshalText parses like ParseDomain.
func (d *Domain) UnmarshalText(b []byte) error {
	p, err := ParseDomain(string(b))
	if err != nil {
		return err
	}
	*d = p
	return nil
}

// MarshalText returns the normal form.
func (d Domain) MarshalText() ([]byte, error) { return []byte(d.name), nil }
