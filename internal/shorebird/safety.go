package shorebird

import (
	"bytes"
	"crypto/sha256"

	"cmtpd/internal/crypt"
	"cmtpd/internal/recovery"
)

const (
	safetyLabel = "CMTP-1 safety words\x00"
	// safetyRounds makes each try at two pairs of keys with the same words cost that much more
	// (docs/protocol.md section 29.4).
	safetyRounds = 1 << 16
)

// safetyWords returns twelve words that two people have in common exactly when each has the
// other's right key, in whichever order the keys are given.
func safetyWords(a, b crypt.PublicKey) string {
	if bytes.Compare(a[:], b[:]) > 0 {
		a, b = b, a
	}
	text := append(append([]byte(safetyLabel), a[:]...), b[:]...)
	sum := sha256.Sum256(text)
	for range safetyRounds - 1 {
		sum = sha256.Sum256(append(sum[:], text...))
	}
	return recovery.Spell([recovery.EntropySize]byte(sum[:]))
}
