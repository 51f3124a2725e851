package session

import (
	"context"

	"cmtpd/internal/account"
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
