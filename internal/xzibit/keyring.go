package xzibit

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"time"

	"cmtpd/internal/crypt"
)

// A KeyPair is a key that the user has or had.
type KeyPair struct {
	Key  *crypt.PrivateKey
	Made time.Time // to the second; zero when unknown, as in all of version 1
}

// A Keyring is what a user must not lose.
type Keyring struct {
	Keys   []KeyPair       // at least one; the first is the one in use, the rest open old mail
	Server crypt.PublicKey // the home server's; zero when unknown

	// Recovery is the key that recovery copies are sealed to, and Proof shows that who
	// sealed one knows this keyring. SetRecovery sets both; both are zero when there is
	// no such key.
	Recovery crypt.PublicKey
	Proof    Proof

	Extra []Extension // kept for whoever knows them, by ascending type; none that is known here
}

// An Extension is a part of a keyring that this version does not know. It may be a
// secret, so it does not print its data.
type Extension struct {
	Type uint32
	Data []byte
}

// Format prints the type and the length.
func (e Extension) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, e.summary()) }

// MarshalText hides the data from encoders of text.
func (e Extension) MarshalText() ([]byte, error) { return []byte(e.summary()), nil }

func (e Extension) summary() string {
	return fmt.Sprintf("[extension %d, %d bytes]", e.Type, len(e.Data))
}

// A Proof is a secret that the keyring shares with the secret recovery key. It does
// not print itself.
type Proof [sha256.Size]byte

const redactedProof = "[redacted proof]"

// Format hides the proof from every verb of package fmt.
func (Proof) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redactedProof) }

// MarshalText hides the proof from encoders of text.
func (Proof) MarshalText() ([]byte, error) { return []byte(redactedProof), nil }

// newProof derives the proof that belongs to a recovery key.
func newProof(key *crypt.PrivateKey) Proof {
	secret := key.Bytes()
	defer clear(secret)
	b := append([]byte("CMTP-1 recovery proof\x00"), secret[:crypt.SeedSize]...)
	defer clear(b)
	return sha256.Sum256(b)
}

// SetRecovery makes key the one that recovery copies of k are sealed to. Of the secret
// half no more is kept than the proof.
func (k *Keyring) SetRecovery(key *crypt.PrivateKey) {
	k.Recovery, k.Proof = key.Public(), newProof(key)
}

// Wipe overwrites every secret of the keyring, which is of no use afterwards.
func (k *Keyring) Wipe() {
	for _, p := range k.Keys {
		p.Key.Wipe()
	}
	for _, e := range k.Extra {
		clear(e.Data)
	}
	clear(k.Proof[:])
}

// Layout of the plaintext; see the package comment.
const (
	pairSize   = 8 + crypt.PrivateKeySize
	minKeyring = crypt.PublicKeySize + 4 + pairSize

	// The types of the extensions that Keyring.Recovery and Keyring.Proof stand for.
	recoveryType = 1
	proofType    = 2

	maxMade = 253402300799 // the end of the year 9999, where other formats of time end
)

// size is the length of k's encoding in bytes.
func (k *Keyring) size() int {
	n := crypt.PublicKeySize + 4 + len(k.Keys)*pairSize
	for _, e := range k.Extra {
		n += 8 + len(e.Data)
	}
	if k.Recovery != (crypt.PublicKey{}) {
		n += 8 + crypt.PublicKeySize + 8 + len(k.Proof)
	}
	return n
}

// extensions returns Extra and what the fields stand for, by ascending type. It wraps
// ErrFormat.
func (k *Keyring) extensions() ([]Extension, error) {
	at := len(k.Extra)
	for i, e := range slices.Backward(k.Extra) {
		if i > 0 && e.Type <= k.Extra[i-1].Type {
			return nil, fmt.Errorf("%w: the extensions do not ascend", ErrFormat)
		}
		if e.Type == recoveryType || e.Type == proofType {
			return nil, fmt.Errorf("%w: extension %d among those that are not known", ErrFormat, e.Type)
		}
		if e.Type > proofType {
			at = i
		}
	}
	if err := k.checkRecovery(); err != nil || k.Recovery == (crypt.PublicKey{}) {
		return k.Extra, err
	}
	return slices.Insert(slices.Clone(k.Extra), at, Extension{recoveryType, k.Recovery[:]}, Extension{proofType, k.Proof[:]}), nil
}

// checkRecovery wraps ErrFormat.
func (k *Keyring) checkRecovery() error {
	if (k.Recovery == crypt.PublicKey{}) != (k.Proof == Proof{}) {
		return fmt.Errorf("%w: a recovery key and its proof go together", ErrFormat)
	}
	if k.Recovery == (crypt.PublicKey{}) {
		return nil
	}
	if _, err := crypt.ParsePublicKey(k.Recovery[:]); err != nil {
		return fmt.Errorf("%w: the recovery key: %w", ErrFormat, err)
	}
	return nil
}

// Encode returns the keyring in the clear, as it stands in versions 2 and 3, for who
// keeps it where secrets are safe without a password, and for the caller to wipe. It
// wraps ErrFormat.
func (k *Keyring) Encode() ([]byte, error) { return k.append(nil) }

