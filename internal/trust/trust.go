// Package trust remembers the keys that the servers of other domains have shown, and
// says what may replace them (docs/protocol.md section 24).
//
// It guarantees that a key is trusted only after what that rests on is on disk; that
// nothing which plain DNS or the network says replaces a key that DNSSEC or the operator
// vouches for, at any time, or another one within seven days, whatever the clock does;
// that damage to what is remembered holds mail and never makes a known domain
// a stranger; and a bound on its own memory.
//
// State.Judge is the rules: it has no clock and no files. Store keeps the states.
package trust

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"

	"cmtpd/internal/crypt"
)

// Week is how long a key has to be the only one seen before it replaces one that nothing
// but DNS or first contact vouches for.
const Week = 7 * 24 * time.Hour

// Limits of what is remembered of one domain (docs/protocol.md section 24.8).
const (
	MaxKeys    = 8
	maxPending = 8
	maxFormer  = 16
	maxActions = 16
	maxEnforce = 31_557_600 * time.Second // a year of 365.25 days, as section 23.4 has it

	// pendingLife is how long a key is remembered that is not trusted and not seen again.
	pendingLife = 30 * 24 * time.Hour
)

// A Provenance is why a key is taken for a domain's, the weakest first.
type Provenance uint8

// The zero Provenance is none.
const (
	FirstContact Provenance = iota + 1 // it was there when nothing was known of the domain
	DNS                                // the domain's record names it
	DNSSEC                             // it does so, and DNSSEC vouches for that
	Operator                           // the operator of this server says so
)

var provenances = [...]string{FirstContact: "first_contact", DNS: "dns", DNSSEC: "dnssec", Operator: "operator"}

func (p Provenance) String() string {
	if int(p) < len(provenances) {
		return provenances[p]
	}
	return fmt.Sprintf("Provenance(%d)", p)
}

// MarshalText returns the name that files have it by.
func (p Provenance) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText is the inverse of MarshalText.
func (p *Provenance) UnmarshalText(b []byte) error {
	for i := FirstContact; i <= Operator; i++ {
		if provenances[i] == string(b) {
			*p = i
			return nil
		}
	}
	return fmt.Errorf("no provenance %q", b)
}

// A Reason is why nothing is sent to a server, or accepted from it, now.
type Reason string

// The Reasons. Text says them to people.
const (
	Changed    Reason = "changed"    // another key than those that are known
	Vouched    Reason = "vouched"    // another than those that DNSSEC vouched for
	Enforced   Reason = "enforced"   // none of those that a domain with mode=enforce names
	Pinned     Reason = "pinned"     // another than those that the operator vouches for
	Succession Reason = "succession" // the old key names it, and is to be followed by another
	Replaced   Reason = "replaced"   // another key has followed it
	Downgraded Reason = "downgraded" // a domain that spoke CMTP 1 is met without it
	Unanswered Reason = "unanswered" // nothing is known, and DNS fails to say what is published
	Unusable   Reason = "unusable"   // it is no Ed25519 key that can be used
	Damaged    Reason = "damaged"    // what was known of the domain cannot be read
)

var reasons = map[Reason]string{
	Changed:    "the domain was known by another key, and nothing vouches for this one",
	Vouched:    "DNSSEC vouched for another key of the domain, and it does not vouch for this one",
	Enforced:   "the domain enforces its published keys, and this one is not among them",
	Pinned:     "the operator of this server vouches for another key of the domain",
	Succession: "the domain's old key names it, but the domain had announced another successor: the old key may be stolen",
	Replaced:   "another key of the domain has followed this one",
	Downgraded: "the domain has spoken CMTP 1 before, and now is met without it: somebody may be in between",
	Unanswered: "nothing is known of the domain yet, and DNS fails to say what it publishes",
	Unusable:   "it is not a usable Ed25519 key",
	Damaged:    "what was known of the domain is damaged on disk",
}

// Text returns the reason in plain words.
func (r Reason) Text() string { return reasons[r] }

// A Public is a public key that stands as base64 in JSON. Its String is the
// fingerprint.
type Public struct{ crypt.PublicKey }

// MarshalText returns the key in base64 (RFC 4648 section 4).
func (p Public) MarshalText() ([]byte, error) { return []byte(p.Base64()), nil }

