//go:build sodium

package crypt

// LibsodiumToX25519 maps a public key as libsodium alone does it.
func LibsodiumToX25519(pk PublicKey) ([32]byte, bool) { return libsodiumToX25519(pk) }
