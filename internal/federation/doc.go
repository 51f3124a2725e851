// Package federation meets the servers of other domains: it delivers to them what the
// queue has, asks them for keys, tells senders what could not be delivered, and judges
// what comes from them.
//
// It guarantees that nothing but KEYREQUEST is said to a server whose key is not trusted
// for its domain; that a domain which has spoken CMTP 1, or enforces it, gets no message
// without it; that whatever is handed on of another server was verified under a key that is
// trusted for its domain, and stands in its own words; that a server which is slow or
// hostile costs bounded time and memory; and that a report goes to a user of this server and
// nowhere else, once, and never about a report.
package federation

import (
	"errors"
	"fmt"

	"cmtpd/internal/address"
	"cmtpd/internal/queue"
	"cmtpd/internal/trust"
)

// Why a domain's servers cannot be spoken to. Each stands behind a *MeetError, beside
// those of package discovery.
var (
	// ErrOwn: the domain is one of this server's.
	ErrOwn = errors.New("the domain is this server's own")
	// ErrLoop: DNS leads back here, for a domain that is not ours.
	ErrLoop = errors.New("DNS names this server itself as the domain's, which it does not serve")
	// ErrNoCMTP: the domain's servers were heard, and offer no CMTP.
	ErrNoCMTP = errors.New("the other side takes no CMTP mail")
	// ErrDistrusted: its key, or how it is met, is not trusted now.
	ErrDistrusted = errors.New("the other side is not trusted now")
)

// A MeetError is why none of a domain's servers can be spoken to.
type MeetError struct {
	Domain  address.Domain
	Outcome queue.Outcome // Temporary, Permanent or Distrusted
	Verdict trust.Verdict // of Distrusted, where there was one
	Err     error
}

func (e *MeetError) Error() string { return fmt.Sprintf("meeting %s: %v", e.Domain, e.Err) }

// Unwrap returns Err.
func (e *MeetError) Unwrap() error { return e.Err }

// Temporary reports whether trying again later may help.
func (e *MeetError) Temporary() bool { return e.Outcome != queue.Permanent }

func meetError(d address.Domain, o queue.Outcome, err error) *MeetError {
	return &MeetError{Domain: d, Outcome: o, Err: err}
}
