package shorebird

import (
	"bytes"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"unicode/utf8"

	"golang.org/x/crypto/nacl/secretbox"

	"cmtpd/internal/cache"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/crypt"
)

// keywordInfo tells the key of keywords from all others that are derived from the same seed
// (docs/protocol.md section 29.3).
const keywordInfo = "CMTP-1 keywords"

const keywordNonce = 24 // bytes

var errWordsTooLong = errors.New("the words of one message are too long together")

// keywordKey is the key of one message's keywords: those of another message do not open with it.
func keywordKey(k *crypt.PrivateKey, message cache.Digest) (key [32]byte, err error) {
	secret := k.Bytes()
	defer clear(secret)
	b, err := hkdf.Key(sha256.New, secret[:crypt.SeedSize], message[:], keywordInfo, len(key))
	if err != nil {
		return key, fmt.Errorf("deriving the key of keywords: %w", err)
	}
	defer clear(b)
	return [32]byte(b), nil
}

// plainWords is what is sealed of keywords, where they fit.
func plainWords(words []string) (plain []byte, err error) {
	for _, w := range words {
		plain = append(append(plain, w...), 0)
	}
	if n := keywordNonce + secretbox.Overhead + len(plain); n > cmtp.MaxKeywords {
		err = fmt.Errorf("%w: by %d bytes", errWordsTooLong, n-cmtp.MaxKeywords)
	}
	return plain, err
}

// sealWords seals the keywords of a message with the newest of the keys, which stands first.
func sealWords(message cache.Digest, words []string, keys []*crypt.PrivateKey) ([]byte, error) {
	plain, err := plainWords(words)
	if err != nil {
		return nil, err
	}
	key, err := keywordKey(keys[0], message)
	if err != nil {
		return nil, err
	}
	defer clear(key[:])
	var nonce [keywordNonce]byte
	if _, err := rand.Read(nonce[:]); err != nil {
		return nil, fmt.Errorf("sealing keywords: %w", err)
	}
	return secretbox.Seal(nonce[:], plain, &nonce, &key), nil
}

// openWords opens the keywords of a message with whichever of the keys fits; none is no words.
func openWords(message cache.Digest, sealed []byte, keys []*crypt.PrivateKey) (words []string, ok bool) {
	if len(sealed) == 0 {
		return nil, true
	}
	if len(sealed) < keywordNonce {
		return nil, false
	}
	for _, k := range keys {
		key, err := keywordKey(k, message)
		if err != nil {
			return nil, false
		}
		plain, ok := secretbox.Open(nil, sealed[keywordNonce:], (*[keywordNonce]byte)(sealed), &key)
		clear(key[:])
		if ok {
			return parseWords(plain)
		}
	}
	return nil, false
}

// parseWords reads words, each with its NUL.
func parseWords(plain []byte) (words []string, ok bool) {
	for len(plain) > 0 {
		w, rest, ended := bytes.Cut(plain, []byte{0})
		if !ended || len(w) == 0 || !utf8.Valid(w) {
			return nil, false
		}
		words, plain = append(words, string(w)), rest
	}
	return words, true
}
