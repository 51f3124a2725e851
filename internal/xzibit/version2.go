package xzibit

import (
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"fmt"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/chacha20poly1305"
	"golang.org/x/text/unicode/norm"
)

// Params is what deriving a key from a password costs: Argon2id (RFC 9106).
type Params struct {
	Time      uint32 // passes over the memory
	MemoryKiB uint32
	Threads   uint32
}

// DefaultParams returns 3 passes over 64 MiB, the second recommended choice of
// RFC 9106 section 4 but for its threads. One thread, because libsodium knows no
// more, and every client should be able to open what we write.
func DefaultParams() Params { return Params{Time: 3, MemoryKiB: 64 << 10, Threads: 1} }

// LeastParams returns the least that a writer may take, however good the password is:
// 3 passes over 64 MiB (docs/protocol.md section 8.2).
func LeastParams() Params { return Params{Time: 3, MemoryKiB: 64 << 10, Threads: 1} }

// Below reports whether p has fewer passes or less memory than least.
func (p Params) Below(least Params) bool {
	return p.Time < least.Time || p.MemoryKiB < least.MemoryKiB
}

// What a reader is ready to spend. The parameters come from whoever answered: these
// bounds are about seven seconds of one core of 2021.
const (
	maxTime      = 16
	maxMemoryKiB = 1 << 20
	maxThreads   = 16
	maxWorkKiB   = 4 << 20 // passes times memory

	minMemoryPerThread = 8 // RFC 9106 section 3.1
)

const (
	paramsSize = 12
	nonceSize  = chacha20poly1305.NonceSizeX
	prefixSize = headerSize + paramsSize + nonceSize // all before the ciphertext
	minBody2   = paramsSize + nonceSize + minKeyring + chacha20poly1305.Overhead
	maxKeyring = maxBody - paramsSize - nonceSize - chacha20poly1305.Overhead

	maxAddress = 255 + 1 + 255 // account@domain (protocol.md, introduction)
)

// check wraps ErrParams when p is out of bounds.
func (p Params) check() error {
	switch {
	case p.Time < 1 || p.Time > maxTime:
		return fmt.Errorf("%w: %d passes", ErrParams, p.Time)
	case p.Threads < 1 || p.Threads > maxThreads:
		return fmt.Errorf("%w: %d threads", ErrParams, p.Threads)
	case p.MemoryKiB < minMemoryPerThread*p.Threads || p.MemoryKiB > maxMemoryKiB:
		return fmt.Errorf("%w: %d KiB of memory", ErrParams, p.MemoryKiB)
	case uint64(p.Time)*uint64(p.MemoryKiB) > maxWorkKiB:
		return fmt.Errorf("%w: %d passes over %d KiB", ErrParams, p.Time, p.MemoryKiB)
	}
	return nil
}

// body2 is what follows the length in versions 2 and 3, taken apart.
type body2 struct {
	params     Params
	nonce      []byte
	ciphertext []byte // and tag
}

func parseBody2(b []byte) (body2, error) {
	p := Params{
		Time:      binary.BigEndian.Uint32(b),
		MemoryKiB: binary.BigEndian.Uint32(b[4:]),
		Threads:   binary.BigEndian.Uint32(b[8:]),
	}
	if err := p.check(); err != nil {
		return body2{}, err
	}
	return body2{p, b[paramsSize:][:nonceSize], b[paramsSize+nonceSize:]}, nil
}

func (b *body2) append(dst []byte) []byte {
	dst = binary.BigEndian.AppendUint32(dst, b.params.Time)
	dst = binary.BigEndian.AppendUint32(dst, b.params.MemoryKiB)
	dst = binary.BigEndian.AppendUint32(dst, b.params.Threads)
	dst = append(dst, b.nonce...)
	return append(dst, b.ciphertext...)
}

