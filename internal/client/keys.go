package client

import (
	"fmt"

	"cmtpd/internal/address"
	"cmtpd/internal/oprf"
	"cmtpd/internal/xzibit"
)

// Unseal fetches the xzibit of an account and opens it with its password, where it is
// of version 3 with the server's help. It returns the keyring, for the caller to wipe,
// and the xzibit. It wraps what the xzibit's opening does; xzibit.ErrPassword may also
// mean that the server has not helped as it should.
func Unseal(c *Channel, name address.Address, password []byte) (*xzibit.Keyring, []byte, error) {
	x, err := c.Login(name)
	if err != nil {
		return nil, nil, err
	}
	ring, err := Open(c, name, password, x)
	if err != nil {
		return nil, nil, fmt.Errorf("opening the keys of %s: %w", name, err)
	}
	return ring, x, nil
}

// Open opens an xzibit that was fetched before, as Unseal does.
func Open(c *Channel, name address.Address, password, x []byte) (*xzibit.Keyring, error) {
	version, err := xzibit.Version(x)
	if err != nil {
		return nil, err
	}
	if version < 3 {
		return xzibit.Open(x, name.String(), password)
	}
	output, err := unlock(password, func(e oprf.Element) (oprf.Element, error) { return c.Unlock(name, e) })
	if err != nil {
		return nil, err
	}
	defer clear(output)
	return xzibit.OpenUnlocked(x, name.String(), password, output)
}

// Seal returns a keyring as an xzibit of version 3 for the password. evaluate is how the
// server is asked: Unlock of a user who is proven, or Enroll.
func Seal(ring *xzibit.Keyring, name address.Address, password []byte, p xzibit.Params,
	evaluate func(oprf.Element) (oprf.Element, error)) ([]byte, error) {
	output, err := unlock(password, evaluate)
	if err != nil {
		return nil, err // of asking, not of sealing
	}
	defer clear(output)
	x, err := xzibit.SealUnlocked(ring, name.String(), password, output, p)
	if err != nil {
		return nil, fmt.Errorf("sealing the keys of %s: %w", name, err)
	}
	return x, nil
}

// unlock returns what the server's function makes of a password that it does not see,
// for the caller to wipe.
func unlock(password []byte, evaluate func(oprf.Element) (oprf.Element, error)) ([]byte, error) {
	input, err := xzibit.UnlockInput(password)
	if err != nil {
		return nil, err
	}
	defer clear(input)
	return oprf.Ask(input, evaluate)
}
