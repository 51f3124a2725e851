package shorebird

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"cmtpd/internal/address"
	"cmtpd/internal/crypt"
	"cmtpd/internal/letter"
)

// AccountReport is what register, passwd, rotate and recover --words print with --json.
type AccountReport struct {
	KeysReport
	Keys     int    `json:"keys"`            // how many, old ones included
	Saved    string `json:"saved"`           // file
	Moved    string `json:"moved,omitempty"` // where other keys that were there before are now
	Keyring  bool   `json:"keyring"`         // whether the desktop keyring has the keys, too
	Recovery bool   `json:"recovery"`        // whether there is a recovery key
	Reset    bool   `json:"reset,omitempty"` // whether the account existed, and was given other keys
	// RecoveryWords are secret, and never printed again.
	RecoveryWords string `json:"recovery_words,omitempty"`
}

// reportAccount tells what was done to the account at the desk.
func (d *desk) reportAccount(a *answer, v AccountReport, done string) error {
	v.KeysReport = a.report()
	v.Keys, v.Saved = len(d.held.ring.Keys), d.home.xzibit(d.held.address)
	v.Recovery = d.held.ring.Recovery != crypt.PublicKey{}
	if v.Moved != "" {
		d.note("Other keys of %s were on this machine; they are kept in %s.", d.held.address, v.Moved)
	}
	return d.report(v, func(out *bytes.Buffer) {
		rows := [][2]string{
			{done, v.Address}, {"key", v.Key}, {"fingerprint", v.Fingerprint},
			{"keys", fmt.Sprintf("%d, old ones included", v.Keys)},
			{"server", letter.Line(v.Server)}, {"server fingerprint", v.ServerFingerprint}, {"trust", a.trust.words()},
			{"saved", v.place()}, {"recovery key", map[bool]string{true: "yes", false: "none: a forgotten password is the end of all mail"}[v.Recovery]},
		}
		table(out, rows)
	})
}

// introduce says what to write into the configuration, so that an account that it does not name is found without
// --account and --server. The file is the user's: it is never written here.
func (d *desk) introduce(a address.Address, server string) {
	s := d.network.settings
	if _, named := s.Accounts[a.String()]; named || s.Account == a {
		return
	}
	lines := fmt.Sprintf("\n    [accounts.%q]\n    server = %q", a, server)
	if s.Account.IsZero() {
		switch s.Server {
		case "":
			lines = fmt.Sprintf("\n    server = %q", server)
		case server:
			lines = ""
		}
		lines = fmt.Sprintf("\n    account = %q", a) + lines
	}
	d.note("\nSo that shorebird finds this account and its server by itself, write into\n%s\n%s", d.home.config, lines)
}

func (v *AccountReport) place() string {
	s := fmt.Sprintf("%s, sealed under your password", v.Saved)
	if v.Keyring {
		s += "; and in the desktop keyring"
	}
	return s
}

// ownAccount returns the account that a command on one's own keys is about.
func (r *run) ownAccount(args []string, s *settings) (address.Address, error) {
	addr := s.Account
	if len(args) > 0 {
		var err error
		if addr, err = address.Parse(args[0]); err != nil {
			return addr, err
		}
	}
	if addr.IsZero() {
		return addr, hint(errNoAccount, "Name it, or set account in the configuration file.")
	}
	addr.Account = addr.Account.Base()
	return addr, nil
}

// ownDesk returns the desk of an account: with the keys on this machine, or where there
// are none with those that the server has.
func (r *run) ownDesk(ctx context.Context, n *network, h home, addr address.Address) (*desk, error) {
	if h.hasKeys(addr) {
		return r.desk(ctx, n, h, addr)
	}
	d := &desk{run: r, network: n, home: h}
	if err := d.claim(ctx, addr); err != nil {
		return nil, err
	}
	if _, _, err := d.fetch(ctx, addr); err != nil {
		d.release()
		return nil, err
	}
	return d, nil
}

// atDesk has a command done with the user's own account that it is about, signed in, and
// claimed on this machine until it is done.
func (r *run) atDesk(ctx context.Context, args []string, do func(d *desk, p *peer, a *answer) error) error {
	n, h, err := r.network()
	if err != nil {
		return err
	}
	defer n.close()
	addr, err := r.ownAccount(args, n.settings)
	if err != nil {
		return err
	}
	d, err := r.ownDesk(ctx, n, h, addr)
	if err != nil {
		return err
	}
	defer d.release()
	defer d.held.ring.Wipe()
	p, a, err := d.signIn(ctx)
	if err != nil {
		return err
	}
	return do(d, p, a)
}

type passwdOptions struct {
	noRecovery, newRecovery bool
}

// passwd gives the account another password. It also brings what is older up to date:
// an xzibit of an older version, and a keyring without a recovery key.
func (r *run) passwd(ctx context.Context, args []string, o passwdOptions) error {
	return r.atDesk(ctx, args, func(d *desk, _ *peer, a *answer) (err error) {
		d.drop(a.where) // before a person is asked, who may take any time
		rev := revision{anew: o.newRecovery}
		if rev.password, err = r.newPassword(ctx, d.held.address, 1); err != nil {
			return err
		}
		var v AccountReport
		if o.newRecovery || d.held.ring.Recovery == (crypt.PublicKey{}) && !o.noRecovery {
			if rev.recovery, v.RecoveryWords, err = r.recoveryKey(ctx); err != nil {
				return err
			}
		}
		if a, v.Keyring, err = d.upload(ctx, rev); err != nil {
			return d.worthless(err, rev.recovery != nil)
		}
		return d.reportAccount(a, v, "new password for")
	})
}

// worthless says of the words of a recovery key that was made, and shown to a person, that
// they count for nothing, unless the server may have what was sealed to it.
func (d *desk) worthless(err error, made bool) error {
	if err == nil || !made || d.json || d.delivered {
		return err
	}
	return fmt.Errorf("the words above count for nothing: %w", err)
}

// rotate gives the account a new key, which the one before signs for.
func (r *run) rotate(ctx context.Context, args []string) error {
	return r.atDesk(ctx, args, func(d *desk, p *peer, a *answer) error {
		// The keys are sealed anew, so the password has to be the right one.
		ring, password, _, err := d.unseal(ctx, p, a)
		if err != nil {
			return err
		}
		ring.Wipe()
		rev := revision{password: password}
		if rev.key, err = newKey(r.Now()); err != nil {
			return err
		}
		p.used = d.now()
		var v AccountReport
		if a, v.Keyring, err = d.upload(ctx, rev); err != nil {
			return err
		}
		return d.reportAccount(a, v, "new key for")
	})
}

var errPasswordsDiffer = errors.New("the two passwords differ")
