// Package recovery turns the words that a user keeps on paper into the key that opens
// a recovery copy (package xzibit, protocol.md section 8.4).
//
// It guarantees that words which differ from what was printed by more than case,
// white space and Unicode form give an error and never another key, but for one
// mistake in sixteen that the checksum of BIP-39 does not see. A secret never prints
// itself: only Words shows it.
package recovery

import (
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"github.com/cosmos/go-bip39"
	"golang.org/x/text/unicode/norm"

	"cmtpd/internal/crypt"
)

const (
	// EntropySize is how many bytes all the words stand for.
	EntropySize = 16

	// WordCount is how many words those bytes make, with 4 bits of checksum.
	WordCount = 12

	// maxText bounds what is looked at, in bytes. The longest twelve words have 107.
	maxText = 4096

	label = "CMTP-1 recovery key\x00"
)

// Errors of reading words. None of them shows a word: what was typed may be a password.
var (
	// ErrCount says that there are not twelve words.
	ErrCount = errors.New("a recovery key has 12 words")

	// ErrWord says that a word is not in the list; the error says which one.
	ErrWord = errors.New("not a word of recovery keys")

	// ErrChecksum says that all words are known and do not belong together.
	ErrChecksum = errors.New("these 12 words are no recovery key: one of them is another word, or their order is wrong")
)

// A Secret is what the words stand for. However it is printed, only the word redacted
// comes out.
type Secret struct {
	state func() *state // behind a function, as in crypt.PrivateKey
}

type state struct {
	entropy [EntropySize]byte
	wiped   bool
}

func fromEntropy(e [EntropySize]byte) *Secret {
	s := &state{entropy: e}
	return &Secret{func() *state { return s }}
}

// entropy returns the secret. Of a wiped one everybody knows the words.
func (s *Secret) entropy() []byte {
	if s.state().wiped {
		panic("recovery: a wiped secret was used")
	}
	return s.state().entropy[:]
}

// New returns a new secret from the system's random source.
func New() (*Secret, error) {
	var e [EntropySize]byte
	if _, err := rand.Read(e[:]); err != nil {
		return nil, fmt.Errorf("making a recovery key: %w", err)
	}
	return fromEntropy(e), nil
}

// Parse returns the secret that words stand for, in any case and with any white space
// between them. It wraps ErrCount, ErrWord or ErrChecksum.
func Parse(words string) (*Secret, error) {
	if len(words) > maxText {
		return nil, fmt.Errorf("%w: %d bytes are too many", ErrCount, len(words))
	}
	list := strings.Fields(strings.ToLower(norm.NFKD.String(words)))
	if len(list) != WordCount {
		return nil, fmt.Errorf("%w, not %d", ErrCount, len(list))
	}
	for i, w := range list {
		if _, known := bip39.ReverseWordMap[w]; !known {
			return nil, fmt.Errorf("word %d: %w", i+1, ErrWord)
		}
	}
	b, err := bip39.MnemonicToByteArray(strings.Join(list, " "))
	if err != nil {
		return nil, ErrChecksum // all else was checked
	}
	defer clear(b)
	var e [EntropySize]byte
	for i := range e { // 132 bits, entropy and checksum, at the end of 17 bytes
		e[i] = b[i]<<4 | b[i+1]>>4
	}
	return fromEntropy(e), nil
}

// Spell returns the words of bytes that are no secret, as two people compare them.
func Spell(b [EntropySize]byte) string { return fromEntropy(b).Words() }

// Words returns the twelve words, in lower case, with a space between them.
func (s *Secret) Words() string {
	words, err := bip39.NewMnemonic(s.entropy())
	if err != nil {
		panic("recovery: " + err.Error()) // refuses only a wrong length
	}
	return words
}

// Key returns the key that copies are sealed to and opened with.
func (s *Secret) Key() (*crypt.PrivateKey, error) {
	b := append([]byte(label), s.entropy()...)
	defer clear(b)
	seed := sha256.Sum256(b)
	defer clear(seed[:])
	return crypt.PrivateKeyFromSeed(seed[:])
}

// Wipe overwrites the secret, and every use panics afterwards. The words are strings:
// they are left to the garbage collector.
func (s *Secret) Wipe() {
	clear(s.state().entropy[:])
	s.state().wiped = true
}

const redacted = "[redacted recovery key]"

func (Secret) String() string { return redacted }

// GoString hides the secret from %#v.
func (Secret) GoString() string { return redacted }

// Format hides the secret from every verb of package fmt.
func (Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// LogValue hides the secret from package log/slog.
func (Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText hides the secret from encoders of text; it cannot be read back.
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }
