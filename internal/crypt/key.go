package crypt

import (
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
)

// Sizes in bytes.
const (
	PublicKeySize  = 32
	SeedSize       = 32
	PrivateKeySize = 64 // seed and public key, libsodium's form
	SignatureSize  = 64
)

// Errors of reading keys. None of them shows a byte of the key.
var (
	ErrPublicKey  = errors.New("not a usable Ed25519 public key")
	ErrPrivateKey = errors.New("not an Ed25519 private key")
	ErrKeyHalves  = errors.New("the public half does not belong to the private one")
)

// A PublicKey is an Ed25519 public key as it stands on the wire. Only
// ParsePublicKey says whether one is usable; an unusable one is harmless, since
// Verify and Seal refuse it.
type PublicKey [PublicKeySize]byte

// A Signature is a detached Ed25519 signature: R and S, 32 bytes each.
type Signature [SignatureSize]byte

// ParsePublicKey returns the key in b, which must be 32 bytes. It wraps
// ErrPublicKey for every key that libsodium would refuse either to verify with or
// to seal to: no point of the curve, a non-canonical encoding, a small-order or a
// mixed-order point.
func ParsePublicKey(b []byte) (PublicKey, error) {
	if len(b) != PublicKeySize {
		return PublicKey{}, fmt.Errorf("%w: %d bytes, want %d", ErrPublicKey, len(b), PublicKeySize)
	}
	pk := PublicKey(b)
	// What can be sealed to can also be verified with: its order is L, and none of
	// the few points with a second encoding is of that order.
	if _, err := toX25519(pk); err != nil {
		return PublicKey{}, err
	}
	return pk, nil
}

// String returns the key's fingerprint for people to compare by eye or by voice:
// the first 20 bytes of the key's SHA-256 in lower-case hex, ten groups of four.
func (pk PublicKey) String() string {
	sum := sha256.Sum256(pk[:])
	digits := hex.EncodeToString(sum[:20])
	groups := make([]string, 0, 10)
	for i := 0; i < len(digits); i += 4 {
		groups = append(groups, digits[i:i+4])
	}
	return strings.Join(groups, " ")
}

// A PrivateKey signs, and opens what was sealed to its public half. However it is
// printed, logged or marshalled, only the word redacted comes out. It is safe for
// concurrent use, except for Wipe.
type PrivateKey struct {
	// Behind a function, since package fmt sees through pointers where it may not
	// call our methods: %s of somebody's struct with a key in an unexported field.
	secret func() *secret
}

func newPrivateKey(full []byte) *PrivateKey {
	s := &secret{bytes: [PrivateKeySize]byte(full)}
	return &PrivateKey{func() *secret { return s }}
}

type secret struct {
	bytes [PrivateKeySize]byte // seed, public key
	wiped bool

	// crypto/ecdh computes the public half of every key it parses, which costs as
	// much as opening a small box: so it is parsed once, at first use.
	once   sync.Once
	x25519 *ecdh.PrivateKey
}

// GenerateKey returns a new key from the system's random source.
func GenerateKey() (*PrivateKey, error) {
	var seed [SeedSize]byte
	defer clear(seed[:])
	if _, err := rand.Read(seed[:]); err != nil {
		return nil, fmt.Errorf("making a key: %w", err)
	}
	return PrivateKeyFromSeed(seed[:])
}

// PrivateKeyFromSeed returns the key that grows from a seed of 32 bytes
// (RFC 8032 section 5.1.5).
func PrivateKeyFromSeed(seed []byte) (*PrivateKey, error) {
	if len(seed) != SeedSize {
		return nil, fmt.Errorf("%w: a seed of %d bytes, want %d", ErrPrivateKey, len(seed), SeedSize)
	}
	full := ed25519.NewKeyFromSeed(seed)
	defer clear(full)
	return newPrivateKey(full), nil
}

// ParsePrivateKey returns the key in b: 64 bytes, seed and public key. It returns
// ErrKeyHalves when they do not belong together: to sign with such a key gives the
// seed away.
func ParsePrivateKey(b []byte) (*PrivateKey, error) {
	if len(b) != PrivateKeySize {
		return nil, fmt.Errorf("%w: %d bytes, want %d", ErrPrivateKey, len(b), PrivateKeySize)
	}
	k, err := PrivateKeyFromSeed(b[:SeedSize])
	if err != nil {
		return nil, err
	}
	if k.Public() != PublicKey(b[SeedSize:]) {
		k.Wipe()
		return nil, ErrKeyHalves
	}
	return k, nil
}

// material returns the secret. To go on with a wiped key would sign with, or open
// for, a key that everybody knows.
func (k *PrivateKey) material() *secret {
	s := k.secret()
	if s.wiped {
		panic("crypt: a wiped key was used")
	}
	return s
}

// Public returns the public half, also after Wipe.
func (k *PrivateKey) Public() PublicKey { return PublicKey(k.secret().bytes[SeedSize:]) }

// Bytes returns a copy of the key for safekeeping: 64 bytes, seed and public key.
func (k *PrivateKey) Bytes() []byte {
	b := k.material().bytes
	return b[:]
}

// Wipe overwrites the secret half. Nothing else may use the key at the same time,
// and every use but Public panics afterwards. Copies that the standard library
// made for itself are left to the garbage collector.
func (k *PrivateKey) Wipe() {
	s := k.secret()
	clear(s.bytes[:SeedSize])
	s.x25519 = nil
	s.wiped = true
}

// Sign returns the key's signature of msg (RFC 8032 section 5.1.6).
func (k *PrivateKey) Sign(msg []byte) Signature { return sign(&k.material().bytes, msg) }

// agreement returns the key in its X25519 form, as libsodium's
// crypto_sign_ed25519_sk_to_curve25519 makes it: the first half of the seed's
// SHA-512. The clamping is part of X25519 itself.
func (s *secret) agreement() *ecdh.PrivateKey {
	s.once.Do(func() {
		h := sha512.Sum512(s.bytes[:SeedSize])
		defer clear(h[:])
		key, err := ecdh.X25519().NewPrivateKey(h[:32])
		if err != nil {
			panic("crypt: " + err.Error()) // refuses only a wrong length
		}
		s.x25519 = key
	})
	return s.x25519
}

const redacted = "[redacted private key]"

func (PrivateKey) String() string { return redacted }

// GoString hides the key from %#v.
func (PrivateKey) GoString() string { return redacted }

// Format hides the key from every verb of package fmt.
func (PrivateKey) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// LogValue hides the key from package log/slog.
func (PrivateKey) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText hides the key from encoders of text; it cannot be read back.
func (PrivateKey) MarshalText() ([]byte, error) { return []byte(redacted), nil }
