package shorebird

import (
	"bytes"
	"context"
	"fmt"

	"cmtpd/internal/address"
	"cmtpd/internal/crypt"
	"cmtpd/internal/xzibit"
)

// RecoverReport is what recover prints with --json.
type RecoverReport struct {
	KeysReport
	Keys  int    `json:"keys"`            // how many, old ones included
	Saved string `json:"saved"`           // file
	Moved string `json:"moved,omitempty"` // where other keys that were there before are now
}

func (r *run) recover(ctx context.Context, arg string, stdin bool) error {
	addr, err := address.Parse(arg)
	if err != nil {
		return err
	}
	addr.Account = addr.Account.Base()
	n, h, err := r.network()
	if err != nil {
		return err
	}
	a, x, err := n.fetch(ctx, addr)
	n.close() // before a person is asked, who may take any time
	if err != nil {
		return err
	}
	ring, err := r.unlock(ctx, addr, x, stdin)
	if err != nil {
		return err
	}
	defer ring.Wipe()
	if err := prove(ring, a); err != nil {
		return err
	}
	if err := n.contacts.meet(ctx, a, true); err != nil {
		return err
	}
	v := RecoverReport{KeysReport: a.report(), Keys: len(ring.Keys)}
	v.Saved, v.Moved, err = h.saveXzibit(addr, x, r.Now().UTC().Format("20060102T150405Z"))
	if err != nil {
		return err
	}
	if v.Moved != "" {
		r.note("Other keys of %s were on this machine; they are kept in %s.", addr, v.Moved)
	}
	return r.report(v, func(out *bytes.Buffer) {
		table(out, [][2]string{
			{"address", v.Address}, {"key", v.Key}, {"fingerprint", v.Fingerprint},
			{"server", v.Server}, {"server fingerprint", v.ServerFingerprint}, {"trust", a.trust.words()},
			{"saved", fmt.Sprintf("%s, sealed under your password", v.Saved)},
		})
	})
}

// fetch returns the key that the server names for addr, and the sealed keyring.
func (n *network) fetch(ctx context.Context, addr address.Address) (*answer, []byte, error) {
	a, err := n.inquire(ctx, addr) // what is remembered gives way to keys that open
	if err != nil {
		return nil, nil, err
	}
	p, err := n.again(ctx, a)
	if err != nil {
		return nil, nil, err
	}
	x, err := p.login(addr)
	return a, x, err
}

// prove holds the keyring against what its server says: the key that letters are
// sealed to must be its newest, and the server the one that it calls home.
func prove(ring *xzibit.Keyring, a *answer) error {
	if own := ring.Keys[0].Key.Public(); own != a.key {
		return hint(fmt.Errorf("%s: %w: the server says that letters are sealed to\n  %s\nbut your keys are\n  %s",
			a.address, errWrongKey, a.key, own),
			"The server, or somebody between you and it, makes others seal their letters to a key that is not yours. Nothing was saved. Ask its operator by other means.")
	}
	if ring.Server != (crypt.PublicKey{}) && ring.Server != a.server {
		return hint(fmt.Errorf("%s: %w: your keys name as their home the server\n  %s\nbut this one is\n  %s",
			a.address, errWrongKey, ring.Server, a.server),
			"Either the server was set up anew, or this is not your server. Nothing was saved. Ask its operator by other means.")
	}
	return nil
}
