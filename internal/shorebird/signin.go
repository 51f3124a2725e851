package shorebird

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"

	"cmtpd/internal/address"
	"cmtpd/internal/client"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/crypt"
	"cmtpd/internal/xzibit"
)

// maxTries is how often a command begins again because another device was first.
const maxTries = 5

// A desk is where a command works on an account's keys: the keys on this machine, and
// the server of the account.
type desk struct {
	*run
	*network
	home home
	held *holding
	used crypt.PublicKey // of the key by which the account was proven last
	self *answer         // about the account, as it was proven last; nil before
	lock io.Closer       // of the claim; nil: the keys on this machine may be changed by others
	// delivered says that the server has, or perhaps has, what was uploaded.
	delivered bool
}

// claim waits until no other process works with the keys of an account on this machine.
// What is held from then on stays what the files have, and a pending upload is one's own.
//
//	lock ADDRESS.lock; read the files; prepare, upload, adopt or discard; unlock
func (d *desk) claim(ctx context.Context, a address.Address) (err error) {
	if d.lock != nil {
		return nil
	}
	if d.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, d.timeout)
		defer cancel()
	}
	path := d.home.lock(a)
	d.lock, err = lockFile(ctx, path, func() { d.note("Waiting for another shorebird, which works with the keys of %s.", a) })
	if errors.Is(err, context.DeadlineExceeded) {
		return hint(fmt.Errorf("waiting for another shorebird, which works with the keys of %s and has locked %s: %w", a, path, err),
			"Nothing was changed. Try again when it is done; it may be asking somebody for a password.")
	}
	if err != nil {
		return fmt.Errorf("locking the keys of %s: %w", a, err)
	}
	return nil
}

// release ends the claim. What is held may be old from then on.
func (d *desk) release() {
	if d.lock != nil {
		d.lock.Close()
		d.lock = nil
	}
}

// proven is signIn for who uploads nothing: the claim ends with it, so that others need
// not wait for letters to be sent.
func (d *desk) proven(ctx context.Context) (*peer, error) {
	defer d.release()
	if d.lock == nil {
		d.held.ring.Wipe()
		d.held.ring = &xzibit.Keyring{} // should they not be had again
		if err := d.take(ctx, d.held.address); err != nil {
			return nil, err
		}
	}
	p, _, err := d.signIn(ctx)
	return p, err
}

// note is the run's; both have one.
func (d *desk) note(format string, args ...any) { d.run.note(format, args...) }

// signIn returns the server of the account, in a channel in which AUTH has proven that
// the account's newest key is held here. Where another device has changed keys or
// password, the keys are fetched anew first.
func (d *desk) signIn(ctx context.Context) (*peer, *answer, error) {
	var a *answer
	var err error
	for range maxTries {
		a, err = d.lookup(ctx, d.held.address)
		if err != nil {
			return nil, nil, err
		}
		if a.history == nil {
			return nil, nil, hint(fmt.Errorf("%s: %w", a.where, errNoCMTP1), "Nothing can be proven to this server. Ask its operator for a newer one.")
		}
		p, err := d.again(ctx, a)
		if err != nil {
			return nil, nil, err
		}
		if p.user != d.held.address {
			err = d.prove(ctx, p, a)
		}
		if err == nil {
			d.self = a
			return p, a, nil
		}
		if !hasStatus(err, cmtp.StatusWrongProof) {
			return nil, nil, err
		}
		d.drop(a.where) // the key was changed between two answers
	}
	return nil, nil, err
}

// prove proves to be the account's user, with keys that are fetched anew where those
// on this machine are old.
func (d *desk) prove(ctx context.Context, p *peer, a *answer) error {
	if key := find(d.held.ring, a.key); key != nil {
		from, err := d.auth(p, key)
		if err != nil {
			return err
		}
		return d.follow(ctx, p, a, digest(from).String())
	}
	if err := d.refresh(ctx, p, a, "has a newer key"); err != nil {
		return err
	}
	_, err := d.auth(p, d.held.ring.Keys[0].Key)
	return err
}

// auth proves to be the account's user, and returns the digest of the server's xzibit.
func (d *desk) auth(p *peer, key *crypt.PrivateKey) (from [32]byte, err error) {
	if from, err = p.channel.Auth(d.held.address, key); err == nil {
		p.user, d.used = d.held.address, key.Public()
	}
	return from, err
}

// follow brings the keys on this machine up to the xzibit that the server has.
func (d *desk) follow(ctx context.Context, p *peer, a *answer, from string) error {
	switch {
	case d.held.adrift:
		d.held.from = from
		return nil
	case d.held.pending != "" && d.held.pending == from:
		d.note("An upload of keys of %s that was cut short has taken place.", d.held.address)
		return d.adopted(ctx, from)
	case from == d.held.from && (d.held.pending != "" || d.unsent()):
		// With the key that was made for it, should the server be slow to do it.
		if _, err := d.save(ctx, d.home, d.held, d.held.password); err != nil {
			return err
		}
		return d.settle(ctx, d.home, d.held)
	case from == d.held.from:
		return nil
	case d.held.from == "" && d.held.pending == "" && d.same(from):
		d.held.from = from
		_, err := d.record(ctx, d.home, d.held)
		return err
	}
	return d.refresh(ctx, p, a, "has other keys or another password")
}

// unsent reports whether the file of an upload lies there that broke off before it was noted, and so before anything was sent.
func (d *desk) unsent() bool {
	_, err := d.home.loadXzibit(d.held.address, d.home.pending(d.held.address))
	return err == nil && d.held.password != nil
}

// adopted adopts what was pending. It may have been opened only in part: its file may be
// under another password than the one that was given.
func (d *desk) adopted(ctx context.Context, from string) error {
	_, err := d.adopt(ctx, d.home, d.held, from)
	if err == nil {
		d.dropEntry(ctx, d.home, d.held.address)
	}
	return err
}

