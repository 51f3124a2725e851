package session

import (
	"fmt"
	"sync"
	"time"

	"cmtpd/internal/account"
	"cmtpd/internal/address"
	"cmtpd/internal/limit"
)

// AbroadLimits bound what one account has this server do at other domains: limits.lookup_rate and limits.new_domains_rate. All
// must be positive.
type AbroadLimits struct {
	Lookups, LookupBurst       int // questions to other servers: a minute, and at once
	NewDomains, NewDomainBurst int // domains that were not met before, or not for mail: an hour, and at once
}

// DefaultAbroad are those of the configuration.
var DefaultAbroad = AbroadLimits{Lookups: 60, LookupBurst: 600, NewDomains: 10, NewDomainBurst: 1000}

// An Abroad counts for every account what AbroadLimits bound: whoever has a domain chooses what this server connects to when it is looked
// up, and who has many chooses what it remembers.
type Abroad struct {
	now       func() time.Time
	questions *limit.Budget[account.ID]
	domains   *limit.Budget[account.ID]

	mu      sync.Mutex
	charged map[acquaintance]time.Time // under mu: what an account was charged for, and until when it is free
}

type acquaintance struct {
	id     account.ID
	domain address.Domain
}

const (
	freeFor    = 24 * time.Hour // the same domain for the same account
	maxCharged = 1 << 16        // who is forgotten is charged again
)

// NewAbroad returns one that has counted nothing.
func NewAbroad(l AbroadLimits, now func() time.Time) *Abroad {
	return &Abroad{now: now, charged: make(map[acquaintance]time.Time),
		questions: limit.NewBudget[account.ID](l.Lookups, l.LookupBurst, time.Minute, now),
		domains:   limit.NewBudget[account.ID](l.NewDomains, l.NewDomainBurst, time.Hour, now)}
}

// SetLimits has l count from now on.
func (a *Abroad) SetLimits(l AbroadLimits) {
	a.questions.Set(l.Lookups, l.LookupBurst)
	a.domains.Set(l.NewDomains, l.NewDomainBurst)
}

// ask counts a question to a domain's server, which may have been met before.
func (a *Abroad) ask(id account.ID, d address.Domain, met bool) error {
	if wait := a.questions.TakeAll(id, 1); wait > 0 {
		return &overspent{LookupRate, wait}
	}
	if met {
		return nil
	}
	if err := a.meet(id, d); err != nil {
		a.questions.GiveBack(id, 1)
		return err
	}
	return nil
}

// meet counts that a domain is to be met which was not met before, or not to be given mail.
func (a *Abroad) meet(id account.ID, d address.Domain) error {
	who, now := acquaintance{id, d}, a.now()
	a.mu.Lock()
	defer a.mu.Unlock()
	if now.Before(a.charged[who]) {
		return nil
	}
	if wait := a.domains.TakeAll(id, 1); wait > 0 {
		return &overspent{NewDomainsRate, wait}
	}
	if len(a.charged) >= maxCharged {
		a.makeRoom(now)
	}
	a.charged[who] = now.Add(freeFor)
	return nil
}

// makeRoom forgets one that chance chooses, and of a few more those whose time is over. It is called under mu.
func (a *Abroad) makeRoom(now time.Time) {
	const looks = 16
	left := looks
	for who, until := range a.charged {
		if left == looks || !now.Before(until) {
			delete(a.charged, who)
		}
		if left--; left == 0 {
			return
		}
	}
}

// An overspent is that an account has used what it may for now.
type overspent struct {
	limit Limit
	wait  time.Duration
}

func (o *overspent) Error() string {
	return fmt.Sprintf("the account has used up limits.%s for %s", o.limit, o.left())
}

// left is rounded up: who waits for as long as it says is not refused again.
func (o *overspent) left() time.Duration { return (o.wait + time.Second - 1).Truncate(time.Second) }

// text says it to the user.
func (o *overspent) text() string {
	return fmt.Sprintf("You have %s as an account may for now. Try again in %v.", spendings[o.limit], o.left())
}

// spendings say of what there was too much.
var spendings = map[Limit]string{
	LookupRate:     "asked other servers for as many keys",
	NewDomainsRate: "written to, or asked for keys of, as many domains that are new to this server",
	MailRate:       "sent as many messages",
	MailPerDay:     "sent as much",
}
