package shorebird

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"cmtpd/internal/address"
	"cmtpd/internal/crypt"
	"cmtpd/internal/durable"
	"cmtpd/internal/xzibit"
)

// digest is SHA-256 of an xzibit that a server has, by which it says whether a copy of
// the keys is up to date. The zero digest is none.
type digest [sha256.Size]byte

// accounts are what is known of the user's own accounts' keys on this machine. The keys
// are in ADDRESS.xzibit, and opened in the desktop keyring where there is one; the file
// decides, so an entry that came from another xzibit than the file is not looked at.
type accounts struct{ memory[knownAccount] }

// A knownAccount is what is remembered of an account of the user.
type knownAccount struct {
	Xzibit  string `json:"xzibit"`            // base64, digest of the server's that the file was made from
	Pending string `json:"pending,omitempty"` // base64, digest of the one that is being uploaded
	// Version is that of the server's newest xzibit that was met, and Key, in base64, the
	// account's at that time.
	Version uint32 `json:"version,omitempty"`
	Key     string `json:"key,omitempty"`
}

func newAccounts(dir string) accounts {
	return accounts{memory[knownAccount]{dir, "accounts", "state of your accounts", "the keys are compared with the server's again"}}
}

func (d digest) String() string {
	if d == (digest{}) {
		return ""
	}
	return base64.StdEncoding.EncodeToString(d[:])
}

// parseDigest is the inverse of String; what is none is the zero one.
func parseDigest(text string) digest {
	b, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(b) != len(digest{}) {
		return digest{}
	}
	return digest(b)
}

// A holding is an account's keys on this machine, opened.
type holding struct {
	address address.Address
	ring    *xzibit.Keyring
	from    string // digest of the server's xzibit that they are from; "" when unknown
	pending string // digest of one that was perhaps uploaded
	version uint32 // of the server's xzibit, when it was met just now; 0: it was not
	// password is what opened them; nil when the desktop keyring or the kernel did.
	password []byte
	// adrift says that the server's xzibit is not to be opened but replaced: the keys are
	// from the recovery copy.
	adrift bool
}

// has reports whether the ring has all of these keys.
func has(ring *xzibit.Keyring, keys []xzibit.KeyPair) bool {
	return !slices.ContainsFunc(keys, func(k xzibit.KeyPair) bool { return find(ring, k.Key.Public()) == nil })
}

// find returns the secret half of a key; nil when the ring has it not.
func find(ring *xzibit.Keyring, key crypt.PublicKey) *crypt.PrivateKey {
	for _, k := range ring.Keys {
		if k.Key.Public() == key {
			return k.Key
		}
	}
	return nil
}

// union returns ring with those keys added that only other has, the newest first but
// for the one that leads ring.
func union(ring *xzibit.Keyring, other []xzibit.KeyPair) *xzibit.Keyring {
	all := *ring
	all.Keys = slices.Clone(ring.Keys)
	for _, k := range other {
		if find(&all, k.Key.Public()) == nil {
			all.Keys = append(all.Keys, k)
		}
	}
	slices.SortStableFunc(all.Keys[1:], func(a, b xzibit.KeyPair) int { return b.Made.Compare(a.Made) })
	return &all
}

// held opens the keys of a that are on this machine, those of an upload that was cut
// short included. It asks for the password unless the desktop keyring or the kernel has them.
func (r *run) held(ctx context.Context, h home, a address.Address) (*holding, error) {
	s, err := h.sealed(a)
	if err != nil {
		return nil, err
	}
	if s.pending == nil {
		ring, from := r.entry(ctx, a)
		if ring == nil || from.String() != s.from {
			ring, from, _ = r.unlocked(h, a)
		}
		if ring != nil && from.String() == s.from {
			s.ring = ring
			return &s.holding, nil
		}
	}
	if err := r.openSealed(ctx, h, s); err != nil {
		return nil, err
	}
	return &s.holding, nil
}

// A sealedHolding is what an account's keys on this machine are opened from.
type sealedHolding struct {
	holding              // without the ring, until it is opened
	main, pending []byte // one may be nil
}

// sealed returns the keys of a that are on this machine, as they lie there.
func (h home) sealed(a address.Address) (*sealedHolding, error) {
	known, err := newAccounts(h.data).load()
	if err != nil {
		return nil, err
	}
	k := known[a.String()]
	// In this order: who holds no claim then misses nothing that is renamed in between.
	pending, perr := h.loadXzibit(a, h.pending(a))
	main, err := h.loadXzibit(a, h.xzibit(a))
	switch {
	case err != nil && !errors.Is(err, errNoKeys):
		return nil, err
	case perr != nil && !errors.Is(perr, errNoKeys):
		return nil, perr
	case err != nil && perr != nil:
		return nil, err
	}
	return &sealedHolding{holding{address: a, from: k.Xzibit, pending: k.Pending}, main, pending}, nil
}

// openSealed opens keys with the password.
func (r *run) openSealed(ctx context.Context, h home, s *sealedHolding) (err error) {
	if s.password, err = r.password(ctx, s.address); err != nil {
		return err
	}
	if s.ring, err = openEither(s.address, s.password, s.main, s.pending); err != nil {
		err = fmt.Errorf("opening the keys of %s: %w", s.address, err)
		if errors.Is(err, xzibit.ErrPassword) {
			err = hint(err, fmt.Sprintf("Type it again with care. If another device has changed it: shorebird recover %s", s.address))
		}
		return err
	}
	if from := parseDigest(s.from); s.pending == nil && from != (digest{}) { // the desktop had lost them
		r.setEntry(ctx, h, s.address, s.ring, from)
	}
	return nil
}

