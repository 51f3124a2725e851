package shorebird

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"

	"cmtpd/internal/address"
	"cmtpd/internal/client"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/crypt"
	"cmtpd/internal/durable"
	"cmtpd/internal/xzibit"
)

// RecoverReport is what recover prints with --json.
type RecoverReport struct {
	KeysReport
	Keys    int    `json:"keys"`            // how many, old ones included
	Saved   string `json:"saved"`           // file
	Moved   string `json:"moved,omitempty"` // where other keys that were there before are now
	Keyring bool   `json:"keyring"`         // whether the desktop keyring has the keys, too
}

type recoverOptions struct {
	words, wordsStdin bool
}

func (r *run) recover(ctx context.Context, arg string, o recoverOptions) error {
	addr, err := address.Parse(arg)
	if err != nil {
		return err
	}
	addr.Account = addr.Account.Base()
	n, h, err := r.network()
	if err != nil {
		return err
	}
	defer n.close()
	d := &desk{run: r, network: n, home: h}
	defer d.release()
	if o.words || o.wordsStdin {
		return d.recoverByWords(ctx, addr, o.wordsStdin)
	}
	a, x, err := d.fetch(ctx, addr)
	if err != nil {
		return err
	}
	defer d.held.ring.Wipe()
	v := RecoverReport{KeysReport: a.report(), Keys: len(d.held.ring.Keys), Saved: h.xzibit(addr)}
	if v.Moved, v.Keyring, err = d.saveFetched(ctx, x); err != nil {
		return err
	}
	if v.Moved != "" {
		r.note("Other keys of %s were on this machine; they are kept in %s.", addr, v.Moved)
	}
	err = r.report(v, func(out *bytes.Buffer) {
		table(out, [][2]string{
			{"address", v.Address}, {"key", v.Key}, {"fingerprint", v.Fingerprint},
			{"server", v.Server}, {"server fingerprint", v.ServerFingerprint}, {"trust", a.trust.words()},
			{"saved", (&AccountReport{Saved: v.Saved, Keyring: v.Keyring}).place()},
		})
	})
	if err == nil {
		d.introduce(addr, a.where)
	}
	return err
}

// fetch opens, by the password, the keys of addr that the server has, and puts them on
// the desk. It returns the xzibit, too.
func (d *desk) fetch(ctx context.Context, addr address.Address) (*answer, []byte, error) {
	a, err := d.inquire(ctx, addr) // what is remembered gives way to keys that open
	if err != nil {
		return nil, nil, err
	}
	x, err := d.fetchFrom(ctx, a)
	return a, x, err
}

// fetchFrom is fetch from the server that gave the answer.
func (d *desk) fetchFrom(ctx context.Context, a *answer) ([]byte, error) {
	addr := a.address
	p, err := d.again(ctx, a)
	if err != nil {
		return nil, err
	}
	x, err := p.login(addr)
	d.drop(a.where) // before a person is asked, who may take any time
	if err != nil {
		return nil, err
	}
	version, err := d.weigh(a, x)
	if err != nil {
		return nil, err
	}
	password, err := d.password(ctx, addr)
	if err != nil {
		return nil, err
	}
	ring, err := d.openFetched(ctx, a, x, password)
	if err != nil {
		return nil, fmt.Errorf("opening the keys of %s: %w", addr, err)
	}
	if err := d.own(ctx, ring, a); err != nil {
		ring.Wipe()
		return nil, err
	}
	d.held = &holding{address: addr, ring: ring, from: digest(sha256.Sum256(x)).String(), version: version, password: password}
	return x, d.forgiven(a)
}

// forgiven proves to be the user where the server has helped, so that the attempt is not
// charged (docs/protocol.md section 19.3).
func (d *desk) forgiven(a *answer) error {
	p, ok := d.peers[a.where]
	if !ok || p.channel == nil {
		return nil
	}
	_, err := d.auth(p, d.held.ring.Keys[0].Key)
	return err
}

// openFetched opens an xzibit, where it is of version 3 with the server's help.
func (d *desk) openFetched(ctx context.Context, a *answer, x, password []byte) (*xzibit.Keyring, error) {
	ring, err := xzibit.Open(x, a.address.String(), password)
	if !errors.Is(err, xzibit.ErrLocked) {
		return ring, err
	}
	p, err := d.again(ctx, a)
	if err != nil {
		return nil, err
	}
	if p.channel == nil { // it has no LOGIN for it
		return nil, fmt.Errorf("%s: %w", p.where, errNoCMTP1)
	}
	return client.Open(p.channel, a.address, password, x)
}

