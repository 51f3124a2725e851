package session

import (
	"context"
	"time"

	"cmtpd/internal/account"
	"cmtpd/internal/address"
	"cmtpd/internal/netbuf"
)

// Earned is what bytes read give their sender's deadline; no test can send as
// many as would overflow it.
var Earned = earned

// ServeInside serves c as if it were inside a channel. With a user, that one is proven
// and has shown the code of an invitation.
func (s *Server) ServeInside(ctx context.Context, c *netbuf.Conn, user *account.Account, code string) error {
	ses := s.newSession(c)
	ses.pipe = &netbuf.Conn{Conn: c.Conn, In: c.In, Client: c.Client, ID: c.ID}
	p := &part2{Server: s, client: client{c.Client.Addr(), c.ID}}
	if user != nil {
		p.user = &proof{user.ID, user.Address, user.Key}
		p.enrolled = &enrollment{user.Address, code}
	}
	ses.dialect = p
	return ses.run(ctx)
}

// MaxSuspects is how many accounts suspicions tell apart.
const MaxSuspects = maxSuspects

// Suspicions returns suspicions' isNews, with n for how many it keeps.
func Suspicions() func(at address.Address, now time.Time) (news bool, n int) {
	s := new(suspicions)
	return func(at address.Address, now time.Time) (bool, int) {
		news := s.isNews(at, now)
		return news, len(s.told)
	}
}

// MaxCharged is how many acquaintances an Abroad remembers.
const MaxCharged = maxCharged

// Meet is what a letter to a new domain counts.
func (a *Abroad) Meet(id account.ID, domain string) error {
	d, err := address.ParseDomain(domain)
	if err != nil {
		return err
	}
	return a.meet(id, d)
}

// Charged returns how many acquaintances are remembered.
func (a *Abroad) Charged() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.charged)
}
