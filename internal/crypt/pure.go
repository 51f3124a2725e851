//go:build !sodium

package crypt

func sign(key *[PrivateKeySize]byte, msg []byte) Signature { return pureSign(key, msg) }

func verify(pk PublicKey, msg []byte, sig Signature) bool { return pureVerify(pk, msg, sig) }

func toX25519(pk PublicKey) ([32]byte, error) { return pureToX25519(pk) }

func seal(dst, plaintext []byte, to *Recipient) ([]byte, error) { return pureSeal(dst, plaintext, to) }

func open(dst, box []byte, s *secret) ([]byte, error) { return pureOpen(dst, box, s) }
