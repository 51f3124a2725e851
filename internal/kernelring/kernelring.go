// Package kernelring keeps secrets in the memory of the Linux kernel, for a user of the machine and for a while
// (keyrings(7)).
//
// It guarantees that a secret is never written anywhere, and that the kernel itself forgets it at its time, whatever becomes of
// the process that gave it: it has that time before anybody can find it. All processes of the user can read it, root can, and
// nobody else. It outlives a log-out, and no reboot.
package kernelring

import (
	"encoding/binary"
	"errors"
	"time"
)

// Errors of a Ring.
var (
	ErrNotFound = errors.New("the kernel keeps no such secret")
	// ErrUnavailable is of a system without it, and of a container or a sandbox that refuses it.
	ErrUnavailable = errors.New("the kernel keeps no secrets here")
)

// MaxSecret is how many bytes a secret may have. The kernel allows a user 20,000 of all keys together, unless it is told
// otherwise (/proc/sys/kernel/keys/maxbytes), and counts names, too.
const MaxSecret = maxPayload - timeSize

const (
	maxPayload = 1<<15 - 1 // of keys of the type user
	timeSize   = 8
)

// A Ring is the kernel's, of the user whom the process runs as. The zero one is ready.
type Ring struct{}

// encode returns what a key has: the time at which it is forgotten, in seconds, big endian, since the kernel does not say; then the secret.
func encode(secret []byte, until time.Time) []byte {
	b := make([]byte, 0, timeSize+len(secret))
	b = binary.BigEndian.AppendUint64(b, uint64(until.Unix()))
	return append(b, secret...)
}

// decode returns what is in a key; the secret is a part of it.
func decode(b []byte, now time.Time) (secret []byte, until time.Time, err error) {
	if len(b) < timeSize {
		return nil, time.Time{}, ErrNotFound // of another program
	}
	until = time.Unix(int64(binary.BigEndian.Uint64(b)), 0)
	if !now.Before(until) {
		return nil, time.Time{}, ErrNotFound
	}
	return b[timeSize:], until, nil
}
