package xzibit

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"golang.org/x/crypto/chacha20"
	"golang.org/x/crypto/poly1305" //lint:ignore SA1019 the original ChaCha20-Poly1305 exists nowhere else
	"golang.org/x/crypto/scrypt"

	"cmtpd/internal/crypt"
)

const (
	plaintextSize1 = crypt.PublicKeySize + crypt.PrivateKeySize
	bodySize1      = plaintextSize1 + poly1305.TagSize
)

// open1 tries the password's bytes as they are, as the C tool took them, and then
// its normal form: which of the two the user's terminal once sent is unknown.
func open1(e envelope, password []byte) (*Keyring, error) {
	plaintext, err := decrypt1(e, password)
	if err != nil {
		nfc := normal(password)
		defer clear(nfc)
		if !bytes.Equal(nfc, password) {
			plaintext, err = decrypt1(e, nfc)
		}
	}
	if err != nil {
		return nil, err
	}
	defer clear(plaintext)
	key, err := crypt.ParsePrivateKey(plaintext[crypt.PublicKeySize:])
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	if key.Public() != crypt.PublicKey(plaintext[:crypt.PublicKeySize]) {
		key.Wipe()
		return nil, fmt.Errorf("%w: %w", ErrFormat, crypt.ErrKeyHalves)
	}
	return &Keyring{Keys: []KeyPair{{Key: key}}}, nil
}

// decrypt1 is crypto_aead_chacha20poly1305_decrypt, not its _ietf sister, under
// crypto_pwhash_scryptsalsa208sha256 at its INTERACTIVE cost: 16 MiB, once.
func decrypt1(e envelope, password []byte) ([]byte, error) {
	key, err := scrypt.Key(password, e.salt, 16384, 8, 1, chacha20.KeySize)
	if err != nil {
		return nil, fmt.Errorf("deriving a key: %w", err)
	}
	defer clear(key)
	// The original has a counter of 64 bits and a nonce of 64. Up to 256 GiB the
	// upper half of its counter is zero, and stands where the IETF nonce begins.
	nonce := append(make([]byte, 4, chacha20.NonceSize), e.salt[:8]...)
	cipher, err := chacha20.NewUnauthenticatedCipher(key, nonce)
	if err != nil {
		return nil, fmt.Errorf("preparing a cipher: %w", err)
	}
	var macKey [32]byte
	defer clear(macKey[:])
	cipher.XORKeyStream(macKey[:], macKey[:])
	cipher.SetCounter(1)

	ciphertext, tag := e.body[:plaintextSize1], e.body[plaintextSize1:]
	authentic := make([]byte, 8, 8+plaintextSize1+8) // no associated data: its length
	authentic = append(authentic, ciphertext...)
	authentic = binary.LittleEndian.AppendUint64(authentic, plaintextSize1)
	if !poly1305.Verify((*[poly1305.TagSize]byte)(tag), authentic, &macKey) {
		return nil, ErrPassword
	}
	plaintext := make([]byte, plaintextSize1)
	cipher.XORKeyStream(plaintext, ciphertext)
	return plaintext, nil
}
