package checkup

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"cmtpd/internal/account"
	"cmtpd/internal/address"
	"cmtpd/internal/durable"
	"cmtpd/internal/xzibit"
)

// users compares the accounts with what the configuration says of names and keys.
func (c *checkup) users(context.Context) []Finding {
	store, err := account.Read(c.cfg.AccountsDir(), durable.OS)
	if err != nil {
		return problem(err.Error(), c.asOwner(err, "restore it from a backup: cmtpd does not start with an account that it cannot read"))
	}
	all, err := store.List()
	if err != nil {
		return problem(err.Error(), "")
	}
	names := &account.Directory{Store: store, Domains: c.cfg.Domains, Aliases: c.cfg.Aliases, Postmaster: c.cfg.Postmaster}
	return slices.Concat(c.olderKeys(all), c.shadows(store), c.postmaster(names))
}

// olderKeys finds whose keys are of a form that accounts.plain_login gives to nobody.
func (c *checkup) olderKeys(all []*account.Account) []Finding {
	if c.cfg.Accounts.PlainLogin {
		return nil
	}
	var names []string
	for _, a := range all {
		if a.XzibitVersion() < xzibit.Unlocked {
			names = append(names, a.Address.String())
		}
	}
	if len(names) == 0 {
		return nil
	}
	return []Finding{{Note: true, Text: "with accounts.plain_login off, these cannot fetch their keys, which are of the older form, on a new device: " + some(names),
		Remedy: "let each run shorebird passwd on a device that has the keys; who has none is helped by cmtpd user invite --reset"}}
}

// shadows finds names that are both an alias and an account.
func (c *checkup) shadows(store *account.Store) (found []Finding) {
	aliases := slices.SortedFunc(maps.Keys(c.cfg.Aliases), func(a, b address.Address) int { return strings.Compare(a.String(), b.String()) })
	for _, alias := range aliases {
		a, err := store.Get(alias)
		if err != nil {
			continue
		}
		text := fmt.Sprintf("%s is an alias of %s, and an account too, which gets the mail", alias, c.cfg.Aliases[alias])
		if a.Disabled {
			text = fmt.Sprintf("%s is an alias of %s, which gets the mail, and an account too, which is disabled", alias, c.cfg.Aliases[alias])
		}
		found = append(found, Finding{Text: text, Remedy: "take the alias out of the configuration, or remove the account"})
	}
	return found
}

// postmaster finds for which domains nobody gets what is written to the postmaster, which
// every domain has to have somebody for (RFC 5321 section 4.5.1).
func (c *checkup) postmaster(names *account.Directory) (found []Finding) {
	var nobody []string
	for _, d := range c.cfg.Domains {
		a, err := names.Resolve(address.Postmaster.String(), d.String())
		switch {
		case err != nil:
			found = append(found, Finding{Text: fmt.Sprintf("mail to postmaster@%s is refused: %v", d, err),
				Remedy: "invite that user (cmtpd user invite), or let postmaster, or the alias of that name, lead to one who is there and not disabled"})
		case a == nil:
			nobody = append(nobody, d.String())
		}
	}
	if nobody != nil {
		found = append(found, Finding{Note: true, Text: "nobody gets the mail to postmaster at " + some(nobody) + ": it stays in the operator's mailbox",
			Remedy: "name a user in postmaster, or look with cmtpd spool list --operator"})
	}
	return found
}