// saveFetched keeps the keys on the desk on this machine: as they came where they open
// without the server, else sealed again. It returns where other keys that were here
// before are now.
func (d *desk) saveFetched(ctx context.Context, x []byte) (moved string, desktop bool, err error) {
	if err := d.claim(ctx, d.held.address); err != nil {
		return "", false, err
	}
	if moved, err = d.home.putAside(d.held.address, x, d.held.password, d.held.ring, d.now()); err != nil {
		return "", false, err
	}
	version, err := xzibit.Version(x)
	switch {
	case err != nil:
		return "", false, err
	case version < 3:
		if err := durable.WriteFile(durable.OS, d.home.xzibit(d.held.address), x, 0o600); err != nil {
			return "", false, fmt.Errorf("saving the keys of %s: %w", d.held.address, err)
		}
		desktop, err = d.record(ctx, d.home, d.held)
	default:
		desktop, err = d.save(ctx, d.home, d.held, d.held.password)
	}
	if err != nil {
		return "", false, err
	}
	return moved, desktop, d.settle(ctx, d.home, d.held)
}

// recoverByWords opens the recovery copy, and gives the account a new password.
func (d *desk) recoverByWords(ctx context.Context, addr address.Address, stdin bool) error {
	key, err := d.typedWords(ctx, stdin)
	if err != nil {
		return err
	}
	defer key.Wipe()
	ring, err := d.openCopy(ctx, addr, key)
	if err != nil {
		return err
	}
	defer ring.Wipe()
	password, err := d.newPassword(ctx, addr, 0)
	if err != nil {
		return err
	}
	if err := d.claim(ctx, addr); err != nil {
		return err
	}
	moved, err := d.home.putAside(addr, nil, password, ring, d.now())
	if err != nil {
		return err
	}
	d.held = &holding{address: addr, ring: ring, password: password, adrift: true}
	if err := d.settle(ctx, d.home, d.held); err != nil {
		return err
	}
	a, desktop, err := d.upload(ctx, revision{password: password})
	if err != nil {
		return err
	}
	if err := d.reportAccount(a, AccountReport{Moved: moved, Keyring: desktop}, "recovered"); err != nil {
		return err
	}
	d.introduce(addr, a.where)
	return nil
}

// openCopy fetches the recovery copy and returns the keyring in it, which has to be the
// account's.
func (d *desk) openCopy(ctx context.Context, addr address.Address, key *crypt.PrivateKey) (*xzibit.Keyring, error) {
	a, err := d.inquire(ctx, addr) // what is remembered gives way to keys that open
	if err != nil {
		return nil, err
	}
	p, err := d.again(ctx, a)
	if err != nil {
		return nil, err
	}
	if p.channel == nil {
		return nil, hint(fmt.Errorf("%s: %w", p.where, errNoCMTP1), "A recovery key is of use only with a server that speaks CMTP 1.")
	}
	b, err := p.channel.Recover(addr, key)
	d.drop(a.where) // before a person is asked, who may take any time
	if hasStatus(err, cmtp.StatusWrongProof) {
		err = fmt.Errorf("%w: %w", errWords, err)
	}
	if hasStatus(err, cmtp.StatusNoAccount) { // it has told the key of this name before
		err = hint(err, fmt.Sprintf("No recovery key was made for %s, or that is another name of an account: then use the account's own. With the password, shorebird passwd makes one. "+
			"Without it only the operator can help, by a reset of the account, after which mail to the old key stays closed.", addr))
	}
	if err != nil {
		return nil, err
	}
	ring, err := xzibit.OpenCopy(b, addr.String(), key)
	if err != nil {
		return nil, fmt.Errorf("opening the recovery copy of %s: %w", addr, err)
	}
	if err := d.own(ctx, ring, a); err != nil {
		ring.Wipe()
		return nil, err
	}
	return ring, nil
}

// own checks a keyring that the user has opened, and remembers the key: nobody knows
// better that it is the right one.
func (d *desk) own(ctx context.Context, ring *xzibit.Keyring, a *answer) error {
	if err := d.belongs(ctx, ring, a); err != nil {
		return err
	}
	return d.contacts.meet(ctx, a, true)
}

// belongs holds the keyring against what its server says: the key that letters are
// sealed to must be its newest, and the server the one that it calls home, or one that
// that one has named.
func (d *desk) belongs(ctx context.Context, ring *xzibit.Keyring, a *answer) error {
	if own := ring.Keys[0].Key.Public(); own != a.key {
		return hint(fmt.Errorf("%s: %w: the server says that letters are sealed to\n  %s\nbut your keys are\n  %s",
			a.address, errWrongKey, a.key, own),
			"The server, or somebody between you and it, makes others seal their letters to a key that is not yours. Nothing was saved. Ask its operator by other means.")
	}
	if ring.Server == (crypt.PublicKey{}) || ring.Server == a.server {
		return nil
	}
	if p, err := d.again(ctx, a); err == nil && p.channel != nil {
		h, err := p.channel.History(address.Address{Domain: a.address.Domain})
		if err == nil && h.Follows(ring.Server) {
			return nil
		}
	}
	return hint(fmt.Errorf("%s: %w: your keys name as their home the server\n  %s\nbut this one is\n  %s",
		a.address, errWrongKey, ring.Server, a.server),
		"Either the server was set up anew, or this is not your server. Nothing was saved. Ask its operator by other means.")
}
