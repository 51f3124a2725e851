package shorebird

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"time"

	"cmtpd/internal/client"
	"cmtpd/internal/cmtp"
	"cmtpd/internal/crypt"
	"cmtpd/internal/oprf"
	"cmtpd/internal/xzibit"
)

// A revision is what a command makes of an account's keyring.
type revision struct {
	password []byte            // that it is sealed under from now on
	key      *xzibit.KeyPair   // new, in front of the others; nil: none
	recovery *crypt.PrivateKey // for a keyring without one; nil: none
	anew     bool              // the recovery key takes the place of one that there is
}

// sealed is a keyring as the server takes it.
type sealed struct {
	xzibit, copy []byte
	digest       digest
}

// sealFor seals a keyring for the server, whose function evaluate asks.
func (d *desk) sealFor(ring *xzibit.Keyring, password []byte, evaluate func(oprf.Element) (oprf.Element, error)) (s sealed, err error) {
	if s.xzibit, err = client.Seal(ring, d.held.address, password, d.params(), evaluate); err != nil {
		return s, err
	}
	if ring.Recovery != (crypt.PublicKey{}) {
		if s.copy, err = xzibit.SealCopy(ring, d.held.address.String()); err != nil {
			return s, fmt.Errorf("making the recovery copy: %w", err)
		}
	}
	s.digest = sha256.Sum256(s.xzibit)
	return s, nil
}

// upload replaces the account's keyring by what the revision makes of it. Where another
// device was first, its keyring is fetched and revised in its turn. It returns the
// history that the server answers with, and whether the desktop keyring has the keys.
func (d *desk) upload(ctx context.Context, rev revision) (*answer, bool, error) {
	var err error
	for range maxTries {
		var p *peer
		var a *answer
		if p, a, err = d.signIn(ctx); err != nil {
			return nil, false, err
		}
		var desktop bool
		if desktop, err = d.uploadOnce(ctx, p, a, rev); err == nil {
			return a, desktop, nil
		}
		// The proof does not outlive a new key from elsewhere (docs/protocol.md section 18).
		if !hasStatus(err, cmtp.StatusStale, cmtp.StatusNotProven) {
			return nil, false, err
		}
		d.drop(a.where)
	}
	return nil, false, hint(err, fmt.Sprintf("Another device was faster %d times. Wait until it is done, and try again.", maxTries))
}

// uploadOnce uploads one revision, and puts the history that answers it into a.
func (d *desk) uploadOnce(ctx context.Context, p *peer, a *answer, rev revision) (bool, error) {
	next, form, err := d.revise(p, a, rev)
	if err != nil {
		return false, err
	}
	s, err := d.sealFor(next.ring, rev.password, func(e oprf.Element) (oprf.Element, error) { return p.channel.Unlock(d.held.address, e) })
	if err != nil {
		return false, err
	}
	form.Xzibit, form.Copy = s.xzibit, s.copy
	if err := d.prepare(ctx, d.home, next, rev.password, s.digest); err != nil {
		return false, err
	}
	d.delivered = true
	h, err := p.channel.Upload(form)
	if err != nil {
		return false, d.refused(ctx, next, err)
	}
	p.used = d.now()
	return d.taken(ctx, next, a, h, s.digest, rev.password)
}

// revise returns the keys as they are to be, and the form that says so, still without
// what is sealed.
func (d *desk) revise(p *peer, a *answer, rev revision) (*holding, *cmtp.UploadForm, error) {
	ring := union(d.held.ring, nil)
	ring.Server = p.key
	if rev.recovery != nil && (rev.anew || ring.Recovery == (crypt.PublicKey{})) {
		ring.SetRecovery(rev.recovery)
	}
	form := &cmtp.UploadForm{}
	if b, err := base64.StdEncoding.DecodeString(d.held.from); err != nil || copy(form.Replaces[:], b) != len(form.Replaces) {
		return nil, nil, fmt.Errorf("the remembered state of %s is damaged: %q is no digest", d.held.address, d.held.from)
	}
	if rev.key != nil {
		before := find(ring, a.key)
		statement := a.history.Current().Follow(rev.key.Key.Public(), crypt.UnixTimeOf(d.now()))
		form.Statement = &statement
		form.OldSignature = before.Sign(statement.Append(nil))
		form.Possession = statement.Possess(rev.key.Key)
		rev.key.Made = statement.NotBefore.Time()
		ring.Keys = append([]xzibit.KeyPair{*rev.key}, ring.Keys...)
	}
	return &holding{address: d.held.address, ring: ring, from: d.held.from}, form, nil
}

// refused forgets what was prepared when the server has said that it does not take it.
// Where no answer came it stays: perhaps it was taken.
func (d *desk) refused(ctx context.Context, next *holding, err error) error {
	if isStatus(err) {
		d.delivered = false
		return errors.Join(err, d.discard(ctx, d.home, next))
	}
	return hint(err, "It is not known whether the server has taken the new keys. They are kept; the next command finds out.")
}

// taken keeps what the server has taken.
func (d *desk) taken(ctx context.Context, next *holding, a *answer, h *crypt.History, uploaded digest, password []byte) (bool, error) {
	desktop, err := d.adopt(ctx, d.home, next, uploaded.String())
	if err != nil {
		return desktop, err
	}
	next.password = password
	d.held = next
	a.history, a.key = h, h.Current().Key
	return desktop, d.contacts.meet(ctx, a, true)
}

// newKey makes a key pair.
func newKey(now time.Time) (*xzibit.KeyPair, error) {
	key, err := crypt.GenerateKey()
	if err != nil {
		return nil, fmt.Errorf("making a key: %w", err)
	}
	return &xzibit.KeyPair{Key: key, Made: now.UTC().Truncate(time.Second)}, nil
}
