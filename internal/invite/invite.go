// Package invite is the code with which an operator invites a user (protocol.md
// section 20): a secret that proves to the server who was invited, and a fingerprint
// of the server's key that proves to the user which server is meant.
//
// It guarantees that there is one code for each secret and key and that what people
// make of a code in copying it is read as that code; that neither a code nor a secret
// prints itself: only Reveal shows it; and that errors show nothing of what was read.
package invite

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"unicode"

	"cmtpd/internal/crypt"
)

// Errors of reading, each for the person who typed.
var (
	ErrCode   = errors.New("not an invitation's code")
	ErrSecret = errors.New("not the secret of an invitation's code")
)

const (
	symbols    = 24 // of a code
	half       = symbols / 2
	groupSize  = 4
	symbolBits = 5
	halfMask   = 1<<(half*symbolBits) - 1

	// maxTyped bounds what is read as a code, in bytes: room for any spacing.
	maxTyped = 1024

	serverLabel = "CMTP-1 invitation\x00"
	secretLabel = "CMTP-1 invitation secret\x00"

	// alphabet is Crockford's base32.
	alphabet = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
)

// A Code is an invitation's code. The zero Code is none. Codes are not comparable.
type Code struct {
	// Behind a function, since package fmt sees through values where it may not call
	// our methods, as in the unexported field of a struct.
	halves func() (secret, server uint64)
}

func newCode(secret, server uint64) Code {
	return Code{func() (uint64, uint64) { return secret, server }}
}

// New draws a code for the server with this key.
func New(server crypt.PublicKey) Code {
	var b [8]byte
	rand.Read(b[:])
	secret := binary.BigEndian.Uint64(b[:]) & halfMask
	return newCode(secret, fingerprint(secret, server))
}

// fingerprint is the first 60 bits of the digest of a server's key and the secret: who does
// not have the secret cannot look beforehand for a key that would pass.
func fingerprint(secret uint64, server crypt.PublicKey) uint64 {
	sum := sha256.Sum256(appendSymbols(append([]byte(serverLabel), server[:]...), secret))
	return binary.BigEndian.Uint64(sum[:8]) >> (64 - half*symbolBits)
}

// Parse reads a code as a person types it: in any case, with spaces and dashes anywhere
// and of any kind, I and L for 1, O for 0. It wraps ErrCode.
func Parse(s string) (Code, error) {
	if len(s) > maxTyped {
		return Code{}, fmt.Errorf("%w: it is far too long", ErrCode)
	}
	n, halves := 0, [2]uint64{}
	for _, r := range s {
		if unicode.IsSpace(r) || unicode.Is(unicode.Pd, r) {
			continue
		}
		if n++; n > symbols {
			continue
		}
		v := strings.IndexRune(alphabet, plain(r))
		if v < 0 {
			return Code{}, fmt.Errorf("%w: character %d, without spaces and dashes, is no digit and none of the letters of a code, which has no U", ErrCode, n)
		}
		halves[(n-1)/half] = halves[(n-1)/half]<<symbolBits | uint64(v)
	}
	if n != symbols {
		return Code{}, fmt.Errorf("%w: it has %d characters without spaces and dashes; a code has %d", ErrCode, n, symbols)
	}
	return newCode(halves[0], halves[1]), nil
}

// plain returns the symbol that is meant by a character. What is no ASCII letter means
// itself alone: a long s is no S.
func plain(r rune) rune {
	if 'a' <= r && r <= 'z' {
		r -= 'a' - 'A'
	}
	switch r {
	case 'I', 'L':
		return '1'
	case 'O':
		return '0'
	}
	return r
}

// IsZero reports whether the code is none.
func (c Code) IsZero() bool { return c.halves == nil }

// Reveal shows the code to the person whom it is for: upper case, in groups of four.
func (c Code) Reveal() string {
	secret, server := c.halves()
	all := appendSymbols(appendSymbols(nil, secret), server)
	groups := make([]string, 0, symbols/groupSize)
	for ; len(all) > 0; all = all[groupSize:] {
		groups = append(groups, string(all[:groupSize]))
	}
	return strings.Join(groups, "-")
}

// appendSymbols appends 60 bits as symbols, the most significant first.
func appendSymbols(b []byte, bits uint64) []byte {
	for i := half - 1; i >= 0; i-- {
		b = append(b, alphabet[bits>>(i*symbolBits)&(1<<symbolBits-1)])
	}
	return b
}

// IsFor reports whether the code was made for the server with this key. Nothing of
// the code is to be sent to any other.
func (c Code) IsFor(server crypt.PublicKey) bool {
	secret, is := c.halves()
	return is == fingerprint(secret, server)
}

// Secret returns the part that the server asks for.
func (c Code) Secret() Secret {
	bits, _ := c.halves()
	text := string(appendSymbols(nil, bits))
	return Secret{func() string { return text }}
}

// A Secret is the part of a code that ENROLL and REGISTER send. The zero Secret is
// none.
type Secret struct{ text func() string }

// ParseSecret reads a secret as it comes from the wire, in its one form: 12 symbols
// in upper case and nothing else. It wraps ErrSecret.
func ParseSecret(s string) (Secret, error) {
	if len(s) != half || strings.Trim(s, alphabet) != "" {
		return Secret{}, fmt.Errorf("%w: that is %d of the 32 symbols, in upper case and without dashes", ErrSecret, half)
	}
	return Secret{func() string { return s }}, nil
}

// Reveal returns the secret as it stands on the wire.
func (s Secret) Reveal() string { return s.text() }

// IsZero reports whether the secret is none.
func (s Secret) IsZero() bool { return s.text == nil }

// HashSecret returns what a server keeps of an invitation to the account with this ID,
// so that whoever reads its disk is not invited.
func HashSecret(account [16]byte, secret Secret) [32]byte {
	b := append([]byte(secretLabel), account[:]...)
	return sha256.Sum256(append(b, secret.Reveal()...))
}

// Matches reports whether kept is HashSecret of the account and secret, in a time
// that does not depend on how near it is.
func Matches(kept [32]byte, account [16]byte, secret Secret) bool {
	is := HashSecret(account, secret)
	return subtle.ConstantTimeCompare(kept[:], is[:]) == 1
}

const redacted = "[redacted invitation]"

func (Code) String() string { return redacted }

// GoString hides the code from %#v.
func (Code) GoString() string { return redacted }

// Format hides the code from every verb of package fmt.
func (Code) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// LogValue hides the code from package log/slog.
func (Code) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText hides the code from encoders of text; it cannot be read back.
func (Code) MarshalText() ([]byte, error) { return []byte(redacted), nil }

func (Secret) String() string { return redacted }

// GoString hides the secret from %#v.
func (Secret) GoString() string { return redacted }

// Format hides the secret from every verb of package fmt.
func (Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// LogValue hides the secret from package log/slog.
func (Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText hides the secret from encoders of text; it cannot be read back.
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }
