package crypt

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"

	"cmtpd/internal/address"
)

const (
	originLabel = "CMTP-1 origin\x00"
	senderLabel = "CMTP-1 sender\x00"
)

// A KeyID names a key within an account: the first 16 bytes of its SHA-256.
type KeyID [16]byte

// ID returns the key's ID.
func (pk PublicKey) ID() KeyID {
	sum := sha256.Sum256(pk[:])
	return KeyID(sum[:16])
}

// An Origin is a log entry by which the server of the source domain vouches that it
// took a message from the account that the message names (docs/protocol.md section
// 17.6). The account stands in the message, not in the entry.
type Origin struct {
	Domain    address.Domain
	When      UnixTime
	Signature Signature
}

// A Sender is a log entry by which an account's key says that it submitted a message.
type Sender struct {
	Name      address.Address
	Key       KeyID
	When      UnixTime
	Signature Signature
}

func originText(digest [32]byte, source address.Address, when UnixTime) []byte {
	b := append([]byte(originLabel), digest[:]...)
	return appendTime(appendName(b, source), when)
}

// NewOrigin vouches for the message with this core digest and source.
func NewOrigin(digest [32]byte, source address.Address, when UnixTime, server *PrivateKey) Origin {
	return Origin{source.Domain, when, server.Sign(originText(digest, source, when))}
}

// Verify reports whether the server with this key vouches for the message.
func (o *Origin) Verify(digest [32]byte, account address.Account, server PublicKey) bool {
	return Verify(server, originText(digest, address.Address{Account: account, Domain: o.Domain}, o.When), o.Signature)
}

// String returns the entry as it stands in a log, without a NUL.
func (o *Origin) String() string {
	return fmt.Sprintf("origin d=%s t=%d s=%s", o.Domain, o.When, base64.StdEncoding.EncodeToString(o.Signature[:]))
}

func senderText(digest [32]byte, source address.Address, key KeyID, when UnixTime) []byte {
	b := append([]byte(senderLabel), digest[:]...)
	return appendTime(append(appendName(b, source), key[:]...), when)
}

// NewSender says that source submits the message with this core digest.
func NewSender(digest [32]byte, source address.Address, when UnixTime, key *PrivateKey) Sender {
	id := key.Public().ID()
	return Sender{source, id, when, key.Sign(senderText(digest, source, id, when))}
}

// Verify reports whether the account's key, the one that s names, has signed s for
// the message with this core digest.
func (s *Sender) Verify(digest [32]byte, key PublicKey) bool {
	return key.ID() == s.Key && Verify(key, senderText(digest, s.Name, s.Key, s.When), s.Signature)
}

// String returns the entry as it stands in a log, without a NUL.
func (s *Sender) String() string {
	return fmt.Sprintf("sender a=%s d=%s k=%s t=%d s=%s", escape(s.Name.Account.String()), s.Name.Domain,
		base64.StdEncoding.EncodeToString(s.Key[:]), s.When, base64.StdEncoding.EncodeToString(s.Signature[:]))
}

// ParseOrigin reads what Origin.String returns, and nothing else.
func ParseOrigin(entry string) (o Origin, err error) {
	f := fields(entry, "origin", "d", "t", "s")
	if f == nil {
		return o, fmt.Errorf("%w: not an origin entry", ErrStatement)
	}
	o.Domain, err = address.ParseDomain(f[0])
	o.When, o.Signature = parseTime(f[1]), Signature(decoded(f[2], SignatureSize))
	if err != nil || o.String() != entry {
		return Origin{}, fmt.Errorf("%w: an origin entry that is not in its one form", ErrStatement)
	}
	return o, nil
}

// ParseSender reads what Sender.String returns, and nothing else.
func ParseSender(entry string) (s Sender, err error) {
	f := fields(entry, "sender", "a", "d", "k", "t", "s")
	if f == nil {
		return s, fmt.Errorf("%w: not a sender entry", ErrStatement)
	}
	s.Name, err = address.Parse(unescape(f[0]) + "@" + f[1])
	s.Key, s.When, s.Signature = KeyID(decoded(f[2], len(s.Key))), parseTime(f[3]), Signature(decoded(f[4], SignatureSize))
	if err != nil || s.String() != entry {
		return Sender{}, fmt.Errorf("%w: a sender entry that is not in its one form", ErrStatement)
	}
	return s, nil
}

// fields returns the values of an entry that has exactly these words in this order.
// What a value's own form is, the caller finds out by writing it again.
func fields(entry, kind string, names ...string) []string {
	words := strings.Split(entry, " ")
	if len(words) != 1+len(names) || words[0] != kind {
		return nil
	}
	values := make([]string, len(names))
	for i, name := range names {
		value, ok := strings.CutPrefix(words[i+1], name+"=")
		if !ok {
			return nil
		}
		values[i] = value
	}
	return values
}

func parseTime(s string) UnixTime {
	t, err := strconv.ParseUint(s, 10, 64)
	if err != nil || t > maxTime {
		return 0
	}
	return UnixTime(t)
}

// decoded returns the n bytes in s, or n zeros.
func decoded(s string, n int) []byte {
	b, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil || len(b) != n {
		return make([]byte, n)
	}
	return b
}

// escape writes every byte that an entry's value may not show as % and two digits.
func escape(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c > ' ' && c < 0x7f && c != '%' && c != '=' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

// unescape reads what escape writes; of anything else it makes what does not come
// out of escape again.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+3], 16, 8); err == nil {
				b.WriteByte(byte(n))
				i += 2
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