// openEither opens what the password opens of the two, one of which may be missing. An
// upload that changed the password left each under another.
func openEither(a address.Address, password, main, pending []byte) (*xzibit.Keyring, error) {
	var ring *xzibit.Keyring
	var err error
	for _, x := range [][]byte{main, pending} {
		if x == nil {
			continue
		}
		k, kerr := xzibit.Open(x, a.String(), password)
		switch {
		case kerr != nil && !errors.Is(kerr, xzibit.ErrPassword):
			return nil, kerr
		case kerr != nil:
			err = kerr
		case ring == nil:
			ring = k
		default:
			ring = union(ring, k.Keys)
		}
	}
	if ring == nil {
		return nil, err
	}
	return ring, nil
}

// save keeps an account's keys, which came from an xzibit of the server's with this
// digest: sealed under the password in the file, and opened in the desktop keyring. It
// reports whether the desktop has them.
//
//	ADDRESS.xzibit, then accounts.json: a crash in between leaves a digest that is not
//	the server's, and so the keys are fetched again
func (r *run) save(ctx context.Context, h home, held *holding, password []byte) (desktop bool, err error) {
	x, err := xzibit.Seal(held.ring, held.address.String(), password, r.params())
	if err != nil {
		return false, fmt.Errorf("sealing the keys of %s: %w", held.address, err)
	}
	if err := durable.WriteFile(durable.OS, h.xzibit(held.address), x, 0o600); err != nil {
		return false, fmt.Errorf("saving the keys of %s: %w", held.address, err)
	}
	return r.record(ctx, h, held)
}

// record remembers where the keys in the file are from, and puts them into the desktop
// keyring.
func (r *run) record(ctx context.Context, h home, held *holding) (desktop bool, err error) {
	err = newAccounts(h.data).change(ctx, func(known map[string]knownAccount) error {
		k := known[held.address.String()]
		k.Xzibit = held.from
		if held.version != 0 {
			k.Version, k.Key = held.version, base64Key(held.ring.Keys[0].Key.Public())
		}
		known[held.address.String()] = k
		return nil
	})
	if err != nil {
		return false, err
	}
	from := parseDigest(held.from)
	return from != digest{} && r.setEntry(ctx, h, held.address, held.ring, from), nil
}

// uploadedVersion is that of the xzibits that this program gives to servers.
const uploadedVersion = 3

func (r *run) params() xzibit.Params {
	if r.Params != (xzibit.Params{}) {
		return r.Params
	}
	return xzibit.DefaultParams()
}

// prepare keeps keys that are about to be uploaded, so that none is lost when the answer
// does not come.
//
//	ADDRESS.xzibit.pending, then accounts.json
func (r *run) prepare(ctx context.Context, h home, held *holding, password []byte, uploaded digest) error {
	x, err := xzibit.Seal(held.ring, held.address.String(), password, r.params())
	if err != nil {
		return fmt.Errorf("sealing the keys of %s: %w", held.address, err)
	}
	if err := durable.WriteFile(durable.OS, h.pending(held.address), x, 0o600); err != nil {
		return fmt.Errorf("saving the new keys of %s: %w", held.address, err)
	}
	return r.setPending(ctx, h, held.address, uploaded.String())
}

func (r *run) setPending(ctx context.Context, h home, a address.Address, uploaded string) error {
	return newAccounts(h.data).change(ctx, func(known map[string]knownAccount) error {
		k := known[a.String()]
		k.Pending = uploaded
		known[a.String()] = k
		return nil
	})
}

// adopt makes what was pending, and is the server's now, the account's keys.
//
//	rename ADDRESS.xzibit.pending to ADDRESS.xzibit, then accounts.json
func (r *run) adopt(ctx context.Context, h home, held *holding, uploaded string) (desktop bool, err error) {
	if err := durable.Publish(durable.OS, h.pending(held.address), h.xzibit(held.address)); err != nil {
		return false, fmt.Errorf("saving the new keys of %s: %w", held.address, err)
	}
	held.from, held.pending, held.version = uploaded, "", uploadedVersion
	if desktop, err = r.record(ctx, h, held); err != nil {
		return desktop, err
	}
	return desktop, r.setPending(ctx, h, held.address, "")
}

// discard forgets what was pending, once the server has refused it.
func (r *run) discard(ctx context.Context, h home, held *holding) error {
	if err := h.remove(h.pending(held.address)); err != nil {
		return err
	}
	held.pending = ""
	return r.setPending(ctx, h, held.address, "")
}

// settle decides what becomes of keys that were pending, once the server's xzibit is
// another one: what is in held already is not needed twice, all else is kept aside.
func (r *run) settle(ctx context.Context, h home, held *holding) error {
	path := h.pending(held.address)
	x, err := durable.ReadFile(durable.OS, path, xzibit.MaxSize)
	if errors.Is(err, fs.ErrNotExist) {
		held.pending = ""
		return r.setPending(ctx, h, held.address, "")
	}
	if err != nil {
		return fmt.Errorf("looking at keys that were not uploaded: %w", err)
	}
	if ring, err := xzibit.Open(x, held.address.String(), held.password); err == nil {
		same := has(held.ring, ring.Keys)
		ring.Wipe()
		if same {
			return r.discard(ctx, h, held)
		}
	}
	kept := aside(path, r.Now())
	if err := durable.Publish(durable.OS, path, kept); err != nil {
		return fmt.Errorf("moving keys that were not uploaded: %w", err)
	}
	r.note("An upload of keys of %s was cut short and did not take place; they are kept in %s.", held.address, kept)
	held.pending = ""
	return r.setPending(ctx, h, held.address, "")
}
