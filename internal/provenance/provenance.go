// Package provenance says what a message's log proves of where the message comes from
// (docs/protocol.md section 17.6).
//
// It guarantees that nothing is called proven that a key which the caller gave has not
// signed, for this very message and for the source that its envelope names; that what is
// contradicted is told from what is merely not known; and that its words never say who
// wrote a sealed text, which no entry proves. It asks nobody, and has no clock.
package provenance

import (
	"errors"
	"fmt"
	"time"

	"cmtpd/internal/address"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/crypt"
)

// Why an entry of a log is not what it should be.
var (
	// ErrOrigin: the log has an origin entry as no server writes one.
	ErrOrigin = errors.New("the message's log has no single well-formed origin entry of its source's domain")
	// ErrSender: the log has a sender entry as no client writes one.
	ErrSender = errors.New("the message's log has no single well-formed sender entry of its source")
	// ErrForged: the key that the sender entry names has not signed it for this message.
	ErrForged = errors.New("the message's sender entry is not by the key that it names, or is of another message")
	// ErrUnknownKey: the entry names a key that is not among the account's.
	ErrUnknownKey = errors.New("the message's sender entry names a key that is not the account's")
	// ErrLapsed: the account had the key, but another one at the entry's time, or has been
	// given one by a reset since.
	ErrLapsed = errors.New("the message's sender entry is by a key that was not the account's at its time, or was reset since")
)

// Skew is how far the clocks of two devices of an account may be apart: each is within an
// hour of their server's when it makes a key (docs/protocol.md section 21).
const Skew = 2 * time.Hour

// SourceOf returns the envelope's source in normal form. The account may be empty.
func SourceOf(h *cmtp.Header) (source address.Address, err error) {
	if h.SourceAccount != "" {
		if source.Account, err = address.ParseAccount(h.SourceAccount); err != nil {
			return source, err
		}
	}
	source.Domain, err = address.ParseDomain(h.SourceDomain)
	return source, err
}

// OriginOf returns the only origin entry of a log, which nobody has verified; nil where
// there is none. It wraps ErrOrigin.
func OriginOf(h *cmtp.Header, log []byte) (*crypt.Origin, error) {
	o, err := only(log, crypt.IsOrigin, crypt.ParseOrigin)
	if o == nil && err == nil {
		return nil, nil
	}
	if source, serr := SourceOf(h); err != nil || serr != nil || source.Domain != o.Domain {
		return nil, ErrOrigin
	}
	return o, nil
}

// SenderOf is OriginOf for the sender entry. It wraps ErrSender.
func SenderOf(h *cmtp.Header, log []byte) (*crypt.Sender, error) {
	s, err := only(log, crypt.IsSender, crypt.ParseSender)
	if s == nil && err == nil {
		return nil, nil
	}
	if source, serr := SourceOf(h); err != nil || serr != nil || source != s.Name {
		return nil, ErrSender
	}
	return s, nil
}

// errTwo: there is more than one.
var errTwo = errors.New("two entries where there can be one")

func only[T any](log []byte, is func(string) bool, parse func(string) (T, error)) (*T, error) {
	var found *T
	for _, entry := range cmtp.LogEntries(log) {
		if !is(entry) {
			continue
		}
		e, err := parse(entry)
		if err != nil {
			return nil, err
		}
		if found != nil {
			return nil, errTwo
		}
		found = &e
	}
	return found, nil
}

// A Key is one that an account has from a time on.
type Key struct {
	crypt.PublicKey
	From  crypt.UnixTime // 0: not known
	Reset bool           // the one before did not sign for it
}

// KeyOf returns the key of a statement.
func KeyOf(s *crypt.KeyStatement) Key { return Key{s.Key, s.NotBefore, s.Reset} }

// KeysOf returns the keys of a history, which the caller has verified.
func KeysOf(h *crypt.History) []Key {
	keys := make([]Key, len(h.Keys))
	for i := range h.Keys {
		keys[i] = KeyOf(&h.Keys[i].KeyStatement)
	}
	return keys
}

// Check returns the place of the key, of an account's with the oldest first, that has
// signed a sender entry for the message with this core digest. It must have been in force
// at the entry's time, and each later one must have followed from the one before. It
// returns ErrForged, ErrUnknownKey or ErrLapsed.
func Check(s *crypt.Sender, digest [32]byte, keys []Key) (int, error) {
	why := ErrUnknownKey
	reset := false
	for i := len(keys) - 1; i >= 0; i-- { // elsewhere an account may go back to a key
		if keys[i].ID() == s.Key {
			if !s.Verify(digest, keys[i].PublicKey) {
				return 0, ErrForged
			}
			if !reset && inForce(s.When, keys, i) {
				return i, nil
			}
			why = ErrLapsed
		}
		reset = reset || keys[i].Reset
	}
	return 0, why
}

