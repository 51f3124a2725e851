package account

import (
	"fmt"

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
	for _, own := range d.Domains {
		if own == parsed {
			return own, nil
		}
	}
	return address.Domain{}, fmt.Errorf("%s: %w", parsed, ErrForeign)
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
		if a, err := d.active(at); err == nil {
			return a, nil
		}
		next, ok := d.alias(at)
		if !ok {
			break
		}
		at = next
	}
	if at.Account.Base() == address.Postmaster {
		return d.operator()
	}
	if base := at.Account.Base(); base != at.Account {
		return d.active(address.Address{Account: base, Domain: at.Domain})
	}
	return nil, fmt.Errorf("%s: %w", at, ErrUnknown)
}

// alias returns what at stands for: itself first, then without its subaddress.
func (d *Directory) alias(at address.Address) (address.Address, bool) {
	if to, ok := d.Aliases[at]; ok {
		return to, true
	}
	to, ok := d.Aliases[address.Address{Account: at.Account.Base(), Domain: at.Domain}]
	return to, ok
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
	return d.active(at)
}
