package discovery

import (
	"context"
	"errors"
	"fmt"

	"cmtpd/internal/address"

	"github.com/miekg/dns"
)

// ErrNotValidating is the error of a resolver that must not be declared trusted.
var ErrNotValidating = errors.New("the resolver does not validate DNSSEC, so dns.trusted must not be set for it")

// CheckValidation puts each resolver to the test, trusted or not: it has to vouch
// for the signed zone, and to refuse the one with broken signatures because they
// are broken (docs/protocol.md section 23.5). Nothing comes from memory. The error
// wraps ErrNotValidating; or it is an *Error, where nothing could be proved.
func (f *Finder) CheckValidation(ctx context.Context) error {
	for _, server := range f.resolver.servers() {
		if err := f.checkSigned(ctx, server); err != nil {
			return err
		}
		if err := f.checkBroken(ctx, server); err != nil {
			return err
		}
	}
	return nil
}

func (f *Finder) checkSigned(ctx context.Context, server string) error {
	m, err := f.resolver.try(ctx, server, newQuery(zoneQuestion(f.signed)))
	switch {
	case err != nil:
		return questionError(f.signed.String(), dns.TypeSOA, err)
	case len(m.Answer) == 0:
		return questionError(f.signed.String(), dns.TypeSOA, fmt.Errorf("%w: is dns.signed_zone a zone?", ErrNoData))
	case !m.AuthenticatedData:
		return fmt.Errorf("%w: %s does not vouch for the zone %s, which should be signed", ErrNotValidating, server, f.signed)
	}
	return nil
}

func (f *Finder) checkBroken(ctx context.Context, server string) error {
	query := newQuery(zoneQuestion(f.broken))
	m, err := f.resolver.converse(ctx, server, query)
	if err != nil {
		return questionError(f.broken.String(), dns.TypeSOA, fmt.Errorf("%w: %s: %w", ErrTimeout, server, err))
	}
	if m.Rcode != dns.RcodeServerFailure {
		return fmt.Errorf("%w: %s says %s for the zone %s, whose signatures should be broken, instead of refusing it",
			ErrNotValidating, server, codes(m), f.broken)
	}
	// One that cannot reach the zone says the same. CD tells them apart.
	query = newQuery(zoneQuestion(f.broken))
	query.CheckingDisabled = true
	m, err = f.resolver.try(ctx, server, query)
	if err == nil && (m.Rcode != dns.RcodeSuccess || len(m.Answer) == 0) {
		err = fmt.Errorf("%w: is dns.broken_zone a zone?", ErrNoData)
	}
	if err != nil {
		return questionError(f.broken.String(), dns.TypeSOA, fmt.Errorf("%w; so that %s refused it proves nothing", err, server))
	}
	return nil
}

func zoneQuestion(zone address.Domain) question {
	return question{dns.Fqdn(zone.String()), dns.TypeSOA}
}