// DecodeKeyring reads what Encode returned. It wraps ErrFormat.
func DecodeKeyring(b []byte) (*Keyring, error) {
	if len(b) > maxKeyring {
		return nil, fmt.Errorf("%w: a keyring of %d bytes, at most %d are allowed", ErrFormat, len(b), maxKeyring)
	}
	return parseKeyring(b)
}

// append appends the plaintext of version 2. It wraps ErrFormat.
func (k *Keyring) append(dst []byte) ([]byte, error) {
	if len(k.Keys) == 0 {
		return dst, fmt.Errorf("%w: a keyring without a key", ErrFormat)
	}
	extensions, err := k.extensions()
	if err != nil {
		return dst, err
	}
	n := k.size()
	if n > maxKeyring {
		return dst, fmt.Errorf("%w: a keyring of %d bytes, at most %d are allowed", ErrFormat, n, maxKeyring)
	}
	if cap(dst)-len(dst) < n { // once, so that no outgrown buffer keeps secrets
		dst = append(make([]byte, 0, len(dst)+n), dst...)
	}
	dst = append(dst, k.Server[:]...)
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(k.Keys)))
	for _, p := range k.Keys {
		made, err := seconds(p.Made)
		if err != nil {
			return dst, err
		}
		dst = binary.BigEndian.AppendUint64(dst, made)
		secret := p.Key.Bytes()
		dst = append(dst, secret...)
		clear(secret)
	}
	for _, e := range extensions {
		dst = binary.BigEndian.AppendUint32(dst, e.Type)
		dst = binary.BigEndian.AppendUint32(dst, uint32(len(e.Data)))
		dst = append(dst, e.Data...)
	}
	return dst, nil
}

func seconds(made time.Time) (uint64, error) {
	if made.IsZero() {
		return 0, nil
	}
	s := made.Unix()
	if s < 1 || s > maxMade {
		return 0, fmt.Errorf("%w: a key made at Unix time %d", ErrFormat, s)
	}
	return uint64(s), nil
}

// parseKeyring reads what append wrote and copies all that it keeps. It wraps
// ErrFormat.
func parseKeyring(b []byte) (k *Keyring, err error) {
	if len(b) < minKeyring {
		return nil, fmt.Errorf("%w: a keyring of %d bytes", ErrFormat, len(b))
	}
	k = &Keyring{Server: crypt.PublicKey(b[:crypt.PublicKeySize])}
	defer func() {
		if err != nil {
			k.Wipe()
			k = nil
		}
	}()
	count := uint64(binary.BigEndian.Uint32(b[crypt.PublicKeySize:]))
	b = b[crypt.PublicKeySize+4:]
	if count == 0 || count > uint64(len(b)/pairSize) {
		return k, fmt.Errorf("%w: a keyring that counts %d keys in %d bytes", ErrFormat, count, len(b))
	}
	for range count {
		p, err := parsePair(b[:pairSize])
		if err != nil {
			return k, err
		}
		k.Keys = append(k.Keys, p)
		b = b[pairSize:]
	}
	return k, k.parseExtensions(b)
}

// parseExtensions reads extensions to the end of b.
func (k *Keyring) parseExtensions(b []byte) error {
	for last := int64(-1); len(b) > 0; {
		e, n, err := parseExtension(b)
		if err != nil {
			return err
		}
		if int64(e.Type) <= last {
			return fmt.Errorf("%w: the extensions do not ascend", ErrFormat)
		}
		last, b = int64(e.Type), b[n:]
		switch e.Type {
		case recoveryType:
			err = fill(k.Recovery[:], e.Data)
		case proofType:
			err = fill(k.Proof[:], e.Data)
		default:
			k.Extra = append(k.Extra, e)
		}
		if err != nil {
			return err
		}
	}
	return k.checkRecovery()
}

// fill copies an extension's data to the field that it stands for. A field of zeros says
// that there is no extension.
func fill(field, data []byte) error {
	defer clear(data)
	if len(data) != len(field) || bytes.Equal(data, make([]byte, len(data))) {
		return fmt.Errorf("%w: what is kept for recovery has %d bytes or is zero", ErrFormat, len(data))
	}
	copy(field, data)
	return nil
}

func parsePair(b []byte) (KeyPair, error) {
	made := binary.BigEndian.Uint64(b)
	if made > maxMade {
		return KeyPair{}, fmt.Errorf("%w: a key made at Unix time %d", ErrFormat, made)
	}
	key, err := crypt.ParsePrivateKey(b[8:])
	if err != nil {
		return KeyPair{}, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	p := KeyPair{Key: key}
	if made != 0 {
		p.Made = time.Unix(int64(made), 0).UTC()
	}
	return p, nil
}

// parseExtension returns the extension that b begins with, and its length in b.
func parseExtension(b []byte) (Extension, int, error) {
	if len(b) < 8 {
		return Extension{}, 0, fmt.Errorf("%w: %d bytes behind the last extension", ErrFormat, len(b))
	}
	n := uint64(binary.BigEndian.Uint32(b[4:]))
	if n > uint64(len(b)-8) {
		return Extension{}, 0, fmt.Errorf("%w: an extension of %d bytes in %d", ErrFormat, n, len(b)-8)
	}
	return Extension{binary.BigEndian.Uint32(b), append([]byte(nil), b[8:8+n]...)}, int(8 + n), nil
}
