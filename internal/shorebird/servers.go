package shorebird

import (
	"context"
	"encoding/base64"
	"fmt"
	"time"

	"cmtpd/internal/address"
	"cmtpd/internal/crypt"
)

// Trust is how far a server's key can be trusted.
type Trust string

// How a key came to be trusted.
const (
	FirstContact Trust = "first contact" // nobody vouches for it yet
	Remembered   Trust = "remembered"    // the same as ever
	Succeeded    Trust = "succeeded"     // the key that was remembered has named it
	Invited      Trust = "invited"       // the code of an invitation names it
)

// knownServers are the servers' keys that were seen before, by domain.
type knownServers struct {
	memory[knownServer]
	now func() time.Time
}

// A knownServer is what is remembered of a domain.
type knownServer struct {
	Key       string    `json:"key"` // base64
	FirstSeen time.Time `json:"first_seen"`
	// CMTP1 says that the domain has spoken CMTP 1, without which it is not spoken to
	// any more (docs/protocol.md section 15.6).
	CMTP1 bool `json:"cmtp1,omitempty"`
	// Of a server that the user's own one was asked about: the domain of that one, and
	// what vouches for the key, as it told last.
	ToldBy  string  `json:"told_by,omitempty"`
	Vouched Voucher `json:"vouched,omitempty"`
}

func newKnownServers(dir string, now func() time.Time) knownServers {
	return knownServers{memory[knownServer]{dir, "servers", "servers", "every server is a first contact again"}, now}
}

func compare(known map[string]knownServer, d address.Domain, key crypt.PublicKey) (Trust, error) {
	was, ok := known[d.String()]
	if !ok {
		return FirstContact, nil
	}
	if was.Key == base64Key(key) {
		return Remembered, nil
	}
	return "", hint(fmt.Errorf("%s: %w since %s\n  remembered  %s\n  now         %s",
		d, errKeyChanged, was.FirstSeen.Format(time.DateOnly), fingerprint(was.Key), key),
		fmt.Sprintf("Either the server was set up anew, or somebody is between you and it. Nothing was sent. Ask its operator, by other means, for the fingerprint. "+
			"If the new one is right: shorebird keys --forget %s, and then again.", d))
}

// parseKey reads a key in base64.
func parseKey(key string) (crypt.PublicKey, bool) {
	b, err := base64.StdEncoding.DecodeString(key)
	if err != nil || len(b) != crypt.PublicKeySize {
		return crypt.PublicKey{}, false
	}
	return crypt.PublicKey(b), true
}

// fingerprint returns that of a key in base64.
func fingerprint(key string) string {
	k, ok := parseKey(key)
	if !ok {
		return "(not readable)"
	}
	return k.String()
}

// remember keeps the key of a domain's server, unless another one is there by now, and
// that it has spoken CMTP 1.
func (k *knownServers) remember(ctx context.Context, d address.Domain, key crypt.PublicKey, cmtp1 bool) error {
	return k.recall(ctx, d, key, func(s *knownServer) { s.CMTP1 = s.CMTP1 || cmtp1 })
}

// recall is change of what is remembered of a domain's server that has the key.
func (k *knownServers) recall(ctx context.Context, d address.Domain, key crypt.PublicKey, learn func(*knownServer)) error {
	return k.change(ctx, func(known map[string]knownServer) error {
		trust, err := compare(known, d, key)
		if err != nil {
			return err
		}
		s := known[d.String()]
		if trust == FirstContact {
			s = knownServer{Key: base64Key(key), FirstSeen: k.today()}
		}
		learn(&s)
		known[d.String()] = s
		return nil
	})
}

// succeed keeps the key that was has named as the one that follows it.
func (k *knownServers) succeed(ctx context.Context, d address.Domain, was string, key crypt.PublicKey) error {
	return k.change(ctx, func(known map[string]knownServer) error {
		if known[d.String()].Key != was {
			_, err := compare(known, d, key) // by another process, meanwhile
			return err
		}
		known[d.String()] = knownServer{Key: base64Key(key), FirstSeen: k.today(), CMTP1: true}
		return nil
	})
}

func (k *knownServers) today() time.Time { return k.now().UTC().Truncate(time.Second) }
