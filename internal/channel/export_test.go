package channel

import (
	"crypto"
	"crypto/tls"
)

// LendKey puts what wrap makes of the server's signer into its place.
func (s *Server) LendKey(wrap func(crypto.Signer) crypto.Signer) {
	c := &s.tls.Certificates[0]
	c.PrivateKey = wrap(c.PrivateKey.(crypto.Signer))
}

// State returns what crypto/tls knows of the channel.
func (c *Conn) State() tls.ConnectionState { return c.Conn.(*tls.Conn).ConnectionState() }
