package invite

import "cmtpd/internal/crypt"

// FromBits makes the code that New makes when it draws these 60 bits.
func FromBits(secret uint64, server crypt.PublicKey) Code {
	return newCode(secret, fingerprint(secret, server))
}

const MaxTyped = maxTyped
