package spool

import (
	"fmt"

	"cmtpd/internal/crypt"
)

// predecessor returns the key that has to vouch for those that the spool is opened with: the
// identity that the chain ends with, which may be one that the server had before.
func (s *Spool) predecessor() (*crypt.PrivateKey, error) {
	was, own := s.chain.keys.identity, s.options.Identity
	if !s.chain.known || was == own.Public() {
		return own, nil
	}
	if s.options.Former == nil {
		return nil, fmt.Errorf("%w: %s", ErrIdentity, was)
	}
	former, err := s.options.Former(was)
	if err != nil {
		return nil, fmt.Errorf("%w: %s, and if the server had it before: %w", ErrIdentity, was, err)
	}
	if former.Public() != was {
		return nil, fmt.Errorf("%w: %s, and the former key that was given is %s", ErrIdentity, was, former.Public())
	}
	return former, nil
}

// Identity returns the server's key that the chain ends with.
func (s *Spool) Identity() crypt.PublicKey {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.chain.keys.identity
}
