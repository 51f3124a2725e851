package oprf

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/cloudflare/circl/group"
	"github.com/cloudflare/circl/oprf"
)

// Sizes in bytes.
const (
	SeedSize    = 32
	ElementSize = 32
	OutputSize  = 64

	// MaxInput is the longest input: its length is hashed as 16 bits.
	MaxInput = 1<<16 - 1
)

// keyInfo tells keys that unlock xzibits from what else might grow from a seed.
const keyInfo = "CMTP-1 unlock"

// Errors of the exchange.
var (
	// ErrElement says that the other side sent no element of the group, one that is
	// not in its canonical encoding, or the identity.
	ErrElement = errors.New("not a usable ristretto255 element")

	// ErrSeed says that a seed has the wrong length.
	ErrSeed = errors.New("not a seed of an OPRF key")

	// ErrInput says that an input is longer than MaxInput.
	ErrInput = errors.New("the OPRF input is too long")
)

// suite is what this package knows, and the only one.
var suite = oprf.SuiteRistretto255

// An Element is a member of ristretto255 as it stands on the wire (RFC 9496
// section 4.3). Any 32 bytes are one; only who decodes it says whether it is usable.
type Element [ElementSize]byte

// decode wraps nothing but ErrElement.
func (e Element) decode() (group.Element, error) {
	p := suite.Group().NewElement()
	if err := p.UnmarshalBinary(e[:]); err != nil || p.IsIdentity() {
		return nil, ErrElement
	}
	return p, nil
}

func encode(p group.Element) (Element, error) {
	b, err := p.MarshalBinaryCompress()
	if err != nil {
		return Element{}, fmt.Errorf("encoding an element: %w", err)
	}
	return Element(b), nil
}

// A Key is the server's half: the key of one user. However it is printed, only
// the word redacted comes out. It is safe for concurrent use.
type Key struct {
	server func() *oprf.Server // behind a function, as in crypt.PrivateKey
}

// NewSeed returns a new seed from the system's random source.
func NewSeed() (seed [SeedSize]byte, err error) {
	if _, err := rand.Read(seed[:]); err != nil {
		return seed, fmt.Errorf("making an OPRF seed: %w", err)
	}
	return seed, nil
}

// KeyFromSeed returns the key that grows from a seed of 32 bytes: DeriveKeyPair of
// RFC 9497 section 3.2.1 with the info "CMTP-1 unlock". It wraps ErrSeed. The key
// is circl's, which offers no way to overwrite it.
func KeyFromSeed(seed []byte) (*Key, error) { return keyFromSeed(seed, keyInfo) }

func keyFromSeed(seed []byte, info string) (*Key, error) {
	if len(seed) != SeedSize {
		return nil, fmt.Errorf("%w: %d bytes, want %d", ErrSeed, len(seed), SeedSize)
	}
	k, err := oprf.DeriveKey(suite, oprf.BaseMode, seed, []byte(info))
	if err != nil {
		return nil, fmt.Errorf("deriving an OPRF key: %w", err)
	}
	server := oprf.NewServer(suite, k)
	return &Key{func() *oprf.Server { return &server }}, nil
}

// Evaluate returns a client's blinded element under the key: BlindEvaluate of
// RFC 9497 section 3.3.1. It returns ErrElement for what no honest client sends.
func (k *Key) Evaluate(blinded Element) (Element, error) {
	p, err := blinded.decode()
	if err != nil {
		return Element{}, err
	}
	done, err := k.server().Evaluate(&oprf.EvaluationRequest{Elements: []oprf.Blinded{p}})
	if err != nil {
		return Element{}, fmt.Errorf("evaluating an element: %w", err)
	}
	return encode(done.Elements[0])
}

// A Request is the client's half of one exchange. It holds a secret, the input, and
// prints neither it nor the blind. It is not safe for concurrent use.
type Request struct {
	state func() *request // behind a function, as in crypt.PrivateKey
}

