package account

import (
	"fmt"
	"slices"

	"cmtpd/internal/address"
	"cmtpd/internal/config"
)

// A Directory tells whose mailbox a name on the wire means: an account, one of
// its aliases or subaddresses, the postmaster, or the server itself.
type Directory struct {
	// Store holds the accounts.
	Store *Store
	// Domains are the server's own; the first is meant where none is named.
	Domains []address.Domain
	// Aliases maps an address to the one that it stands for.
	Aliases map[address.Address]address.Address
	// Postmaster is whose mailbox takes the mail for the postmaster of every
	// domain that has no account of that name. Where it is zero, that mail is
	// the server's own, as mail for the empty account always is: it is sealed to
	// the server's key.
	Postmaster address.Address
}

// Domain returns the server's domain of that name as it stands on the wire, the
// first one for the empty name, or ErrForeign.
func (d *Directory) Domain(name string) (address.Domain, error) {
	if name == "" {
		return d.Domains[0], nil
	}
	parsed, err := address.ParseDomain(name)
	if err != nil {
		return address.Domain{}, err
	}
	if !slices.Contains(d.Domains, parsed) {
		return address.Domain{}, foreignError{parsed}
	}
	return parsed, nil
}

// A foreignError is ErrForeign for a domain. It is put into words only for who reads them: with
// every question for another server's key there is one, which is none to the asker.
type foreignError struct{ domain address.Domain }

func (e foreignError) Error() string { return fmt.Sprintf("%s: %v", e.domain, ErrForeign) }
func (e foreignError) Unwrap() error { return ErrForeign }

// CheckNew refuses the name of an account to be, or to be reset, that the Store cannot
// know to be wrong: one in a foreign domain (ErrForeign), and an alias, whose account nobody
// would mean (ErrReserved).
func (d *Directory) CheckNew(addr address.Address) error {
	if !slices.Contains(d.Domains, addr.Domain) {
		return fmt.Errorf("%w; the configuration's domains are %v", ErrForeign, d.Domains)
	}
	if to, ok := d.Aliases[addr]; ok {
		return fmt.Errorf("%w: the configuration makes it an alias of %s", ErrReserved, to)
	}
	return nil
}

// Resolve returns the account that takes mail for a name on the wire, and whose
// key is given for it. It returns a nil account without an error where that is
// the server itself: for the empty account, and for a postmaster that nobody
// was named as. An unknown and a disabled account are the same ErrUnknown.
func (d *Directory) Resolve(account, domain string) (*Account, error) {
	own, err := d.Domain(domain)
	if err != nil {
		return nil, err
	}
	if account == "" {
		return nil, nil
	}
	name, err := address.ParseAccount(account)
	if err != nil {
		return nil, err
	}
	at := address.Address{Account: name, Domain: own}
	for range config.MaxAliasDepth + 1 {
		a, to := d.step(at)
		if a != nil {
			return a, nil
		}
		if to.IsZero() {
			break
		}
		at = to
	}
	if at.Account.Base() == address.Postmaster {
		return d.operator()
	}
	return nil, fmt.Errorf("%s: %w", at, ErrUnknown)
}

// step returns the account of at, or else nil and what at is an alias of, or else
// both for at without its subaddress: bob+tag is whatever bob is.
func (d *Directory) step(at address.Address) (a *Account, to address.Address) {
	a, err := d.active(at)
	if err == nil {
		return a, to
	}
	if to = d.Aliases[at]; !to.IsZero() {
		return nil, to
	}
	if base := (address.Address{Account: at.Account.Base(), Domain: at.Domain}); base != at {
		return d.step(base)
	}
	return nil, to
}

func (d *Directory) operator() (*Account, error) {
	if d.Postmaster.IsZero() {
		return nil, nil
	}
	return d.active(d.Postmaster)
}

func (d *Directory) active(at address.Address) (*Account, error) {
	a, err := d.Store.Get(at)
	if err == nil && a.Disabled {
		return nil, fmt.Errorf("%s: %w", at, ErrUnknown)
	}
	return a, err
}

// Login returns the account that a LOGIN names: account, in the first domain,
// or account@domain. Aliases and subaddresses have no xzibit of their own.
func (d *Directory) Login(user string) (*Account, error) {
	at, err := address.Parse(user)
	if err != nil {
		name, err := address.ParseAccount(user)
		if err != nil {
			return nil, err
		}
		at = address.Address{Account: name, Domain: d.Domains[0]}
	}
	return d.Account(at)
}

// Account returns the account of exactly this address, as Login does.
func (d *Directory) Account(at address.Address) (*Account, error) {
	if !slices.Contains(d.Domains, at.Domain) {
		return nil, fmt.Errorf("%s: %w", at, ErrForeign)
	}
	return d.active(at)
}
