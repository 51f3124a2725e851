package cache

import (
	"context"
	"crypto/sha256"
	"iter"

	"cmtpd/internal/client"
	"cmtpd/internal/cmtp"
)

// Digest is the SHA-256 of a message as the server stores it.
type Digest [sha256.Size]byte

// A Server is an open session of the account with its mailbox's server: a client.Channel after its Auth. Any
// error but those that stand in a result means that the session is over.
type Server interface {
	Mailbox() (cmtp.MailboxState, error)
	List(cmtp.ListQuery) (*cmtp.Page, error)
	Changes(cmtp.ChangesQuery) (*cmtp.Page, error)
	FetchAll(queries iter.Seq[cmtp.FetchQuery], each func(client.Fetched) error) error
	Flag([]cmtp.FlagItem) ([]cmtp.FlagResult, error)
	Delete(numbers []uint64) (removed int, err error)
	Wait(context.Context, cmtp.WaitQuery) (*cmtp.Page, error)
}

var _ Server = (*client.Channel)(nil)

// Scarce reports whether less than a fifth of a mailbox's room is left, which a user is told
// (docs/protocol.md section 27.1).
func Scarce(s *cmtp.MailboxState) bool { return s.Bytes > s.Quota-s.Quota/5 }
