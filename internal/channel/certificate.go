package channel

import (
	"crypto"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"math/big"
	"time"

	"cmtpd/internal/crypt"
)

// A signer lends a key to crypto/tls and crypto/x509 and copies nothing out of it.
type signer struct{ key *crypt.PrivateKey }

// Public returns the public half as an ed25519.PublicKey.
func (s signer) Public() crypto.PublicKey {
	pk := s.key.Public()
	return ed25519.PublicKey(pk[:])
}

// Sign signs msg itself. What asks for the signature of a digest asks for another
// scheme (RFC 8032 section 5.1.5), and is refused.
func (s signer) Sign(_ io.Reader, msg []byte, opts crypto.SignerOpts) ([]byte, error) {
	if opts.HashFunc() != crypto.Hash(0) {
		return nil, errors.New("channel: an identity key signs no digests")
	}
	sig := s.key.Sign(msg)
	return sig[:], nil
}

// Certificate returns the certificate that key's owner shows, in DER: the same
// bytes every time, since nothing in it is chosen and Ed25519 is deterministic.
// It is X.509 v3, self-signed, serial number 1, issuer and subject CN=CMTP, valid
// from 1970 for ever (RFC 5280 section 4.1.2.5), without extensions.
func Certificate(key *crypt.PrivateKey) ([]byte, error) {
	t := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "CMTP"},
		NotBefore:    time.Unix(0, 0).UTC(),
		NotAfter:     time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC),
	}
	s := signer{key}
	der, err := x509.CreateCertificate(nil, t, t, s.Public(), s)
	if err != nil {
		return nil, fmt.Errorf("making the certificate of the identity key: %w", err)
	}
	return der, nil
}

// serverKey returns the key in what a server showed. Nothing else in the
// certificate counts, its own signature included: that the server holds the key
// is what TLS proves.
func serverKey(state tls.ConnectionState) (crypt.PublicKey, error) {
	var none crypt.PublicKey
	if n := len(state.PeerCertificates); n != 1 {
		return none, fmt.Errorf("%w: it shows %d", ErrCertificate, n)
	}
	cert := state.PeerCertificates[0]
	raw, ok := cert.PublicKey.(ed25519.PublicKey)
	if !ok {
		return none, fmt.Errorf("%w: its key is %v", ErrCertificate, cert.PublicKeyAlgorithm)
	}
	// crypto/ed25519 verifies for keys of small order, which prove nothing.
	pk, err := crypt.ParsePublicKey(raw)
	if err != nil {
		return none, fmt.Errorf("%w: %w", ErrCertificate, err)
	}
	return pk, nil
}
