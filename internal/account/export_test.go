package account

import "cmtpd/internal/address"

// KeptForResets is how many key statements a user cannot use up.
const KeptForResets = keptForResets

// InvitationID returns the ID of an address's invitation, on which wrong codes are
// charged, and whether there is one.
func (s *Store) InvitationID(addr address.Address) (ID, bool) {
	i := s.invitation(addr)
	if i == nil || !s.now().Before(i.Expires) {
		return ID{}, false
	}
	return i.ID, true
}