// Seal returns k as an xzibit of version 2 for the address addr, account@domain in
// its normal form. Salt and nonce are fresh. It wraps ErrEmptyPassword, ErrAddress,
// ErrParams, or ErrFormat when k is no keyring that Open would take.
func Seal(k *Keyring, addr string, password []byte, p Params) ([]byte, error) {
	if len(password) == 0 {
		return nil, ErrEmptyPassword
	}
	plaintext, err := k.append(nil)
	defer clear(plaintext)
	if err != nil {
		return nil, err
	}
	return sealPlaintext(plaintext, addr, password, p)
}

func sealPlaintext(plaintext []byte, addr string, password []byte, p Params) ([]byte, error) {
	nfc := normal(password)
	defer clear(nfc)
	return sealUnder(nfc, 2, plaintext, addr, p)
}

// sealUnder seals under what a version makes of the password.
func sealUnder(secret []byte, version uint32, plaintext []byte, addr string, p Params) ([]byte, error) {
	fresh := make([]byte, saltSize+nonceSize)
	if _, err := rand.Read(fresh); err != nil {
		return nil, fmt.Errorf("making a salt: %w", err)
	}
	return sealWith(fresh, secret, version, plaintext, addr, p)
}

// sealWith seals with a given salt and nonce, which are used once and never again.
func sealWith(fresh, secret []byte, version uint32, plaintext []byte, addr string, p Params) ([]byte, error) {
	if len(addr) == 0 || len(addr) > maxAddress {
		return nil, ErrAddress
	}
	if err := p.check(); err != nil {
		return nil, err
	}
	aead, err := newCipher(p, fresh[:saltSize], secret)
	if err != nil {
		return nil, err
	}
	// The header counts the ciphertext, so zeros keep its place until it is made.
	b := body2{p, fresh[saltSize:], make([]byte, len(plaintext)+aead.Overhead())}
	e := envelope{version: version, salt: fresh[:saltSize], body: b.append(nil)}
	x := e.append(nil)
	aead.Seal(x[:prefixSize], b.nonce, plaintext, associated(x, addr))
	return x, nil
}

func open2(e envelope, x []byte, addr string, password []byte) (*Keyring, error) {
	b, err := parseBody2(e.body)
	if err != nil {
		return nil, err
	}
	nfc := normal(password)
	defer clear(nfc)
	return openUnder(nfc, e, b, x, addr)
}

// openUnder opens with what a version makes of the password.
func openUnder(secret []byte, e envelope, b body2, x []byte, addr string) (*Keyring, error) {
	aead, err := newCipher(b.params, e.salt, secret)
	if err != nil {
		return nil, err
	}
	plaintext, err := aead.Open(nil, b.nonce, b.ciphertext, associated(x, addr))
	if err != nil {
		return nil, ErrPassword
	}
	defer clear(plaintext)
	return parseKeyring(plaintext)
}

// newCipher derives the key and returns the cipher that holds it. The parameters
// must have been checked.
func newCipher(p Params, salt, secret []byte) (cipher.AEAD, error) {
	key := argon2.IDKey(secret, salt, p.Time, p.MemoryKiB, uint8(p.Threads), chacha20poly1305.KeySize)
	defer clear(key)
	aead, err := chacha20poly1305.NewX(key)
	if err != nil {
		return nil, fmt.Errorf("preparing a cipher: %w", err)
	}
	return aead, nil
}

// normal returns a copy of the password in NFC, for the caller to wipe. norm's Bytes
// would return the caller's own bytes where nothing is to be changed.
func normal(password []byte) []byte { return norm.NFC.Append(nil, password...) }

// associated returns what the tag of versions 2 and 3 covers beside the ciphertext.
func associated(x []byte, addr string) []byte {
	ad := append(make([]byte, 0, prefixSize+4+len(addr)), x[:prefixSize]...)
	ad = binary.BigEndian.AppendUint32(ad, uint32(len(addr)))
	return append(ad, addr...)
}
