package cmtp

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"

	"cmtpd/internal/crypt"
)

// The signed words that MAIL is answered with (docs/protocol.md, Replies).
const (
	Success = "SUCCESS"
	Failure = "FAILURE"
)

// maxStringReply is the longest unsigned reply in bytes, its NUL included.
const maxStringReply = 1024

// KeyVersion is the crypto system that a KEYREQUEST reply names.
const KeyVersion = 1

// failPrefix begins every failure and no version.
const failPrefix = "FAIL"

// ErrFailure is a FAILURE reply: the server refused, and in CMTP 0.01 it cannot
// say why.
var ErrFailure = errors.New("the server answered FAILURE")

// AppendWord appends a signed word, Success or Failure, as a reply.
func AppendWord(dst []byte, word string, sig crypt.Signature) []byte {
	dst = append(dst, word...)
	dst = append(dst, sig[:]...)
	return append(dst, 0)
}

// AppendKey appends the reply to KEYREQUEST: sig covers the key's bytes.
func AppendKey(dst []byte, key crypt.PublicKey, sig crypt.Signature) []byte {
	dst = binary.BigEndian.AppendUint32(dst, KeyVersion)
	dst = append(dst, key[:]...)
	dst = append(dst, sig[:]...)
	return append(dst, 0)
}

// AppendXzibit appends the reply to LOGIN: sig covers the xzibit's bytes.
func AppendXzibit(dst, xzibit []byte, sig crypt.Signature) []byte {
	dst = append(dst, xzibit...)
	dst = append(dst, sig[:]...)
	return append(dst, 0)
}

// AppendString appends an unsigned reply, such as a version string.
func AppendString(dst []byte, s string) []byte { return append(append(dst, s...), 0) }

// ReadWord reads the reply to MAIL. It returns the signature of the word, with
// ErrFailure when the word is Failure. Of what is no such reply it reads no more
// than the word's length.
func ReadWord(r io.Reader) (crypt.Signature, error) {
	var word [len(Success)]byte
	if _, err := io.ReadFull(r, word[:]); err != nil {
		return crypt.Signature{}, fmt.Errorf("reading a reply: %w", cut(err))
	}
	return readSigned(r, string(word[:]))
}

// readSigned reads what follows a word.
func readSigned(r io.Reader, word string) (sig crypt.Signature, err error) {
	if word != Success && word != Failure {
		return sig, fmt.Errorf("%w: %q is neither %s nor %s", ErrReply, word, Success, Failure)
	}
	if sig, err = readSignature(r); err != nil {
		return sig, err
	}
	if word == Failure {
		err = ErrFailure
	}
	return sig, err
}

// readSignature reads the signature and the NUL that end every signed reply.
func readSignature(r io.Reader) (sig crypt.Signature, err error) {
	var b [len(sig) + 1]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return sig, fmt.Errorf("reading a reply's signature: %w", cut(err))
	}
	if b[len(sig)] != 0 {
		return sig, fmt.Errorf("%w: it does not end in a NUL", ErrReply)
	}
	return crypt.Signature(b[:len(sig)]), nil
}

// ReadKey reads the reply to KEYREQUEST: a key and the signature of its bytes.
// With ErrFailure the signature is that of the word Failure.
func ReadKey(r io.Reader) (key crypt.PublicKey, sig crypt.Signature, err error) {
	head, sig, err := readHead(r)
	if err != nil {
		return key, sig, err
	}
	if v := binary.BigEndian.Uint32(head[:]); v != KeyVersion {
		return key, sig, fmt.Errorf("%w: a key of version %d, which this program does not know", ErrReply, v)
	}
	var b [len(key)]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return key, sig, fmt.Errorf("reading a key: %w", cut(err))
	}
	if sig, err = readSignature(r); err != nil {
		return key, sig, err
	}
	return b, sig, nil
}

// ReadXzibit reads the reply to LOGIN. read takes the xzibit itself from a
// stream, as xzibit.ReadFrom does; it knows how long one may be.
func ReadXzibit(r io.Reader, read func(io.Reader) ([]byte, error)) (xzibit []byte, sig crypt.Signature, err error) {
	head, sig, err := readHead(r)
	if err != nil {
		return nil, sig, err
	}
	if xzibit, err = read(io.MultiReader(bytes.NewReader(head[:]), r)); err != nil {
		return nil, sig, fmt.Errorf("reading the sealed keys: %w", cut(err))
	}
	if sig, err = readSignature(r); err != nil {
		return nil, sig, err
	}
	return xzibit, sig, nil
}

// readHead reads a reply's first four bytes. A failure is read to its end.
func readHead(r io.Reader) (head [4]byte, sig crypt.Signature, err error) {
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return head, sig, fmt.Errorf("reading a reply: %w", cut(err))
	}
	if string(head[:]) != failPrefix {
		return head, sig, nil
	}
	var rest [len(Failure) - len(failPrefix)]byte
	if _, err := io.ReadFull(r, rest[:]); err != nil {
		return head, sig, fmt.Errorf("reading a failure: %w", cut(err))
	}
	sig, err = readSigned(r, failPrefix+string(rest[:]))
	return head, sig, err
}

// ReadString reads an unsigned reply of at most 1,024 bytes, its NUL included:
// OHAI's with its first word, NOOP's, HELP's. The error is ErrFailure when it
// begins as a failure does, which no version may; the rest of it is not read.
func ReadString(r io.ByteReader) (string, error) {
	var b []byte
	for len(b) < maxStringReply {
		c, err := r.ReadByte()
		if err != nil {
			return "", fmt.Errorf("reading a reply: %w", cut(err))
		}
		b = append(b, c)
		switch {
		case len(b) == len(failPrefix) && string(b) == failPrefix:
			return "", ErrFailure
		case c == 0:
			b = b[:len(b)-1]
			if !utf8.Valid(b) {
				return "", fmt.Errorf("%w: it is not UTF-8", ErrReply)
			}
			return string(b), nil
		}
	}
	return "", fmt.Errorf("%w: no NUL within %d bytes", ErrReply, maxStringReply)
}
