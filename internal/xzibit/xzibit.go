package xzibit

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Sizes in bytes.
const (
	// MaxSize is the longest xzibit that is written or read.
	MaxSize = headerSize + maxBody

	saltSize   = 32
	headerSize = 4 + saltSize + 8
	maxBody    = 64 << 10
)

// Errors of xzibits.
var (
	// ErrVersion says that the version is none of 1, 2 and 3, or not one that the
	// function opens.
	ErrVersion = errors.New("a version of sealed keys that is not known here")

	// ErrLocked says that an xzibit is of version 3, which OpenUnlocked opens with the
	// help of the server that keeps it.
	ErrLocked = errors.New("the sealed keys open only with their server's help")

	// ErrOutput says that what should be the output of the server's function has the
	// wrong length.
	ErrOutput = errors.New("not an output of the server's function")

	// ErrFormat says that a length is wrong, or that an authentic keyring is not
	// laid out as it must be or holds halves of different keys.
	ErrFormat = errors.New("not well-formed sealed keys")

	// ErrParams says that the cost of deriving the key is out of bounds. It is found
	// before anything is spent.
	ErrParams = errors.New("key derivation parameters are out of bounds")

	// ErrPassword says that the password or the address is not the one that the
	// xzibit was sealed with, or that the xzibit was altered: no cipher can tell one
	// from the other. The AES-256-GCM form that the 2016 tools wrote, before they
	// changed the cipher and not the version, ends here too.
	ErrPassword = errors.New("the sealed keys do not open: wrong password, or altered")

	// ErrEmptyPassword says that nothing is sealed under an empty password.
	ErrEmptyPassword = errors.New("the password is empty")

	// ErrAddress says that the address is empty or longer than any address can be.
	ErrAddress = errors.New("not an address to seal a keyring for")
)

// envelope is the outer layout, taken apart. The slices are views of the xzibit.
type envelope struct {
	version uint32
	salt    []byte
	body    []byte // after the length: by version
}

// parse takes x apart and bounds what every version bounds.
func parse(x []byte) (envelope, error) {
	if len(x) < headerSize {
		return envelope{}, fmt.Errorf("%w: %d bytes are too few", ErrFormat, len(x))
	}
	e := envelope{version: binary.BigEndian.Uint32(x), salt: x[4 : 4+saltSize], body: x[headerSize:]}
	n, err := bodyLength(x)
	if err != nil {
		return envelope{}, err
	}
	if n != len(e.body) {
		return envelope{}, fmt.Errorf("%w: it says that %d bytes follow, %d do", ErrFormat, n, len(e.body))
	}
	return e, nil
}

// bodyLength returns how many bytes follow a header, once its version allows as
// many.
func bodyLength(header []byte) (int, error) {
	n := binary.BigEndian.Uint64(header[4+saltSize:])
	var least, most uint64
	switch version := binary.BigEndian.Uint32(header); version {
	case 1:
		least, most = bodySize1, bodySize1
	case 2, 3:
		least, most = minBody2, maxBody
	default:
		return 0, fmt.Errorf("%w: %d", ErrVersion, version)
	}
	if n < least || n > most {
		return 0, fmt.Errorf("%w: it says that %d bytes follow", ErrFormat, n)
	}
	return int(n), nil
}

func (e *envelope) append(dst []byte) []byte {
	dst = binary.BigEndian.AppendUint32(dst, e.version)
	dst = append(dst, e.salt...)
	dst = binary.BigEndian.AppendUint64(dst, uint64(len(e.body)))
	return append(dst, e.body...)
}

// Check judges what can be judged without the password: version, lengths,
// parameters. A server checks before it stores or signs. It wraps ErrVersion,
// ErrFormat or ErrParams.
func Check(x []byte) error {
	e, err := parse(x)
	if err != nil || e.version == 1 {
		return err
	}
	_, err = parseBody2(e.body)
	return err
}

// Version returns the version of an xzibit whose outer layout is good. It wraps
// ErrVersion or ErrFormat.
func Version(x []byte) (uint32, error) {
	e, err := parse(x)
	return e.version, err
}

// ParamsOf returns what opening x costs; zero for version 1, which has a cost of its own.
// It wraps what Check does.
func ParamsOf(x []byte) (Params, error) {
	e, err := parse(x)
	if err != nil || e.version == 1 {
		return Params{}, err
	}
	b, err := parseBody2(e.body)
	return b.params, err
}

// ReadFrom reads one xzibit, and not a byte more, and checks it as Check does. Its
// length is bounded before memory is spent on it. A stream that ends too early gives
// io.ErrUnexpectedEOF, one that ends at once io.EOF.
func ReadFrom(r io.Reader) ([]byte, error) {
	header := make([]byte, headerSize)
	if _, err := io.ReadFull(r, header); err != nil {
		return nil, fmt.Errorf("reading sealed keys: %w", err)
	}
	n, err := bodyLength(header)
	if err != nil {
		return nil, err
	}
	x := append(make([]byte, 0, headerSize+n), header...)[:headerSize+n]
	if _, err := io.ReadFull(r, x[headerSize:]); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, fmt.Errorf("reading sealed keys: %w", err)
	}
	if err := Check(x); err != nil {
		return nil, err
	}
	return x, nil
}

// Open returns the keyring in x, of version 1 or 2. The address, account@domain in its
// normal form, must be the one that x was sealed for; version 1 names none. It wraps
// what Check does, ErrPassword, and ErrLocked for version 3.
func Open(x []byte, addr string, password []byte) (*Keyring, error) {
	e, err := parse(x)
	if err != nil {
		return nil, err
	}
	switch e.version {
	case 1:
		return open1(e, password)
	case 2:
		return open2(e, x, addr, password)
	}
	if _, err := parseBody2(e.body); err != nil {
		return nil, err
	}
	return nil, ErrLocked
}