// same reports whether the file that was kept by a version of this program that
// remembered no digests is the server's xzibit itself.
func (d *desk) same(from string) bool {
	x, err := d.home.loadXzibit(d.held.address, d.home.xzibit(d.held.address))
	return err == nil && digest(sha256.Sum256(x)).String() == from
}

// refresh fetches the keys of the account anew, since it has others by the device that
// was faster, and keeps them on this machine.
func (d *desk) refresh(ctx context.Context, p *peer, a *answer, why string) error {
	if d.held.adrift {
		return hint(fmt.Errorf("%s: %w", d.held.address, errMeanwhile), "Another device has changed its keys. Nothing was changed here; try again.")
	}
	d.note("%s %s: another device has changed it. The keys are fetched anew, with the password.", d.held.address, why)
	ring, password, x, err := d.unseal(ctx, p, a)
	if err != nil {
		return err
	}
	if err := d.succeeds(ctx, ring, a); err != nil {
		ring.Wipe()
		return err
	}
	d.held.ring, d.held.password = union(ring, d.held.ring.Keys), password
	d.held.from = digest(sha256.Sum256(x)).String()
	if d.held.version, err = xzibit.Version(x); err != nil {
		return err
	}
	if _, err := d.save(ctx, d.home, d.held, password); err != nil {
		return err
	}
	return d.settle(ctx, d.home, d.held)
}

// unseal fetches the keyring and opens it with the password; with another one, where
// there is a person to ask, when the one that opened the keys here does not.
func (d *desk) unseal(ctx context.Context, p *peer, a *answer) (ring *xzibit.Keyring, password, x []byte, err error) {
	if password, err = d.password(ctx, d.held.address); err != nil {
		return nil, nil, nil, err
	}
	if x, err = p.channel.Login(d.held.address); err != nil {
		return nil, nil, nil, err
	}
	if _, err = d.weigh(a, x); err != nil {
		return nil, nil, nil, err
	}
	ring, err = client.Open(p.channel, d.held.address, password, x)
	if errors.Is(err, xzibit.ErrPassword) {
		if password, err = d.anotherPassword(ctx, d.held.address); err != nil {
			return nil, nil, nil, hint(err, fmt.Sprintf("The password of %[1]s was changed on another device: give the one that it has now, here or to shorebird recover %[1]s", d.held.address))
		}
		ring, err = client.Open(p.channel, d.held.address, password, x)
	}
	if err != nil {
		err = fmt.Errorf("opening the keys of %s: %w", d.held.address, err)
	}
	return ring, password, x, err
}

// succeeds checks a keyring that was fetched in the place of the one that is held: it
// must end in the account's newest key, the way there must be one that the key held here
// has signed for, and no key on it may be missing that is held here.
func (d *desk) succeeds(ctx context.Context, ring *xzibit.Keyring, a *answer) error {
	if err := d.belongs(ctx, ring, a); err != nil {
		return err
	}
	held := d.held
	later, ok := published(a.history, held.ring.Keys[0])
	if !ok || slices.ContainsFunc(later, func(k crypt.SignedKey) bool { return k.Reset }) {
		return hint(fmt.Errorf("%s: %w: the account's newest key does not follow from the one on this machine", held.address, errWrongKey),
			fmt.Sprintf("If the account was reset, and you know of it: shorebird recover %s. Else ask the server's operator. Nothing was changed.", held.address))
	}
	for _, k := range held.ring.Keys {
		if _, ok := published(a.history, k); ok && find(ring, k.Key.Public()) == nil {
			return hint(fmt.Errorf("%s: %w: the keys that the server has lack one that is on this machine", held.address, errWrongKey),
				"Some mail could not be read any more with them, so nothing was changed. Look on your other devices, or ask the server's operator.")
		}
	}
	return nil
}

// published returns what a history says after a key, and whether it names that key.
func published(h *crypt.History, k xzibit.KeyPair) ([]crypt.SignedKey, bool) {
	return (&contact{Key: base64Key(k.Key.Public())}).since(h)
}

// desk returns the desk of an account whose keys are on this machine, and claimed.
func (r *run) desk(ctx context.Context, n *network, h home, a address.Address) (*desk, error) {
	d := &desk{run: r, network: n, home: h}
	if err := d.take(ctx, a); err != nil {
		d.release()
		return nil, err
	}
	return d, nil
}

// take claims the keys on this machine, and puts them on the desk.
func (d *desk) take(ctx context.Context, a address.Address) error {
	err := d.claim(ctx, a)
	if err != nil {
		return err
	}
	held, err := d.run.held(ctx, d.home, a)
	if errors.Is(err, xzibit.ErrPassword) {
		return d.catchUp(ctx, a, err)
	}
	if err == nil {
		d.held = held
	}
	return err
}

// catchUp puts the server's keys on the desk where the password is not the one of the
// keys on this machine, which was wrong then: another device may have changed it. The
// keys that do not open are kept aside.
func (d *desk) catchUp(ctx context.Context, addr address.Address, wrong error) error {
	a, err := d.lookup(ctx, addr)
	if err != nil {
		return err
	}
	x, err := d.fetchFrom(ctx, a)
	if errors.Is(err, xzibit.ErrPassword) {
		return wrong
	}
	if err != nil {
		return err
	}
	moved, _, err := d.saveFetched(ctx, x)
	if err != nil {
		d.held.ring.Wipe()
		return err
	}
	d.note("The password of %s was changed on another device; this machine has the keys under it now.", addr)
	if moved != "" {
		d.note("Those under the one before are kept in %s.", moved)
	}
	return nil
}