func inForce(at crypt.UnixTime, keys []Key, i int) bool {
	const skew = crypt.UnixTime(Skew / time.Second)
	return at+skew >= keys[i].From && (i == len(keys)-1 || keys[i+1].From == 0 || at <= keys[i+1].From+skew)
}

// A Kind is how far the source of a message is proven.
type Kind string

// The kinds.
const (
	BySender Kind = "sender"   // the source's own key has signed that it submits the message
	ByDomain Kind = "domain"   // its domain's server says that it has
	Unproven Kind = "unproven" // nothing that is known here speaks for the source, or against
	False    Kind = "false"    // the message shows what is not true
)

// A Known is what a reader knows of a message's source.
type Known struct {
	Keys    []Key             // of the account, the oldest first
	Whole   bool              // Keys are all that there were, as its server says
	Servers []crypt.PublicKey // that its domain's server has
}

// A Verdict is what a reader may be shown of a message's source.
type Verdict struct {
	Kind Kind
	Text string          // a part of a sentence, for a person; fit for a terminal
	Key  crypt.PublicKey // that has signed; zero where nothing is proven
}

// Judge says what the log of a message with this envelope and core digest proves.
func Judge(h *cmtp.Header, log []byte, digest [32]byte, known Known) Verdict {
	source, err := SourceOf(h)
	if err != nil {
		return Verdict{Kind: Unproven, Text: "unproven: its source is no address"}
	}
	j := judge{source: source, digest: digest, known: known}
	sender, err := SenderOf(h, log)
	if err != nil {
		return falsely("what should prove its source is about another one, or is no such thing")
	}
	origin, err := OriginOf(h, log)
	if err != nil {
		return falsely("what its domain should say of it is of another domain, or is no such thing")
	}
	doubt := "nothing that is signed for its source came with it"
	if sender != nil {
		var v Verdict
		if v, doubt = j.sender(sender); doubt == "" {
			return v
		}
	}
	if origin != nil {
		return j.origin(origin, sender != nil, doubt)
	}
	return Verdict{Kind: Unproven, Text: "unproven: " + doubt}
}

func falsely(what string) Verdict { return Verdict{Kind: False, Text: "FALSE: " + what} }

type judge struct {
	source address.Address
	digest [32]byte
	known  Known
}

// sender returns what a sender entry proves, or else what can be said against it.
func (j *judge) sender(s *crypt.Sender) (Verdict, string) {
	i, err := Check(s, j.digest, j.known.Keys)
	switch {
	case errors.Is(err, ErrForged):
		return falsely(fmt.Sprintf("the signature that came with it is not one of %s for this letter", j.source)), ""
	case errors.Is(err, ErrLapsed):
		return Verdict{}, fmt.Sprintf("it is signed with a key that was not in force at %s then, or was reset since", j.source)
	case err != nil && len(j.known.Keys) == 0:
		return Verdict{}, fmt.Sprintf("it is signed, and the key of %s is not known here", j.source)
	case err != nil && j.known.Whole:
		return Verdict{}, fmt.Sprintf("it is signed with a key that %s is not known to have", j.source)
	case err != nil:
		return Verdict{}, fmt.Sprintf("it is signed with another key than the one that is remembered of %s", j.source)
	}
	v := Verdict{Kind: BySender, Key: j.known.Keys[i].PublicKey, Text: fmt.Sprintf("submitted by %s, whose key has signed for that", j.source)}
	if i < len(j.known.Keys)-1 {
		v.Text = fmt.Sprintf("submitted by %s: a key that it had until %s has signed for that", j.source,
			j.known.Keys[i+1].From.Time().UTC().Format(time.DateOnly))
	}
	return v, ""
}

// origin returns what an origin entry proves beside a sender entry, if there is one, that
// proves nothing.
func (j *judge) origin(o *crypt.Origin, signed bool, doubt string) Verdict {
	for _, key := range j.known.Servers {
		if !o.Verify(j.digest, j.source.Account, key) {
			continue
		}
		v := Verdict{Kind: ByDomain, Key: key, Text: fmt.Sprintf("submitted by %s, as the server of %s says", j.source, j.source.Domain)}
		if j.source.Account.IsZero() {
			v.Text = fmt.Sprintf("from the server of %s itself, as it says", j.source.Domain)
		}
		if signed {
			v.Text += "; but " + doubt
		}
		return v
	}
	switch {
	case signed:
	case len(j.known.Servers) == 0:
		doubt = fmt.Sprintf("the server of %s may vouch for it, but its key is not known here", j.source.Domain)
	default:
		doubt = fmt.Sprintf("who vouches for it has another key than the one that is known of the server of %s", j.source.Domain)
	}
	return Verdict{Kind: Unproven, Text: "unproven: " + doubt}
}
