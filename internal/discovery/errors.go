package discovery

import (
	"errors"
	"fmt"

	"cmtpd/internal/address"

	"github.com/miekg/dns"
)

// What a question to DNS can come to without data: four different things. Each
// stands behind an *Error, to be told apart with errors.Is.
var (
	ErrNoName  = errors.New("there is no such name in DNS")
	ErrNoData  = errors.New("the name has no record of this type in DNS")
	ErrRefused = errors.New("the resolver has no answer") // SERVFAIL, broken signatures, any other code
	ErrTimeout = errors.New("no resolver answers")
)

// What a domain can come to without servers.
var (
	ErrNoMail   = errors.New("the domain takes no mail") // null MX, RFC 7505
	ErrNoServer = errors.New("none of the domain's mail servers has an address")
	ErrUnusable = errors.New("the host has only addresses that no server for others can have (such as those of private networks, unless delivery.intranet is set)")
)

// An Error is why one question to DNS has no data, or why a domain has no
// servers: then Type is "".
type Error struct {
	Name string // what was looked up, without a final dot
	Type string // "MX", "A", "AAAA", "TXT", or ""
	Err  error  // wraps one of this package's, or the end of a context
}

// Error says what was looked up, and why in vain.
func (e *Error) Error() string {
	if e.Type == "" {
		return fmt.Sprintf("finding the servers of %s: %v", e.Name, e.Err)
	}
	return fmt.Sprintf("looking up %s of %s: %v", e.Type, e.Name, e.Err)
}

// Unwrap returns Err.
func (e *Error) Unwrap() error { return e.Err }

// Temporary reports whether it may be otherwise soon: everything but what DNS
// itself has said.
func (e *Error) Temporary() bool {
	for _, final := range []error{ErrNoName, ErrNoData, ErrNoMail, ErrNoServer, ErrUnusable} {
		if errors.Is(e.Err, final) {
			return false
		}
	}
	return true
}

// isTemporary reports whether err leaves it open whether there is something.
func isTemporary(err error) bool {
	e, ok := errors.AsType[*Error](err)
	return err != nil && (!ok || e.Temporary())
}

func questionError(name string, qtype uint16, err error) error {
	return &Error{Name: shown(name), Type: dns.TypeToString[qtype], Err: err}
}

func domainError(d address.Domain, err error) error { return &Error{Name: d.String(), Err: err} }

// shown returns a name of DNS as people write it.
func shown(name string) string {
	if len(name) > 1 && name[len(name)-1] == '.' {
		return name[:len(name)-1]
	}
	return name
}
