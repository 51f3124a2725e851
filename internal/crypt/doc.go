// Package crypt is crypto system 1 (protocol.md section 4): Ed25519 keys and
// signatures, sealed boxes to the X25519 form of those keys, and the statements
// that keys sign.
//
// It guarantees libsodium's verdicts and libsodium's bytes: what
// crypto_sign_verify_detached, crypto_sign_ed25519_pk_to_curve25519 and
// crypto_box_seal_open accept is accepted, all else is refused, and either side
// opens and verifies what the other one made. Secrets never print themselves.
// There are no files, no clock and no logging here.
//
// The package has two builds with the same API. The default one is pure Go. With
// the build tag sodium, single keys, signatures and boxes go through libsodium
// itself; streams stay in Go, since libsodium has no streaming form of a sealed
// box. The pure functions are compiled in both, so that a test can hold one
// against the other.
//
// A signature covers exactly the bytes that it is given, as CMTP 0.01 demands. What
// must not be mistaken for something else is a statement of CMTP 1: a value with a
// label, one encoding, and a decoder that refuses everything but that encoding
// (docs/protocol.md section 17). They are here, beside the keys that sign them:
// KeyStatement and History, Rotation, Receipt, Origin, Sender, Proof.
package crypt
