package xzibit

import (
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"

	"cmtpd/internal/crypt"
)

// Errors of recovery copies.
var (
	// ErrNoRecovery says that a keyring names no recovery key to seal a copy to.
	ErrNoRecovery = errors.New("the keyring has no recovery key")

	// ErrCopy says that a version, a length or a key is not what a recovery copy can
	// have, or that what is sealed in it is no address and keyring.
	ErrCopy = errors.New("not a well-formed recovery copy")

	// ErrRecoveryKey says that a copy is for another recovery key or another address,
	// or was altered.
	ErrRecoveryKey = errors.New("the recovery copy does not open: it is for another recovery key or address, or altered")

	// ErrForged says that a copy was sealed by somebody who does not know the keyring.
	ErrForged = errors.New("the recovery copy is forged: its keyring is not the user's")
)

const (
	copyVersion = 1
	minCopy     = crypt.Overhead + 4 + 1 + minKeyring + 8 + crypt.PublicKeySize + 8 + len(Proof{})
)

// A recoveryCopy is a copy taken apart. The box is a view of it.
type recoveryCopy struct {
	key crypt.PublicKey
	box []byte
}

// parseCopy wraps ErrCopy.
func parseCopy(b []byte) (recoveryCopy, error) {
	if len(b) < headerSize+minCopy || len(b) > MaxSize {
		return recoveryCopy{}, fmt.Errorf("%w: %d bytes", ErrCopy, len(b))
	}
	if v := binary.BigEndian.Uint32(b); v != copyVersion {
		return recoveryCopy{}, fmt.Errorf("%w: version %d is not known here", ErrCopy, v)
	}
	box := b[headerSize:]
	if n := binary.BigEndian.Uint64(b[4+crypt.PublicKeySize:]); n != uint64(len(box)) {
		return recoveryCopy{}, fmt.Errorf("%w: it says that %d bytes follow, %d do", ErrCopy, n, len(box))
	}
	key, err := crypt.ParsePublicKey(b[4 : 4+crypt.PublicKeySize])
	if err != nil {
		return recoveryCopy{}, fmt.Errorf("%w: %w", ErrCopy, err)
	}
	return recoveryCopy{key, box}, nil
}

func (c *recoveryCopy) append(dst []byte) []byte {
	dst = binary.BigEndian.AppendUint32(dst, copyVersion)
	dst = append(dst, c.key[:]...)
	dst = binary.BigEndian.AppendUint64(dst, uint64(len(c.box)))
	return append(dst, c.box...)
}

// CheckCopy judges what can be judged without the secret recovery key: version,
// lengths, and that the key is usable; and returns the key. A server checks before it
// stores. It wraps ErrCopy.
func CheckCopy(b []byte) (crypt.PublicKey, error) {
	c, err := parseCopy(b)
	return c.key, err
}

// SealCopy returns k as a recovery copy for the address addr, account@domain in its
// normal form, sealed to the recovery key that k names. It wraps ErrNoRecovery,
// ErrAddress, or ErrFormat when k is no keyring or too large: a copy holds the address
// too, so it has room for a few hundred bytes less than an xzibit.
func SealCopy(k *Keyring, addr string) ([]byte, error) {
	if k.Recovery == (crypt.PublicKey{}) {
		return nil, ErrNoRecovery
	}
	if len(addr) == 0 || len(addr) > maxAddress {
		return nil, ErrAddress
	}
	plaintext := make([]byte, 0, 4+len(addr)+k.size()) // once: see Keyring.append
	plaintext = binary.BigEndian.AppendUint32(plaintext, uint32(len(addr)))
	plaintext, err := k.append(append(plaintext, addr...))
	defer clear(plaintext)
	if err != nil {
		return nil, err
	}
	if n := len(plaintext) + crypt.Overhead; n > maxBody {
		return nil, fmt.Errorf("%w: a recovery copy of %d bytes, at most %d are allowed", ErrFormat, n, maxBody)
	}
	box, err := crypt.Seal(nil, plaintext, k.Recovery)
	if err != nil {
		return nil, fmt.Errorf("sealing a recovery copy: %w", err)
	}
	c := recoveryCopy{k.Recovery, box}
	return c.append(nil), nil
}

// OpenCopy returns the keyring in a recovery copy. The address must be the one that it
// was sealed for, and the keyring must name the key that opens it, and prove that it was
// not sealed by somebody who knows the public key alone, such as the server that keeps
// it. It wraps ErrCopy, ErrRecoveryKey and ErrForged.
func OpenCopy(b []byte, addr string, key *crypt.PrivateKey) (*Keyring, error) {
	c, err := parseCopy(b)
	if err != nil {
		return nil, err
	}
	if c.key != key.Public() {
		return nil, ErrRecoveryKey
	}
	plaintext, err := key.Open(nil, c.box)
	if err != nil {
		return nil, ErrRecoveryKey
	}
	defer clear(plaintext)
	n := uint64(binary.BigEndian.Uint32(plaintext)) // parseCopy left as much
	if n == 0 || n > maxAddress || n > uint64(len(plaintext)-4) {
		return nil, fmt.Errorf("%w: an address of %d bytes", ErrCopy, n)
	}
	if string(plaintext[4:4+n]) != addr {
		return nil, ErrRecoveryKey
	}
	k, err := parseKeyring(plaintext[4+n:])
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCopy, err)
	}
	if k.Recovery != c.key {
		k.Wipe()
		return nil, fmt.Errorf("%w: the keyring names another recovery key", ErrCopy)
	}
	proof := newProof(key)
	defer clear(proof[:])
	if subtle.ConstantTimeCompare(k.Proof[:], proof[:]) != 1 {
		k.Wipe()
		return nil, ErrForged
	}
	return k, nil
}