type request struct {
	input []byte
	blind group.Scalar
	data  *oprf.FinalizeData // refers to both
	wiped bool
}

// Blind begins an exchange for an input of at most MaxInput bytes, of which it
// keeps a copy, and returns the element that the server is to evaluate. The blind
// is fresh: no two elements for one input can be told from those for two. It wraps
// ErrInput. Wipe the request when done.
func Blind(input []byte) (*Request, Element, error) {
	return blindWith(input, suite.Group().RandomNonZeroScalar(rand.Reader))
}

// blindWith blinds with a given scalar, which is used once and never again.
func blindWith(input []byte, blind group.Scalar) (*Request, Element, error) {
	if len(input) > MaxInput {
		return nil, Element{}, fmt.Errorf("%w: %d bytes, at most %d are allowed", ErrInput, len(input), MaxInput)
	}
	s := &request{input: append([]byte(nil), input...), blind: blind}
	data, out, err := oprf.NewClient(suite).DeterministicBlind([][]byte{s.input}, []oprf.Blind{blind})
	if err != nil {
		s.wipe()
		return nil, Element{}, fmt.Errorf("blinding an input: %w", err)
	}
	s.data = data
	e, err := encode(out.Elements[0])
	if err != nil {
		s.wipe()
		return nil, Element{}, err
	}
	return &Request{func() *request { return s }}, e, nil
}

// Finalize returns the function's output, 64 bytes, from what the server made of
// the blinded element (RFC 9497 section 3.3.1). It returns ErrElement for what no
// honest server sends. What it returns is a secret: for the caller to wipe.
func (r *Request) Finalize(evaluated Element) ([]byte, error) {
	s := r.state()
	if s.wiped {
		panic("oprf: a wiped request was used") // it would give the output of zeros
	}
	p, err := evaluated.decode()
	if err != nil {
		return nil, err
	}
	out, err := oprf.NewClient(suite).Finalize(s.data, &oprf.Evaluation{Elements: []oprf.Evaluated{p}})
	if err != nil {
		return nil, fmt.Errorf("taking off the blind: %w", err)
	}
	return out[0], nil
}

// Wipe overwrites input and blind; to finalize afterwards panics. Copies that circl
// made for itself are left to the garbage collector.
func (r *Request) Wipe() { r.state().wipe() }

func (s *request) wipe() {
	clear(s.input)
	s.blind.SetUint64(0)
	s.wiped = true
}

const (
	redactedKey     = "[redacted OPRF key]"
	redactedRequest = "[redacted OPRF request]"
)

func (Key) String() string     { return redactedKey }
func (Request) String() string { return redactedRequest }

// GoString hides the key from %#v.
func (Key) GoString() string { return redactedKey }

// GoString hides the request from %#v.
func (Request) GoString() string { return redactedRequest }

// Format hides the key from every verb of package fmt.
func (Key) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redactedKey) }

// Format hides the request from every verb of package fmt.
func (Request) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redactedRequest) }

// LogValue hides the key from package log/slog.
func (Key) LogValue() slog.Value { return slog.StringValue(redactedKey) }

// LogValue hides the request from package log/slog.
func (Request) LogValue() slog.Value { return slog.StringValue(redactedRequest) }

// MarshalText hides the key from encoders of text; it cannot be read back.
func (Key) MarshalText() ([]byte, error) { return []byte(redactedKey), nil }

// MarshalText hides the request from encoders of text.
func (Request) MarshalText() ([]byte, error) { return []byte(redactedRequest), nil }

// Ask returns the function's value for an input: it blinds the input, has it evaluated,
// and finishes. The caller wipes what it returns.
func Ask(input []byte, evaluate func(Element) (Element, error)) ([]byte, error) {
	request, blinded, err := Blind(input)
	if err != nil {
		return nil, err
	}
	defer request.Wipe()
	evaluated, err := evaluate(blinded)
	if err != nil {
		return nil, err
	}
	return request.Finalize(evaluated)
}
