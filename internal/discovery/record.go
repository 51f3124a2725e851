package discovery

import (
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"cmtpd/internal/crypt"
)

// Bounds of a record (docs/protocol.md section 23.4).
const (
	MaxRecord = 2048 // bytes of text
	MaxKeys   = 8
	MaxMaxAge = 31557600 * time.Second // a year

	// DefaultMaxAge is how long a policy that does not say is remembered.
	DefaultMaxAge = 7 * 24 * time.Hour
)

// Errors of reading a record. One that ParseRecord refuses wraps ErrRecord.
var (
	ErrRecord     = errors.New("the _cmtp record in DNS is wrong and counts for nothing")
	ErrNotARecord = errors.New("the text is no _cmtp record")
)

// A Mode is what a domain asks of those who send to it.
type Mode string

// Enforce asks for no SMTP and no key but the domain's; it counts only when it is
// authenticated. Testing asks to report what Enforce would stop.
const (
	None    Mode = "none"
	Testing Mode = "testing"
	Enforce Mode = "enforce"
)

// A Record is what a domain publishes at _cmtp in DNS.
type Record struct {
	Keys      []crypt.PublicKey // what its servers may show, 0 to MaxKeys, none twice
	Successor crypt.PublicKey   // what may follow them; the zero value: nothing published
	Port      int               // of all its servers; 0: nothing published
	Mode      Mode
	MaxAge    time.Duration // whole seconds
}

const (
	blank        = " \t"
	versionValue = "CMTP1"
	algorithm    = "ed25519"
)

// isRecord reports whether text claims to be a record: it begins with the version.
func isRecord(text string) bool {
	first, _, _ := strings.Cut(text, ";")
	name, value, ok := strings.Cut(first, "=")
	return ok && strings.Trim(name, blank) == "v" && strings.Trim(value, blank) == versionValue
}

// ParseRecord returns the record in the joined strings of a TXT record. It returns
// ErrNotARecord for what is somebody else's, and wraps ErrRecord for what is meant
// to be one and must not count.
func ParseRecord(text string) (*Record, error) {
	if !isRecord(text) {
		return nil, ErrNotARecord
	}
	if len(text) > MaxRecord {
		return nil, wrong("it has %d bytes, at most %d are allowed", len(text), MaxRecord)
	}
	tags := strings.Split(text, ";")
	if len(tags) > 1 && strings.Trim(tags[len(tags)-1], blank) == "" {
		tags = tags[:len(tags)-1]
	}
	p := recordParser{Record: Record{Mode: None, MaxAge: DefaultMaxAge}, seen: map[string]bool{"v": true}}
	for _, tag := range tags[1:] {
		if err := p.tag(tag); err != nil {
			return nil, err
		}
	}
	if p.Mode == Enforce && len(p.Keys) == 0 {
		return nil, wrong("mode=enforce without a key in p would let nobody in")
	}
	return &p.Record, nil
}

func wrong(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrRecord, fmt.Sprintf(format, args...))
}

type recordParser struct {
	Record
	seen map[string]bool // tags that may stand there once, and do
}

func (p *recordParser) tag(tag string) error {
	name, value, ok := strings.Cut(tag, "=")
	name, value = strings.Trim(name, blank), strings.Trim(value, blank)
	if !ok || !isTagName(name) {
		return wrong("%.40q is no tag", tag)
	}
	for i := range len(value) {
		if c := value[i]; c != '\t' && (c < ' ' || c > '~') {
			return wrong("the value of %.40s holds the byte %#02x, which is not allowed", name, c)
		}
	}
	if err := p.value(name, value); err != nil {
		return fmt.Errorf("%w: %s=%.64q: %w", ErrRecord, name, value, err)
	}
	return nil
}

// isTagName reports whether name is one. It keeps to ASCII.
func isTagName(name string) bool {
	for i := range len(name) {
		c := name[i] | 0x20
		letter := 'a' <= c && c <= 'z'
		if !letter && (i == 0 || (name[i] < '0' || name[i] > '9') && name[i] != '-' && name[i] != '_') {
			return false
		}
	}
	return name != ""
}

var errTwice = errors.New("the tag stands there twice")

// value takes over what a known tag says. Unknown ones are left to later versions.
func (p *recordParser) value(name, value string) (err error) {
	switch name {
	case "v", "k", "n", "port", "mode", "max-age":
		if p.seen[name] {
			return errTwice
		}
		p.seen[name] = true
	}
	switch name {
	case "k":
		if value != algorithm {
			err = fmt.Errorf("the only algorithm is %s", algorithm)
		}
	case "p":
		err = p.key(value)
	case "n":
		p.Successor, err = parseKey(value)
	case "port":
		p.Port, err = parseNumber(value, 1, 65535)
	case "mode":
		p.Mode = Mode(value)
		if !slices.Contains([]Mode{Enforce, Testing, None}, p.Mode) {
			err = errors.New("it is none of enforce, testing, none")
		}
	case "max-age":
		var seconds int
		seconds, err = parseNumber(value, 0, int(MaxMaxAge/time.Second))
		p.MaxAge = time.Duration(seconds) * time.Second
	}
	return err
}

func (p *recordParser) key(value string) error {
	if len(p.Keys) == MaxKeys {
		return fmt.Errorf("there are more than %d keys", MaxKeys)
	}
	key, err := parseKey(value)
	if err != nil {
		return err
	}
	if slices.Contains(p.Keys, key) {
		return errors.New("the key stands there twice")
	}
	p.Keys = append(p.Keys, key)
	return nil
}

// parseKey reads what EncodeToString writes, and nothing else.
func parseKey(value string) (crypt.PublicKey, error) {
	if len(value) != base64.StdEncoding.EncodedLen(crypt.PublicKeySize) {
		return crypt.PublicKey{}, errors.New("it is not 32 bytes in base64")
	}
	b, err := base64.StdEncoding.Strict().DecodeString(value)
	if err != nil {
		return crypt.PublicKey{}, fmt.Errorf("it is not 32 bytes in base64: %w", err)
	}
	return crypt.ParsePublicKey(b)
}

func parseNumber(value string, least, most int) (int, error) {
	n, err := strconv.Atoi(value)
	if err != nil || strconv.Itoa(n) != value || n < least || n > most {
		return 0, fmt.Errorf("it is no number from %d to %d", least, most)
	}
	return n, nil
}

// String returns the record as it is put into DNS, in the order of the table in
// docs/protocol.md section 23.4, without what would say the default.
func (r *Record) String() string {
	tags := []string{"v=" + versionValue, "k=" + algorithm}
	for _, key := range r.Keys {
		tags = append(tags, "p="+encodeKey(key))
	}
	if r.Successor != (crypt.PublicKey{}) {
		tags = append(tags, "n="+encodeKey(r.Successor))
	}
	if r.Port != 0 {
		tags = append(tags, "port="+strconv.Itoa(r.Port))
	}
	if r.Mode != None && r.Mode != "" {
		tags = append(tags, "mode="+string(r.Mode))
	}
	if r.MaxAge != DefaultMaxAge {
		tags = append(tags, "max-age="+strconv.FormatInt(int64(r.MaxAge/time.Second), 10))
	}
	return strings.Join(tags, "; ")
}

func encodeKey(key crypt.PublicKey) string { return base64.StdEncoding.EncodeToString(key[:]) }
