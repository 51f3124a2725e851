package session

import (
	"encoding/binary"
	"sync"
	"time"

	"cmtpd/internal/address"
	"cmtpd/internal/crypt"
)

// An identity is what the server says of itself, signed once for each of its domains.
type identity struct {
	signer    *crypt.PrivateKey
	key       crypt.PublicKey
	histories map[address.Domain]func() []byte
}

// newIdentity lets every former key, the latest of which comes first, name the present one (docs/protocol.md
// section 17.4); of more than a history holds, those that were followed last. Signing waits until somebody asks.
func newIdentity(key *crypt.PrivateKey, former []*crypt.PrivateKey, domains []address.Domain, now time.Time) *identity {
	id := &identity{signer: key, key: key.Public(), histories: make(map[address.Domain]func() []byte)}
	for _, domain := range domains {
		id.histories[domain] = sync.OnceValue(func() []byte {
			s := crypt.KeyStatement{Name: address.Address{Domain: domain}, Key: id.key}
			h := crypt.History{Keys: []crypt.SignedKey{{KeyStatement: s, Server: key.Sign(s.Append(nil))}}}
			for _, old := range former[:min(len(former), crypt.MaxRotations)] {
				r := crypt.Rotation{Domain: domain, Old: old.Public(), New: id.key, When: crypt.UnixTimeOf(now)}
				h.Rotations = append(h.Rotations, r.Sign(old, key))
			}
			return h.Append(nil)
		})
	}
	return id
}

// history returns the server's own for one of its domains.
func (id *identity) history(d address.Domain) []byte { return id.histories[d]() }

// withAlias says in front of a history, which has no alias yet, that the name that
// was asked for leads to its owner.
func (id *identity) withAlias(asked, owner address.Address, history []byte) []byte {
	alias := crypt.Alias{From: asked, To: owner}
	b := binary.BigEndian.AppendUint32(nil, 1)
	b = alias.Append(b)
	sig := id.signer.Sign(alias.Append(nil))
	return append(append(b, sig[:]...), history[4:]...)
}
