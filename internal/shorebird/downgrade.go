package shorebird

import (
	"fmt"
	"slices"

	"cmtpd/internal/address"
	"cmtpd/internal/crypt"
	"cmtpd/internal/xzibit"
)

// weigh returns the version of an xzibit that a server has given for an account of the
// user's. One is refused, before a password is tried on it, that is of an older version
// than was met before, or of version 3 and cheaper than any honest program makes it: it
// is an old copy at best, and guesses at it are not counted, or cost little.
func (d *desk) weigh(a *answer, x []byte) (uint32, error) {
	version, err := xzibit.Version(x)
	if err != nil {
		return 0, err
	}
	cost, err := xzibit.ParamsOf(x)
	if err != nil {
		return 0, err
	}
	least := d.Least
	if least == (xzibit.Params{}) {
		least = xzibit.LeastParams()
	}
	if version == 3 && cost.Below(least) {
		return 0, hint(fmt.Errorf("%s: %w: %d passes over %d KiB, at least %d over %d are right", a.address, errCheap, cost.Time, cost.MemoryKiB, least.Time, least.MemoryKiB),
			"No honest program seals like this. Nothing was changed, and the password was not tried. Ask the server's operator by other means.")
	}
	known, err := newAccounts(d.home.data).load()
	if err != nil {
		return 0, err
	}
	was := known[a.address.String()]
	if version >= was.Version {
		return version, nil
	}
	anew, err := d.madeAnew(a, was)
	if err != nil || anew {
		return version, err
	}
	return 0, hint(fmt.Errorf("%s: %w: a downgrade from version %d to version %d", a.address, errDowngraded, was.Version, version),
		fmt.Sprintf("The server, or somebody in its place, gives out an old copy. Nothing was changed, and the password was not tried. Ask its operator by other means. "+
			"If the account was reset, and you know of it: shorebird keys %s --accept-new-key, and then again.", shellWord(a.address.String())))
}

// madeAnew reports whether the account was given keys that do not follow from the one
// that it had, and that the user knows of: what was met before says nothing then.
func (d *desk) madeAnew(a *answer, was knownAccount) (bool, error) {
	if follows(a, was.Key) {
		return false, nil
	}
	known, err := d.contacts.load()
	if err != nil {
		return false, err
	}
	name := address.Address{Account: a.address.Account.Base(), Domain: a.address.Domain}
	_, _, err = d.contacts.judge(known, name, a)
	return err == nil, nil
}

// follows reports whether the key of the answer is another, or one that it has signed for.
func follows(a *answer, key string) bool {
	if a.history == nil {
		return base64Key(a.key) == key
	}
	later, ok := (&contact{Key: key}).since(a.history)
	return ok && !slices.ContainsFunc(later, func(k crypt.SignedKey) bool { return k.Reset })
}
