package xzibit

import (
	"encoding/binary"
	"fmt"

	"cmtpd/internal/oprf"
)

// Unlocked is the first version of xzibits that opens with the server's help.
const Unlocked = 3

// UnlockInput returns the input that the password is to the server's oblivious
// function (package oprf), whose output version 3 needs: the password in Unicode NFC,
// a copy for the caller to wipe. It wraps ErrEmptyPassword and oprf.ErrInput.
func UnlockInput(password []byte) ([]byte, error) {
	if len(password) == 0 {
		return nil, ErrEmptyPassword
	}
	nfc := normal(password)
	if len(nfc) > oprf.MaxInput {
		clear(nfc)
		return nil, fmt.Errorf("the password: %w: %d bytes, at most %d are allowed", oprf.ErrInput, len(nfc), oprf.MaxInput)
	}
	return nfc, nil
}

// secret3 returns what Argon2id takes for a password in version 3, for the caller to
// wipe. The length stands in front so that where the password ends is never a guess.
func secret3(password, output []byte) ([]byte, error) {
	if len(output) != oprf.OutputSize {
		return nil, fmt.Errorf("%w: %d bytes, want %d", ErrOutput, len(output), oprf.OutputSize)
	}
	nfc, err := UnlockInput(password)
	if err != nil {
		return nil, err
	}
	defer clear(nfc)
	secret := make([]byte, 0, 4+len(nfc)+len(output))
	secret = binary.BigEndian.AppendUint32(secret, uint32(len(nfc)))
	secret = append(secret, nfc...)
	return append(secret, output...), nil
}

// SealUnlocked returns k as an xzibit of version 3, as Seal does of version 2. Output
// is what the server's function made of UnlockInput(password): without it, and so
// without asking that server, the password opens nothing. It wraps what Seal does,
// oprf.ErrInput and ErrOutput.
func SealUnlocked(k *Keyring, addr string, password, output []byte, p Params) ([]byte, error) {
	secret, err := secret3(password, output)
	if err != nil {
		return nil, err
	}
	defer clear(secret)
	plaintext, err := k.append(nil)
	defer clear(plaintext)
	if err != nil {
		return nil, err
	}
	return sealUnder(secret, 3, plaintext, addr, p)
}

// OpenUnlocked returns the keyring in x, an xzibit of version 3, as Open does of the
// others. It wraps what Check does, ErrVersion for the others too, ErrEmptyPassword,
// oprf.ErrInput, ErrOutput, and ErrPassword, which also says that the output is not
// the one that x was sealed with.
func OpenUnlocked(x []byte, addr string, password, output []byte) (*Keyring, error) {
	e, err := parse(x)
	if err != nil {
		return nil, err
	}
	if e.version != 3 {
		return nil, fmt.Errorf("%w: %d does without the server's help", ErrVersion, e.version)
	}
	b, err := parseBody2(e.body)
	if err != nil {
		return nil, err
	}
	secret, err := secret3(password, output)
	if err != nil {
		return nil, err
	}
	defer clear(secret)
	return openUnder(secret, e, b, x, addr)
}
