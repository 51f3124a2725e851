package shorebird

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"time"

	"cmtpd/internal/address"
	"cmtpd/internal/crypt"
)

// KeyChange is what became of an address's key since it was seen last.
type KeyChange string

// What may have become of a key.
const (
	NoChange   KeyChange = ""
	Rotated    KeyChange = "rotated"  // the key before has signed for it
	AcceptedIt KeyChange = "accepted" // the user has, by --accept-new-key or by keys that opened
)

// contacts are the keys of addresses that were seen before, by address.
type contacts struct {
	memory[contact]
	now   func() time.Time
	fresh map[string]bool // first met in this run, which makes them no better known
}

// A contact is what is remembered of an address.
type contact struct {
	Key       string    `json:"key"`                 // base64
	Statement string    `json:"statement,omitempty"` // base64, digest of the newest; empty when seen in CMTP 0.01 alone
	FirstSeen time.Time `json:"first_seen"`          // the key
	// Again says that it was seen again, or accepted by the user: then it is no first contact any more.
	Again bool `json:"again,omitempty"`
	// Refused is another key, in base64, that was shown in its place last, and does not
	// follow from it: until it is accepted, or the right one is shown, nothing is sent.
	Refused string `json:"refused,omitempty"`
}

func newContacts(dir string, now func() time.Time) contacts {
	return contacts{memory[contact]{dir, "contacts", "keys of contacts", "every address is a first contact again"}, now, map[string]bool{}}
}

// whose returns the name that the answer's key is remembered for: bob+tag is bob,
// whatever the server says, so that no tag leads around what is known of bob. A longer
// name stands for itself where the user has accepted its key, and where it is an alias
// and nothing is known of the shorter one.
func (a *answer) whose(known map[string]contact) address.Address {
	base := a.address
	base.Account = base.Account.Base()
	if _, met := known[a.address.String()]; met {
		return a.address
	}
	if _, met := known[base.String()]; !met && a.history != nil && a.history.Alias != nil {
		return a.address
	}
	return base
}

// contact returns what is to be remembered of an answer.
func (c *contacts) contact(a *answer) contact {
	n := contact{Key: base64Key(a.key), FirstSeen: c.now().UTC().Truncate(time.Second)}
	if a.history != nil {
		digest := a.history.Current().Digest()
		n.Statement = base64.StdEncoding.EncodeToString(digest[:])
	}
	return n
}

// judge holds an answer against what is remembered of its address: a history must go
// on from there, by keys that sign for the next one (docs/protocol.md section 17.3). It
// returns what to remember from now on.
func (c *contacts) judge(known map[string]contact, name address.Address, a *answer) (contact, KeyChange, error) {
	now := c.contact(a)
	was, ok := known[name.String()]
	if !ok {
		return now, NoChange, nil
	}
	if was.Key == now.Key {
		now.FirstSeen = was.FirstSeen
	}
	if a.history == nil {
		if was.Key != now.Key {
			return was, NoChange, was.differs(name, a, errContactKey)
		}
		return was, NoChange, nil
	}
	later, ok := was.since(a.history)
	switch {
	case !ok:
		return was, NoChange, was.differs(name, a, errContactKey)
	case slices.ContainsFunc(later, func(k crypt.SignedKey) bool { return k.Reset }):
		return was, NoChange, was.differs(name, a, errContactReset)
	case len(later) > 0:
		return now, Rotated, nil
	}
	return now, NoChange, nil
}

// since returns what a history says after what is remembered, and whether that is a
// part of it.
func (c *contact) since(h *crypt.History) ([]crypt.SignedKey, bool) {
	if c.Statement != "" {
		digest, err := base64.StdEncoding.DecodeString(c.Statement)
		if err != nil || len(digest) != 32 {
			return nil, false
		}
		return h.Since([32]byte(digest))
	}
	for i := len(h.Keys) - 1; i >= 0; i-- {
		if base64Key(h.Keys[i].Key) == c.Key {
			return h.Keys[i+1:], true
		}
	}
	return nil, false
}

func (c *contact) differs(name address.Address, a *answer, why error) error {
	return hint(fmt.Errorf("%s: %w\n  remembered  %s  since %s\n  now         %s", name, why,
		fingerprint(c.Key), c.FirstSeen.Format(time.DateOnly), a.key),
		fmt.Sprintf("Either the keys of %[1]s were lost and made anew, or the server gives you somebody else's. Nothing was sent. Ask %[1]s, by other means, for the fingerprint. "+
			"If the new one is right: shorebird keys %[2]s --accept-new-key, or shorebird trust accept %[2]s, which shows words that you can compare; and then again.", name, shellWord(a.address.String())))
}

// meet judges the answer and remembers its key, or that it was refused. With accept, what is
// remembered gives way.
func (c *contacts) meet(ctx context.Context, a *answer, accept bool) error {
	known, err := c.load()
	if err != nil {
		return err
	}
	learnt, verdict := c.learn(known, a, accept)
	if !learnt {
		return verdict
	}
	err = c.change(ctx, func(known map[string]contact) error { // another process may have met it meanwhile
		_, verdict = c.learn(known, a, accept)
		return nil
	})
	return errors.Join(verdict, err)
}

// learn puts the answer into what is known, and reports whether it says anything new.
// The server's own key, as a postmaster's may be, is left to what is known of servers;
// but where another one is remembered it is as wrong as any.
func (c *contacts) learn(known map[string]contact, a *answer, accept bool) (bool, error) {
	name := a.whose(known)
	was, met := known[name.String()]
	if !met && a.key == a.server {
		return false, nil
	}
	if met {
		a.before, _ = parseKey(was.Key)
	} else {
		c.fresh[name.String()] = true
	}
	next, change, err := c.judge(known, name, a)
	switch {
	case err != nil && accept:
		name = a.address // bob+tag was accepted, which says nothing of bob
		next, change, err = c.contact(a), AcceptedIt, nil
		next.Again = true
	case err != nil:
		next = was
		next.Refused = base64Key(a.key)
	default:
		next.Refused = ""
		next.Again = met && (was.Again || !c.fresh[name.String()])
	}
	a.change = change
	learnt := known[name.String()] != next
	known[name.String()] = next
	return learnt, err
}