// Base64 returns the key as it is typed.
func (p Public) Base64() string { return base64.StdEncoding.EncodeToString(p.PublicKey[:]) }

// UnmarshalText is the inverse of MarshalText. It does not ask whether the key is usable.
func (p *Public) UnmarshalText(b []byte) error {
	raw, err := base64.StdEncoding.Strict().DecodeString(string(b))
	if err != nil || len(raw) != crypt.PublicKeySize {
		return fmt.Errorf("%w: %q is not the base64 of %d bytes", crypt.ErrPublicKey, b, crypt.PublicKeySize)
	}
	p.PublicKey = crypt.PublicKey(raw)
	return nil
}

// ErrKey: what was typed is neither a key nor the fingerprint of one.
var ErrKey = errors.New("neither a key in base64 nor the forty digits of a fingerprint")

// ParseKey returns the usable key that was typed in base64.
func ParseKey(typed string) (p Public, err error) {
	if err = p.UnmarshalText([]byte(typed)); err == nil {
		_, err = crypt.ParsePublicKey(p.PublicKey[:])
	}
	return p, err
}

// A Fingerprint is what an operator types of a key that was compared: ten groups of four
// digits, with spaces or without, or the key in base64. The zero value is of no key.
type Fingerprint struct{ text string }

// ParseFingerprint returns what was typed in one form, or ErrKey.
func ParseFingerprint(typed string) (Fingerprint, error) {
	digits := strings.ToLower(strings.Join(strings.Fields(typed), ""))
	if len(digits) == 40 && strings.Trim(digits, "0123456789abcdef") == "" {
		return Fingerprint{digits}, nil
	}
	if key, err := ParseKey(typed); err == nil {
		return Fingerprint{key.Base64()}, nil
	}
	return Fingerprint{}, fmt.Errorf("%q: %w", typed, ErrKey)
}

// String returns what ParseFingerprint reads again.
func (f Fingerprint) String() string { return f.text }

// Is reports whether f is of this key.
func (f Fingerprint) Is(key Public) bool {
	return f.text != "" && (f.text == key.Base64() || f.text == strings.ReplaceAll(key.String(), " ", ""))
}

// An Answer is what DNS said when it was asked for a domain's record.
type Answer uint8

const (
	Unknown Answer = iota // it failed, or was not asked: that is never absence
	Absent                // there is no record, or none that counts
	Present               // there is one, and it counts
)

// A Record is what a domain publishes in its _cmtp record. All but Answer and
// Authenticated mean something only when it is Present.
type Record struct {
	Answer        Answer
	Authenticated bool              // DNSSEC vouches for the answer
	Keys          []crypt.PublicKey // p; beyond MaxKeys they do not count
	Successor     crypt.PublicKey   // n; zero if there is none
	Enforce       bool              // mode=enforce
	MaxAge        time.Duration     // max-age
}

// A Sighting is all that was seen of a domain when one of its servers was met.
type Sighting struct {
	Shown     crypt.PublicKey // in the channel's certificate, or in Part I as the server's key
	CMTP1     bool            // in the channel
	Record    Record
	Rotations []crypt.SignedRotation // of the server's own key history
	// Claimed: the server has come by itself, and nobody here has looked for the domain. Strangers can have as many
	// domains as they like, so such a sighting makes no room for itself.
	Claimed bool
	// Mail: the server was met to be given mail. A domain that is trusted then is never forgotten for others.
	Mail bool
}

// A Verdict says whether a server may be sent to and accepted from.
type Verdict struct {
	Trusted    bool
	Provenance Provenance // of the key, when it is Trusted
	First      bool       // no key of the domain was known before

	Why   Reason    // it is not Trusted
	Since time.Time // since when that is so; zero when nothing of it was remembered
	Until time.Time // when the key may become trusted by itself; zero if that takes the domain or the operator
}

// String returns one line for people and reports.
func (v Verdict) String() string {
	switch {
	case v.Trusted && v.First:
		return "trusted at first contact (" + v.Provenance.String() + ")"
	case v.Trusted:
		return "trusted (" + v.Provenance.String() + ")"
	case v.Until.IsZero():
		return "held: " + v.Why.Text()
	}
	return fmt.Sprintf("held until %s, if no other key is seen until then: %s", v.Until.UTC().Format(time.DateTime+" MST"), v.Why.Text())
}
